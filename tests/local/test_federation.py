"""A federation on this machine, before anything is started and after everything was stopped."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aifn_local import processes
from aifn_local.commands import stack_app
from aifn_local.errors import StackError
from aifn_local.federation import lifecycle, start
from aifn_local.federation.demo import Outcome
from aifn_local.federation.gates import Alarm, Stream, View, disagreements
from aifn_local.federation.instance import sites_of
from aifn_local.federation.members import Member, name_relays, read_members
from aifn_local.federation.program import LocalProgram
from aifn_local.federation.tamper import altered
from aifn_local.invariants import Check
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

TWO = read_members("lumi-aif,bsc-aif")
RELAYS = name_relays(2)


def stream(origin: str, **other: Any) -> Stream:
    usual: dict[str, Any] = {
        "stream": "catalogue",
        "epoch": 1,
        "seq": 7,
        "missing": 0,
        "waiting": 0,
        "keys": 3,
        "digest": "ab" * 32,
        "frozen": False,
        "last_event_seconds": 1.5,
        "verdicts": {"accepted": 7},
    }
    return Stream(origin=origin, **(usual | other))


def views(**copy: Any) -> dict[str, View]:
    """Two gates: bsc-aif's own catalogue, and lumi-aif's copy of it."""
    own = View(member="bsc-aif", streams=[stream("bsc-aif")], last_head_seconds={}, alarms=[])
    other = View(member="lumi-aif", streams=[stream("bsc-aif", **copy)], last_head_seconds={}, alarms=[])
    return {"bsc-aif": own, "lumi-aif": other}


def test_equal_copies_agree() -> None:
    assert disagreements(views()) == []


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ({"seq": 6}, "at 1/6, its owner at 1/7"),
        ({"epoch": 2}, "at 2/7, its owner at 1/7"),
        ({"missing": 1}, "1 missing"),
        ({"waiting": 2}, "2 waiting"),
        ({"keys": 4}, "4 keys"),
        ({"digest": "cd" * 32}, "digest cdcdcdcd"),
        ({"frozen": True}, "frozen"),
        ({"stream": "skills"}, "nothing has come"),
    ],
)
def test_any_difference_between_a_copy_and_its_owner_is_named(difference: dict[str, Any], words: str) -> None:
    [found] = disagreements(views(**difference))
    assert found.startswith("lumi-aif of bsc-aif/catalogue: ")
    assert words in found


def test_an_alarm_counts_only_if_it_was_raised_after_the_fault() -> None:
    moment = datetime(2026, 11, 21, 12, tzinfo=UTC)
    earlier = Alarm(
        origin="bsc-aif",
        stream="",
        alarm="silence",
        detail="",
        raised_at=moment - timedelta(seconds=1),
        ended_at=moment,
    )
    later = earlier.model_copy(update={"raised_at": moment + timedelta(seconds=9), "ended_at": None})
    view = View(member="lumi-aif", streams=[], last_head_seconds={}, alarms=[earlier, later])
    assert view.alarm("bsc-aif", "silence", moment) == later
    assert view.alarm("bsc-aif", "silence", moment + timedelta(minutes=1)) is None
    assert view.alarm("l-aif", "silence", moment) is None


@given(st.binary(min_size=1).filter(lambda raw: b"." not in raw))
def test_an_altered_envelope_differs_in_its_payload_only(payload: bytes) -> None:
    header, changed, signature = altered(b"head." + payload + b".sign").split(b".")
    assert (header, signature) == (b"head", b"sign")
    assert len(changed) == len(payload)
    assert sum(one != other for one, other in zip(changed, payload, strict=True)) == 1


def test_a_run_is_good_only_if_something_was_checked_and_all_of_it_holds() -> None:
    holds, fails = Check("a", True, ""), Check("b", False, "")
    assert Outcome(checks=[holds]).good
    assert not Outcome(checks=[]).good
    assert not Outcome(checks=[holds, fails]).good


def test_each_factory_simulates_the_machines_it_operates_and_a_ju_none() -> None:
    assert {site.machine for member in TWO for site in sites_of(member)} == {"lumi", "marenostrum5"}
    assert sites_of(Member("ju", "ju")) == []


def test_a_federation_is_found_again_by_its_state_and_another_list_of_members_is_refused(tmp_path: Path) -> None:
    state = lifecycle.new_state("net", TWO, RELAYS)
    folder = lifecycle.federation_folder("net", tmp_path)
    folder.mkdir(parents=True)
    lifecycle.remember(folder, state)
    assert lifecycle.known(folder) == state
    assert (folder / "federation.json").stat().st_mode & 0o077 == 0, "it holds the secrets of databases"
    with pytest.raises(StackError, match="has other members"):
        start.start("net", read_members("lumi-aif,l-aif"), RELAYS, tmp_path)
    with pytest.raises(StackError, match="has other members"):
        start.start("net", TWO, name_relays(1), tmp_path)


def test_what_was_never_started_has_no_status_and_nothing_to_stop(tmp_path: Path) -> None:
    assert lifecycle.status("net", tmp_path) == []
    assert not lifecycle.down("net", tmp_path)
    lifecycle.remember(_made(tmp_path), lifecycle.new_state("net", TWO, RELAYS))
    parts = lifecycle.status("net", tmp_path)
    assert {part.part for part in parts} >= {"relay-a", "bsc-aif mirror", "lumi-aif fedgate", "lumi-aif services"}
    assert not any(part.running for part in parts)
    assert lifecycle.down("net", tmp_path, wipe=True)
    assert lifecycle.status("net", tmp_path) == []
    assert list(tmp_path.rglob("*.json")) == []


def _made(home: Path) -> Path:
    folder = lifecycle.federation_folder("net", home)
    folder.mkdir(parents=True)
    return folder


def test_names_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="too long for a federation"):
        lifecycle.federation_folder("x" * 21, tmp_path)
    with pytest.raises(StackError, match="no name for a stack"):
        lifecycle.federation_folder("../x", tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--members", "lumi-aif"], "two members or more"),
        (["--members", "lumi-aif,bsc-aif", "--docker"], "runs as processes"),
        (["--members", "relay-a,bsc-aif"], "is the name of a relay"),
    ],
)
def test_a_federation_that_cannot_be_is_refused_in_one_line(
    options: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIFN_HOME", str(tmp_path))
    done = CliRunner().invoke(stack_app, ["up", *options])
    assert done.exit_code == 1
    assert words in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_a_program_is_started_once_found_by_its_folder_and_ended(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text("import time\n\n\ndef main() -> None:\n    time.sleep(60)\n")
    program = LocalProgram(tmp_path / "one", "sleeper", (), {"PYTHONPATH": str(tmp_path)}, 1)
    assert program.running() is None
    pid = program.launch()
    try:
        assert processes.wait_until(lambda: program.running() == pid, 10)
        assert program.launch() == pid
    finally:
        program.stop()
    assert program.running() is None
