"""Starts every role of every service as a process of its own, watches over them, and ends them.

The processes are forked from one that has imported everything already: a fresh interpreter for each would spend
seconds of CPU on imports. They share nothing afterwards.
"""

import asyncio
import contextlib
import gc
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import httpx

from aifn_local.errors import StackError, explain

ROOMS = ("registry", "accounting", "scheduler", "datalab", "skills", "siteagent")
READY_SECONDS = 90.0
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Program:
    """One process: a service in a role, or the issuer. `env` is its whole configuration."""

    name: str
    module: str
    arguments: tuple[str, ...]
    env: Mapping[str, str]
    port: int

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Running:
    """A program and its present process."""

    program: Program
    process: BaseProcess
    starts: int = 1
    wanted: bool = True


@dataclass
class Fleet:
    """All processes of a factory on this machine."""

    logs: Path
    members: dict[str, Running] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._forks = multiprocessing.get_context("forkserver")
        self._forks.set_forkserver_preload(["aifn_local.fleet_imports"])

    def start(self, program: Program) -> None:
        """Start a program, or start it again after it ended."""
        log = self.logs / f"{program.name}.log"
        process = self._forks.Process(target=_become, args=(program, str(log)))
        process.start()
        known = self.members.get(program.name)
        if known is None:
            self.members[program.name] = Running(program, process)
        else:
            known.process, known.wanted = process, True
            known.starts += 1

    def kill(self, name: str) -> None:
        """End a program as a power cut would."""
        member = self.members[name]
        pid = member.process.pid
        assert pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        member.process.join(10)

    def ended(self) -> list[str]:
        """Programs that should run and do not."""
        return [name for name, member in self.members.items() if member.wanted and not member.process.is_alive()]

    async def watch(self, every_seconds: float = 0.5) -> None:
        """Start again whatever ends by itself, for ever."""
        while True:
            for name in self.ended():
                self.start(self.members[name].program)
            await asyncio.sleep(every_seconds)

    def restarts(self) -> dict[str, int]:
        """How often programs were started again."""
        return {name: member.starts - 1 for name, member in self.members.items() if member.starts > 1}

    async def wait_ready(self, *, path: str = "/readyz", seconds: float = READY_SECONDS) -> None:
        """Wait until every program says that it is ready; before `watch`, for one that ends is not waited for.

        Raises: StackError that names the program which is not ready, and its log.
        """
        deadline = time.monotonic() + seconds
        async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
            waiting = [member.program for member in self.members.values()]
            while waiting:
                waiting = [program for program in waiting if not await _answers(http, program, path)]
                for program in waiting:
                    log = self.logs / f"{program.name}.log"
                    if not self.members[program.name].process.is_alive():
                        words = log.read_text(errors="replace") if log.exists() else ""
                        raise explain(program.name, words[-20_000:], log=log)
                    if time.monotonic() > deadline:
                        raise StackError(f"{program.name} is not ready after {seconds:.0f} s: see {log}")
                await asyncio.sleep(0.1)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """End every program: politely, then by force."""
        for member in self.members.values():
            member.wanted = False
            member.process.terminate()
        deadline = time.monotonic() + seconds
        for member in self.members.values():
            member.process.join(max(0.1, deadline - time.monotonic()))
            if member.process.is_alive():
                member.process.kill()
                member.process.join(5)

    def pids(self) -> list[int]:
        """The processes that live now."""
        return [m.process.pid for m in self.members.values() if m.process.is_alive() and m.process.pid is not None]


async def _answers(http: httpx.AsyncClient, program: Program, path: str) -> bool:
    try:
        return (await http.get(program.url + ("/personas" if program.name == "issuer" else path))).status_code == 200
    except httpx.HTTPError:
        return False


def _become(program: Program, log: str) -> None:
    """Turn a forked process into a program: its own log, environment and arguments; ends with its parent."""
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.environ.clear()
    os.environ.update(program.env)
    sys.argv = [program.module, *program.arguments]
    gc.freeze()
    status = importlib.import_module(program.module).main()
    sys.exit(status)


def _end_with_parent() -> None:
    """Wait for the end of whoever started the fleet, however it ends.

    The kernel's parent-death signal would not do: the forking process is the parent, and it lives as long as we do.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os._exit(1)
