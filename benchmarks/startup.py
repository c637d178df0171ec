"""How soon a process is ready after its start, and how soon messages are handled again after something was killed.

Every program is an interpreter of its own, as in a container; a killed one is started again at once. "Again" is seen
from the end: a machine and a usage record, announced in the databases of those who speak of them, have passed relay,
broker and consumer, and their effect is committed in accounting's database. References are the targets that operators
are promised. What else the machine has to do makes seconds long, which the first figure shows; seconds of CPU stay as
they are.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import httpx
import psutil
from aifn_common.outbox import announce
from aifn_events.registry import MachineDescribed
from aifn_events.usage import UsageReported
from aifn_events.vocabulary import new_id
from aifn_local import stack
from aifn_local.factory import Factory, Site
from aifn_local.fleet import Program

from benchmarks.figures import Figure, compare

ROUNDS = int(os.environ.get("AIFN_BENCH_ROUNDS", "3"))
READY_TARGET_SECONDS = 5.0
AGAIN_TARGET_SECONDS = 10.0
PATIENCE_SECONDS = 300.0
LOOK_SECONDS = 0.05
MACHINE = "lumi"
TALKERS = ("registry-worker", f"siteagent-{MACHINE}", "accounting-worker", "accounting-api")
EXAMPLES = Path(__file__).parents[1] / "libs/events/examples"

_HANDLED = """
SELECT EXISTS (SELECT FROM inbox WHERE event_id = $1) AND EXISTS (SELECT FROM usage_record WHERE local_job_id = $2)"""


def run() -> list[Figure]:
    """Seconds of each, beside its target."""
    with stack.running() as state, TemporaryDirectory() as logs:
        return asyncio.run(_measure(state, Path(logs)))


async def _measure(state: stack.StackState, logs: Path) -> list[Figure]:
    factory = Factory.on(state, "lumi-aif", [Site(MACHINE, {"lumi-g": 8})])
    await factory.prepare()
    programs = {one.name: one for one in factory.programs() if one.name != "issuer"}
    figures = [compare("a second of CPU takes here", _second_of_cpu(), "s", "on an idle machine", 1.0)]
    for program in programs.values():
        figures += await _starts(program, logs)
    with _running([programs[name] for name in TALKERS], logs) as running:
        await running.ready()
        await _talk(factory.databases)
        for what, kill in (
            ("accounting-worker", lambda: running.restart("accounting-worker")),
            ("accounting-api", lambda: running.restart("accounting-api")),
            ("the relaying worker", lambda: running.restart("registry-worker")),
            ("the database server", lambda: stack.restart_postgres(state, "kill")),
            ("the broker", lambda: stack.restart_kafka(state, kill=True)),
        ):
            figures.append(await _again(what, kill, running, factory.databases))
    return figures


def _second_of_cpu() -> float:
    """How long a process must wait and work until it has used a second."""
    began, used = time.monotonic(), time.process_time()
    while time.process_time() - used < 1:
        pass
    return time.monotonic() - began


async def _starts(program: Program, logs: Path) -> list[Figure]:
    """A program by itself, several times: from its start until it says that it is ready."""
    seconds, cpu = [], []
    for _ in range(ROUNDS):
        began = time.monotonic()
        with _running([program], logs) as running:
            await running.ready()
            seconds.append(time.monotonic() - began)
            cpu.append(running.cpu_seconds(program.name))
    return [
        compare(f"{program.name} ready", statistics.median(seconds), "s", "target", READY_TARGET_SECONDS),
        compare(f"{program.name} ready, CPU", statistics.median(cpu), "s", "target", READY_TARGET_SECONDS),
    ]


async def _again(what: str, kill: Callable[[], object], running: "_Running", databases: dict[str, str]) -> Figure:
    """Something is killed and started again: how soon all are ready and what is said from now on has its effect."""
    began = time.monotonic()
    await asyncio.to_thread(kill)
    await asyncio.gather(_talk(databases), running.ready())
    took = time.monotonic() - began
    return compare(f"{what} killed: handled again, all ready", took, "s", "target", AGAIN_TARGET_SECONDS)


async def _talk(databases: dict[str, str]) -> None:
    """Announce a machine and a usage record, and wait for what accounting makes of them."""
    values = {kind.topic: json.loads((EXAMPLES / f"{kind.topic}.json").read_text())["value"] for kind in _KINDS}
    machine = MachineDescribed.model_validate(values[MachineDescribed.topic] | {"id": new_id()})
    usage = UsageReported.model_validate(values[UsageReported.topic] | {"id": new_id(), "local_job_id": new_id()})
    await _patiently(databases["registry"], lambda db: _announce(db, machine))
    await _patiently(databases[f"siteagent_{MACHINE}"], lambda db: _announce(db, usage))
    await _patiently(databases["accounting"], lambda db: _handled(db, machine.id, usage.local_job_id))


_KINDS = (MachineDescribed, UsageReported)


async def _announce(db: "asyncpg.Connection[asyncpg.Record]", event: MachineDescribed | UsageReported) -> bool:
    async with db.transaction():
        await announce(db, event)
    return True


async def _handled(db: "asyncpg.Connection[asyncpg.Record]", event_id: str, local_job_id: str) -> bool:
    return bool(await db.fetchval(_HANDLED, event_id, local_job_id))


async def _patiently(url: str, ask: "Callable[[asyncpg.Connection[asyncpg.Record]], Awaitable[bool]]") -> None:
    """Ask a database until it says yes, also one that is away for a while. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                db = await asyncpg.connect(url, timeout=5)
                try:
                    while not await ask(db):  # noqa: ASYNC110 - another process writes what it asks for
                        await asyncio.sleep(LOOK_SECONDS)
                    return
                finally:
                    db.terminate()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.sleep(LOOK_SECONDS)


@dataclass
class _Running:
    """Programs, each an interpreter of its own."""

    logs: Path
    programs: dict[str, Program]
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, name: str) -> None:
        program = self.programs[name]
        command = Path(sys.executable).with_name(program.module.removesuffix(".app").replace("_", "-"))
        static = {"AIFN_INSTANCE": f"{name}-0"} if program.arguments == ("worker",) else {}
        with (self.logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [command, *program.arguments], env={**program.env, **static}, stdout=log, stderr=log
            )

    def restart(self, name: str) -> None:
        """Kill it as a power cut would, and start it again."""
        self.processes[name].kill()
        self.processes[name].wait()
        self.start(name)

    def cpu_seconds(self, name: str) -> float:
        used = psutil.Process(self.processes[name].pid).cpu_times()
        return float(used.user + used.system)

    async def ready(self) -> None:
        """Wait until every program says that it is ready. Raises RuntimeError with the last words of one that ended."""
        async with httpx.AsyncClient(timeout=5, trust_env=False) as http, asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*(self._ready(http, name) for name in self.programs))

    async def _ready(self, http: httpx.AsyncClient, name: str) -> None:
        while True:
            try:
                if (await http.get(f"{self.programs[name].url}/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                if self.processes[name].poll() is not None:
                    raise RuntimeError((self.logs / f"{name}.log").read_text()[-2000:]) from None
            await asyncio.sleep(LOOK_SECONDS)


@contextmanager
def _running(programs: Sequence[Program], logs: Path) -> Iterator[_Running]:
    made = _Running(logs, {one.name: one for one in programs})
    try:
        for program in programs:
            made.start(program.name)
        yield made
    finally:
        for process in made.processes.values():
            process.terminate()
        for process in made.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
