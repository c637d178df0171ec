"""The directory's life: the ceremony by command, expiry, rotation of roots and keys, a key taken back, a stolen one."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aifn_fedgate import ceremony
from aifn_fedgate.commands import app
from aifn_fedgate.domain import directory as rules
from aifn_fedgate.domain.chain import Verdict
from aifn_fedgate.domain.directory import Distrusted, Trust
from aifn_fedgate.signing import SigningKey, read_signing, verify, write_secret
from aifn_fedgate.store.journal import BatchMemory
from typer.testing import CliRunner

from tests.federation.make import Federation, Gatehouse, capacity, look


def fed(folder: Path, *words: str, code: int = 0) -> str:
    """Run `aifn fed ... --folder`; returns what it prints."""
    result = CliRunner().invoke(app, [*words, "--folder", str(folder)])
    assert result.exit_code == code, result.output
    return result.output


def test_a_federation_is_founded_joined_and_left_by_commands(tmp_path: Path) -> None:
    fed(tmp_path, "init")
    fed(tmp_path, "init", code=1)
    fed(tmp_path, "join", "lumi-aif", "--endpoint", "https://fed.lumi.example.eu")
    fed(tmp_path, "join", "ju", "--kind", "ju")
    assert "factory, antenna" in fed(tmp_path, "join", "x-y", "--kind", "bakery", code=1)
    joins = [str(tmp_path / "members" / name / "join.json") for name in ("lumi-aif", "ju")]
    assert "version 1, 2 members" in fed(tmp_path, "directory", "--add", joins[0], "--add", joins[1])
    assert "version 2, 2 members" in fed(tmp_path, "directory", "--leave", "ju")
    members = ceremony.read_directory(tmp_path).members
    assert (members["ju"].left, members["lumi-aif"].endpoints) == (True, ("https://fed.lumi.example.eu",))
    assert (tmp_path / "members/lumi-aif/online.key.json").stat().st_mode & 0o077 == 0


def test_a_key_is_rotated_and_the_old_one_revoked_at_a_place(federation: Federation) -> None:
    folder, writer, memory = federation.folder, federation.writer("lumi-aif"), BatchMemory()
    old = writer.keys.signing.kid
    assert look(federation.gate("bsc-aif"), memory, writer.next(capacity())).verdict is Verdict.ACCEPTED
    fed(folder, "rotate-key", "lumi-aif")
    fed(folder, "directory", "--add", str(folder / "members/lumi-aif/join.json"))
    fed(folder, "revoke", "lumi-aif", "--kid", old, "--closing", "capacity=1:2")
    gate = federation.gate("bsc-aif")
    second, stolen = writer.next(capacity(idle=2)), writer.peek(capacity(idle=3))
    assert look(gate, memory, second).verdict is Verdict.ACCEPTED, "up to its last place it holds"
    assert look(gate, memory, stolen).code == "key_closed"
    other = federation.writer("lumi-aif", "catalogue")
    assert look(gate, BatchMemory(), other.peek(), stream="catalogue").code == "key_closed"
    (folder / "members/lumi-aif/online.new.key.json").replace(folder / "members/lumi-aif/online.key.json")
    writer.keys = federation.keys("lumi-aif")
    assert look(gate, memory, writer.next(capacity(idle=3))).verdict is Verdict.ACCEPTED
    assert "is not like" in fed(folder, "revoke", "lumi-aif", "--kid", old, "--closing", "capacity", code=1)
    assert "no key" in fed(folder, "revoke", "lumi-aif", "--kid", "nobody", code=1)


async def test_roots_are_rotated_by_old_and_new_and_a_gate_follows(federation: Federation, bsc: Gatehouse) -> None:
    folder = federation.folder
    fed(folder, "directory", "--rotate-root")
    assert ceremony.newest_root(folder).version == 2
    assert await bsc.door.look_into_folder(bsc.db)
    assert (bsc.door.directory_version, bsc.door.trust and bsc.door.trust.root.version) == (2, 2)
    bsc.door.trust = None
    await bsc.door.recall(bsc.db)
    assert bsc.door.directory_version == 2
    forged = [SigningKey.generate() for _ in range(3)]
    for number, key in enumerate(forged):
        write_secret(folder / f"forged-{number}.json", key.as_jwk())
    with pytest.raises(Distrusted, match="0 of 2 signatures"):
        ceremony.rotate_root(folder, [folder / "forged-0.json"])


def test_one_root_key_alone_signs_nothing(federation: Federation) -> None:
    folder = federation.folder
    before = (folder / "public/directory.json").read_text()
    output = fed(folder, "directory", "--root-key", str(folder / "roots/root-1.key.json"), code=1)
    assert "1 of 2 signatures" in output
    assert (folder / "public/directory.json").read_text() == before


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"version": 0}, "version"),
        ({"root_version": 9}, "wrong_root"),
        ({"type": "root"}, "wrong_content"),
        ({"expires_at": "soon"}, "wrong_content"),
        ({"members": {"UPPER": {}}}, "wrong_content"),
    ],
)
async def test_a_directory_that_is_older_or_wrong_is_not_believed(
    federation: Federation, bsc: Gatehouse, change: dict[str, object], code: str
) -> None:
    folder = federation.folder
    content = rules.content_of((folder / "public/directory.json").read_text()) | change
    keys = [read_signing(path) for path in ceremony.root_keys(folder, ceremony.newest_root(folder))]
    text = rules.write_document("directory", content, {key.kid: key.sign for key in keys})
    if code == "version":
        assert await bsc.door.consider(bsc.db, [], text) is False
        return
    with pytest.raises(Distrusted) as refused:
        await bsc.door.consider(bsc.db, [], text)
    assert refused.value.code == code


async def test_two_directories_of_one_version_are_not_both_believed(federation: Federation, bsc: Gatehouse) -> None:
    folder = federation.folder
    content = rules.content_of((folder / "public/directory.json").read_text())
    content["members"]["ju"]["left"] = True
    keys = [read_signing(path) for path in ceremony.root_keys(folder, ceremony.newest_root(folder))]
    text = rules.write_document("directory", content, {key.kid: key.sign for key in keys})
    with pytest.raises(Distrusted, match="two directories"):
        await bsc.door.consider(bsc.db, [], text)


def test_a_key_that_its_identity_key_did_not_state_is_in_no_directory(federation: Federation) -> None:
    directory = ceremony.read_directory(federation.folder)
    stranger = SigningKey.generate()
    lumi = directory.members["lumi-aif"]
    slipped = lumi.keys[0].model_copy(update={"sign": stranger.public, "kid": stranger.kid})
    members = directory.members | {"lumi-aif": lumi.model_copy(update={"keys": (slipped,)})}
    with pytest.raises(Distrusted) as refused:
        ceremony.write_directory(federation.folder, members)
    assert refused.value.code == "not_stated"
    join = federation.folder / "members/lumi-aif/join.json"
    said = json.loads(join.read_text())
    said["entry"]["keys"][0]["encrypt"] = stranger.public
    join.write_text(json.dumps(said))
    assert "not stated" in fed(federation.folder, "directory", "--add", str(join), code=1)


def test_a_directory_expires_after_seven_days(federation: Federation) -> None:
    now = datetime.now(UTC)
    trust = Trust.of(ceremony.newest_root(federation.folder), ceremony.read_directory(federation.folder))
    assert not trust.expired(now + timedelta(days=6, hours=23))
    assert trust.expired(now + timedelta(days=7, minutes=1))
    assert verify(b"x" * 32, bytes(64), b"nothing") is False
