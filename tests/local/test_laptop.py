"""`aifn up` and `aifn down` as a newcomer uses them: real processes, in a home of their own."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import typer
from aifn_client.context import Context
from aifn_local import laptop, stack
from aifn_local.errors import StackError
from aifn_local.factory import API_SERVICES, Factory, Site
from aifn_local.kafka import LocalKafka
from aifn_local.laptop import Laptop, Process
from aifn_local.postgres import LocalPostgres
from rich.console import Console
from typer.testing import CliRunner

AIFN = Path(sys.executable).parent / "aifn"


@dataclass(frozen=True)
class Shell:
    """Somebody's terminal, with folders of its own."""

    home: Path
    config: Path

    def run(self, *arguments: str, status: int = 0, **more: str) -> str:
        """What a command prints; it must end with this status."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AIFN_")}
        env = clean | {"AIFN_HOME": str(self.home), "AIFN_CONFIG_HOME": str(self.config)} | more
        done = subprocess.run(
            [str(AIFN), *arguments], env=env, capture_output=True, text=True, timeout=150, check=False
        )
        assert done.returncode == status, f"{arguments}: {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    @property
    def state(self) -> Laptop:
        return Laptop.model_validate_json((self.home / "stacks/default/laptop.json").read_text())

    def living(self) -> list[list[str]]:
        """Command lines of whatever runs in this home, or was started from it."""
        postgres = LocalPostgres(self.home / "stacks" / "default" / "postgres", home=self.home).folder
        found = []
        for process in psutil.process_iter(["cmdline", "environ"]):
            line, env = process.info["cmdline"] or [], process.info["environ"] or {}
            ours = any(str(self.home) in part or str(postgres) in part for part in line)
            if ours or env.get("AIFN_HOME") == str(self.home):
                found.append(line)
        return found


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A terminal whose home shares only the downloaded jars; whatever it started is ended."""
    jars = LocalKafka(tmp_path / "unused").jars
    jars.mkdir(parents=True, exist_ok=True)
    made = Shell(tmp_path / "home", tmp_path / "config")
    made.home.mkdir()
    (made.home / jars.name).symlink_to(jars)
    yield made
    if (made.home / "stacks").exists():
        made.run("down")
        stack.down("default", made.home, wipe=True)


@pytest.mark.journey
@pytest.mark.kafka
def test_a_factory_on_a_laptop_starts_stays_heals_and_leaves_nothing(shell: Shell) -> None:
    first = shell.run("up")
    assert "aifn login --as pi" in first
    urls = dict(re.findall(r"^  (\S+) +(http://\S+)$", first, re.MULTILINE))
    assert set(urls) == {"issuer", *API_SERVICES}

    shell.run("login", "--as", "pi")
    machines = json.loads(shell.run("machine", "list", "--json"))
    assert "lumi" in {one["machine_id"] for one in machines}
    assert json.loads(shell.run("partition", "list", "--json"))

    before = shell.state
    assert set(before.processes) == {"issuer", "services"}
    again = shell.run("up")
    assert shell.state == before, "what runs is kept"
    assert dict(re.findall(r"^  (\S+) +(http://\S+)$", again, re.MULTILINE)) == urls

    psutil.Process(before.processes["services"].pid).kill()
    shell.run("machine", "list", status=3)
    shell.run("up")
    healed = shell.state
    assert healed.processes["issuer"] == before.processes["issuer"]
    assert healed.processes["services"].pid != before.processes["services"].pid
    assert healed.ports == before.ports
    assert "lumi" in {one["machine_id"] for one in json.loads(shell.run("machine", "list", "--json"))}

    shell.run("stack", "down")
    shell.run("up")
    assert httpx.get(f"{urls['registry']}/readyz", trust_env=False).status_code == 200

    assert shell.run("down") == "stopped\n"
    assert shell.living() == []
    assert not (shell.config / "context.json").exists(), "nobody is sent to a factory that is gone"
    assert shell.run("down") == "nothing was running\n"


@pytest.mark.journey
@pytest.mark.kafka
def test_what_is_in_the_way_of_up_is_one_line(shell: Shell, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    told = shell.run("up", status=1, AIFN_CONFIG_HOME=str(blocked / "config"))
    assert told.splitlines()[-1].startswith("aifn: ")
    assert "context.json cannot be written" in told
    assert shell.run("up").count("http://") == 6, "the same again, without what was in the way"


# Small decisions


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIFN_HOME", str(tmp_path))
    monkeypatch.setenv("AIFN_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def test_a_damaged_state_file_is_named_in_one_line(own_home: Path) -> None:
    file = own_home / "stacks/default/laptop.json"
    file.parent.mkdir(parents=True)
    file.write_text("{")
    for command in (laptop.up, laptop.down):
        app = typer.Typer()
        app.command()(command)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stack, "up", lambda *_, **__: None)
            result = CliRunner().invoke(app, [])
        assert result.exit_code == 1
        assert f"{file} is damaged" in result.output
        assert result.output.count("\n") == 1


def test_an_id_that_was_reused_by_a_stranger_is_not_taken_for_ours(own_home: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        known = Laptop(secret="s", processes={"services": Process(pid=stranger.pid, created=1.0, settings="x")})
        assert not laptop._end(known, ["services"])
        assert known.processes == {}
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_port_that_another_took_is_chosen_anew_and_a_wanted_one_refused(own_home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        known = Laptop(secret="s", ports={"services": taken, "issuer": 1})
        laptop._choose_ports(known, 0)
        assert known.ports == {"issuer": 1}
        with pytest.raises(StackError, match=f"port {taken} is taken"):
            laptop._choose_ports(known, taken)


async def test_a_demo_that_stays_says_where_and_gives_the_place_back(own_home: Path) -> None:
    mine = Context(factory="mine", issuer="http://127.0.0.1:1", services={"registry": "http://127.0.0.1:2"})
    mine.save()
    factory = Factory("lumi-aif", "k", "p", [Site("lumi", {})])
    console = Console(record=True, width=200)
    staying = asyncio.create_task(laptop.keep_running(factory, console))
    await asyncio.sleep(0.1)
    assert Context.load().services == {name: factory.url(name) for name in API_SERVICES}
    staying.cancel()
    await staying
    assert Context.load() == mine
    assert factory.url("scheduler") in console.export_text()
    Context.forget()
    staying = asyncio.create_task(laptop.keep_running(factory, console))
    await asyncio.sleep(0.1)
    staying.cancel()
    await staying
    assert Context.load() == Context()
