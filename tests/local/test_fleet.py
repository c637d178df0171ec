"""Processes of a fleet: started, watched, named when not ready, and none left behind."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from aifn_common.clock import SimulatedClock
from aifn_common.settings import ServiceSettings
from aifn_local import processes
from aifn_local.errors import StackError
from aifn_local.factory import API_SERVICES, Factory, Site, service_of
from aifn_local.fleet import ROOMS, Fleet, Program

from tests.support.waiting import until


def program(name: str = "issuer", *, module: str = "aifn_local.issuer", env: dict[str, str] | None = None) -> Program:
    port = processes.free_port()
    return Program(name, module, ("--port", str(port)), env or dict(os.environ), port)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.stop()


async def test_a_program_starts_with_its_own_log_is_watched_and_is_gone_after_stop(fleet: Fleet) -> None:
    fleet.start(program())
    await fleet.wait_ready(seconds=60)
    assert (fleet.logs / "issuer.log").exists()
    (first,) = fleet.pids()
    assert fleet.restarts() == {}

    watching = asyncio.create_task(fleet.watch(every_seconds=0.1))
    await asyncio.to_thread(fleet.kill, "issuer")
    await until(lambda: bool(fleet.pids()), what="the program runs again")
    assert fleet.pids() != [first]
    assert fleet.restarts() == {"issuer": 1}
    watching.cancel()
    await until(lambda: processes.answers("127.0.0.1", fleet.members["issuer"].program.port))

    (second,) = fleet.pids()
    await asyncio.to_thread(fleet.stop)
    assert fleet.pids() == []
    assert not psutil.pid_exists(first)
    assert not psutil.pid_exists(second)
    assert fleet.ended() == [], "what was stopped is not missed"


async def test_a_program_that_ended_is_missed_until_it_is_started_again(fleet: Fleet) -> None:
    fleet.start(program())
    await fleet.wait_ready(seconds=60)
    assert fleet.ended() == []
    await asyncio.to_thread(fleet.kill, "issuer")
    assert fleet.ended() == ["issuer"]
    fleet.start(fleet.members["issuer"].program)
    await fleet.wait_ready(seconds=60)
    assert fleet.ended() == []
    assert fleet.restarts() == {"issuer": 1}


async def test_the_program_that_is_not_ready_is_named_with_its_log_and_not_the_others(fleet: Fleet) -> None:
    fleet.start(program())
    await fleet.wait_ready(seconds=60)
    fleet.start(program("accounting-api"))  # an issuer answers nothing at /readyz
    with pytest.raises(StackError, match="accounting-api is not ready after 1 s") as raised:
        await fleet.wait_ready(seconds=1)
    assert str(fleet.logs / "accounting-api.log") in str(raised.value)
    assert "issuer" not in str(raised.value)


async def test_a_program_that_ends_at_once_is_not_waited_for_and_its_last_words_are_told(fleet: Fleet) -> None:
    fleet.start(program("accounting-api", module="aifn_accounting.app"))
    began = time.monotonic()
    with pytest.raises(StackError, match=r"accounting-api did not start: usage: aifn-accounting api\|worker\|migrate"):
        await fleet.wait_ready(seconds=60)
    assert time.monotonic() - began < 30


_PARENT = """
import asyncio, os, sys, time
from pathlib import Path
from aifn_local.fleet import Fleet, Program
def main():
    port = int(sys.argv[2])
    fleet = Fleet(Path(sys.argv[1]))
    fleet.start(Program("issuer", "aifn_local.issuer", ("--port", str(port)), dict(os.environ), port))
    asyncio.run(fleet.wait_ready(seconds=60))
    print(*fleet.pids(), flush=True)
    time.sleep(300)
if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("order", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_one_that_started_the_fleet(order: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    command = [sys.executable, str(script), str(tmp_path), str(processes.free_port())]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with contextlib.closing(parent.stdout):
        (issuer,) = (int(word) for word in parent.stdout.readline().split())
        family = [psutil.Process(issuer), *psutil.Process(parent.pid).children(recursive=True)]
        assert len(family) >= 2
        parent.send_signal(order)
        parent.wait(20)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []


# What a factory tells its processes


def factory(**values: object) -> Factory:
    made = Factory("lumi-aif", "127.0.0.1:1", "postgresql://a@127.0.0.1:1/x", [Site("lumi", {"lumi-g": 3})])
    made.databases = {name: f"postgresql://{name}@127.0.0.1:1/x" for name in (*API_SERVICES, "siteagent_lumi")}
    for name, value in values.items():
        setattr(made, name, value)
    return made


def settings_of(one: Program, monkeypatch: pytest.MonkeyPatch) -> ServiceSettings:
    with monkeypatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("AIFN_"):
                patch.delenv(name)
        for name, value in one.env.items():
            patch.setenv(name, value)
        return service_of(one.module.split(".")[0].removeprefix("aifn_")).settings()


def test_every_role_of_every_service_is_a_program_with_a_port_of_its_own() -> None:
    programs = factory().programs()
    names = [one.name for one in programs]
    assert names == [
        "issuer",
        *(f"{service}-{role}" for service in API_SERVICES for role in ("api", "worker")),
        "siteagent-lumi",
    ]
    assert len({one.port for one in programs}) == len(programs)
    assert {one.arguments for one in programs[1:]} == {("api",), ("worker",)}


def test_every_program_is_told_all_its_service_wants_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimulatedClock(
        epoch=datetime(2026, 1, 1, tzinfo=UTC), started=datetime(2026, 11, 21, tzinfo=UTC), factor=600
    )
    made = factory(clock=clock)
    for one in made.programs()[1:]:
        settings = settings_of(one, monkeypatch)
        assert settings.factory == "lumi-aif"
        assert settings.clock() == clock
        assert settings.port == one.port
        assert settings.oidc_issuer == made.issuer
        owner = one.name.replace("-", "_") if one.name == "siteagent-lumi" else one.name.rsplit("-", 1)[0]
        assert settings.database_url.get_secret_value().startswith(f"postgresql://{owner}@")
    agent = settings_of(made.programs()[-1], monkeypatch)
    assert agent.model_dump()["simulated_nodes"] == {"lumi-g": 3}
    assert agent.model_dump()["machine"] == "lumi"


def test_settings_of_the_shell_do_not_reach_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIFN_LOG_LEVEL", "DEBUG")
    monkeypatch.setenv("AIFN_OTLP_ENDPOINT", "http://elsewhere:4318")
    for one in factory().programs():
        assert one.env.get("AIFN_LOG_LEVEL") != "DEBUG"
        assert "AIFN_OTLP_ENDPOINT" not in one.env


def run_with(one: Program, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a program as its image would: by its command, with this environment alone."""
    command = Path(sys.executable).parent / one.module.split(".")[0].replace("_", "-")
    return subprocess.run(
        [str(command), *one.arguments], env=env, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("name", ["AIFN_DATABASE_URL", "AIFN_KAFKA", "AIFN_FACTORY", "AIFN_PSEUDONYM_KEY"])
def test_a_setting_that_is_missing_ends_a_program_with_one_line_that_names_it(name: str) -> None:
    one = next(one for one in factory().programs() if one.name == "accounting-api")
    done = run_with(one, {key: value for key, value in one.env.items() if key != name})
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.count("\n") == 1
    assert f"{name} is not set" in done.stderr


def test_a_setting_that_makes_no_sense_is_named_too() -> None:
    one = next(one for one in factory().programs() if one.name == "siteagent-lumi")
    done = run_with(one, dict(one.env) | {"AIFN_SIMULATED_NODES": '{"lumi-g": -1}'})
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.count("\n") == 1
    assert "AIFN_SIMULATED_NODES is wrong" in done.stderr


def test_a_worker_imports_none_of_what_only_answers_people() -> None:
    # Routes and their framework take as long to import as all the rest together.
    said = "import sys, importlib\n" + "".join(f"importlib.import_module('aifn_{room}.app')\n" for room in ROOMS)
    said += "print([name for name in ('fastapi', 'joserfc', 'aifn_common.web') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
