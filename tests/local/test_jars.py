"""Jars are believed by their hash only, and fetched again when it is wrong. No network here."""

import hashlib
import os
from pathlib import Path

import pytest
from aifn_local import jars
from aifn_local.errors import StackError
from aifn_local.jars import Jar, ensure_jars, kafka_jars

GOOD = b"the released bytes"
JAR = Jar("org.example", "thing", "1.0", hashlib.sha256(GOOD).hexdigest())


class Repository:
    """Hands out the given contents, one per download, the last of them for ever."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = contents
        self.asked = 0

    def __call__(self, jar: Jar, folder: Path) -> Path:
        content = self.contents[min(self.asked, len(self.contents) - 1)]
        self.asked += 1
        path = folder / "deep" / jar.file_name
        path.parent.mkdir()
        path.write_bytes(content)
        return path


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aifn_local.jars.time.sleep", lambda _: None)


def test_a_jar_is_fetched_once(tmp_path: Path) -> None:
    repository = Repository(GOOD)
    for _ in range(2):
        assert ensure_jars(tmp_path / "jars", [JAR], fetch=repository) == [tmp_path / "jars" / "thing-1.0.jar"]
    assert repository.asked == 1
    assert os.listdir(tmp_path / "jars") == ["thing-1.0.jar"]


def test_a_corrupted_jar_is_fetched_again(tmp_path: Path) -> None:
    (path,) = ensure_jars(tmp_path / "jars", [JAR], fetch=Repository(GOOD))
    path.write_bytes(GOOD[:-1])
    repository = Repository(GOOD)
    ensure_jars(tmp_path / "jars", [JAR], fetch=repository)
    assert repository.asked == 1
    assert path.read_bytes() == GOOD


def test_a_download_damaged_on_the_way_is_tried_again_and_never_kept(tmp_path: Path) -> None:
    (path,) = ensure_jars(tmp_path / "jars", [JAR], fetch=Repository(b"an error page", GOOD))
    assert path.read_bytes() == GOOD


def test_a_wrong_hash_every_time_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="wrong SHA-256"):
        ensure_jars(tmp_path / "jars", [JAR], fetch=Repository(b"an evil twin"))
    assert os.listdir(tmp_path / "jars") == []


def test_no_network_is_said_in_one_line_and_what_arrived_is_kept(tmp_path: Path) -> None:
    other = Jar("org.example", "other", "2.0", JAR.sha256)

    def half_a_network(jar: Jar, folder: Path) -> Path:
        if jar is other:
            raise ConnectionError("unreachable")
        return Repository(GOOD)(jar, folder)

    with pytest.raises(StackError, match=r"other:2\.0 could not be fetched .* check the network"):
        ensure_jars(tmp_path / "jars", [JAR, other], fetch=half_a_network)
    assert os.listdir(tmp_path / "jars") == ["thing-1.0.jar"]


def test_the_list_names_every_jar_of_one_release_once() -> None:
    listed = kafka_jars()
    assert len({jar.file_name for jar in listed}) == len(listed) > 80
    assert all(len(jar.sha256) == 64 for jar in listed)
    assert {jar.version for jar in listed if jar.group == "org.apache.kafka"} == {jars.KAFKA_VERSION}
