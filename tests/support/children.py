"""Processes that a test starts, kills and starts again; none outlives its test."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from aifn_local.processes import free_port

from tests.support.waiting import until

ROOT = Path(__file__).parents[2]


class Child:
    """A victim process in one of its roles."""

    def __init__(self, role: str, environment: dict[str, str], log: Path) -> None:
        self.port = free_port(None)
        self.log = log
        more = environment | {"AIFN_PORT": str(self.port), "AIFN_FACTORY": "lumi-aif", "PYTHONUNBUFFERED": "1"}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AIFN_")}
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.victim", role], cwd=ROOT, env=clean | more, stdout=out, stderr=out
            )

    async def probe(self, path: str) -> int:
        """The status of a health probe; 0 when nobody answers."""
        try:
            async with httpx.AsyncClient(timeout=5) as http:
                return (await http.get(f"http://127.0.0.1:{self.port}{path}")).status_code
        except httpx.HTTPError:
            return 0

    async def ready(self, *, seconds: float = 40) -> "Child":
        """Wait until the process says that it is ready."""
        await until(lambda: self._is_ready(), seconds=seconds, what=f"the victim is ready\n{self.tail()}")
        return self

    async def _is_ready(self) -> bool:
        assert self.process.poll() is None, f"the victim ended by itself\n{self.tail()}"
        return await self.probe("/readyz") == 200

    async def end(self, *, seconds: float = 60) -> int:
        """Wait for the end; returns the exit status."""
        return await asyncio.to_thread(self.process.wait, seconds)

    def tail(self) -> str:
        """The last lines it wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


@contextlib.asynccontextmanager
async def children(folder: Path, **environment: str) -> AsyncIterator["Nursery"]:
    """Make victims with this environment; those that still run at the end are killed."""
    nursery = Nursery(folder, environment)
    try:
        yield nursery
    finally:
        for child in nursery.all:
            if child.process.poll() is None:
                child.process.kill()
            await asyncio.to_thread(child.process.wait, 10)


class Nursery:
    """Starts children that share an environment."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self.all: list[Child] = []

    def start(self, role: str = "worker", **more: str) -> Child:
        """Start one more."""
        child = Child(role, self._environment | more, self._folder / f"victim-{len(self.all)}.log")
        self.all.append(child)
        return child
