"""The programs under test as they are deployed: processes of their own, with what they cost."""

import contextlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from aifn_local.processes import free_port
from aifn_local.stack_state import StackState

READY_SECONDS = 60
LOGS = Path("build/bench/logs")


@dataclass(frozen=True)
class Program:
    """A process and where it listens."""

    process: subprocess.Popen[bytes]
    port: int

    def seconds_of_cpu(self) -> float:
        """CPU it has used."""
        return burnt(self.process.pid)

    def mib(self) -> float:
        """Memory that is resident now."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20


@contextlib.contextmanager
def program(
    words: Sequence[str], *, name: str, probe: str | None, environment: Mapping[str, str], port: int = 0
) -> Iterator[Program]:
    """Run a program until the end of the `with`, once it is ready. Raises RuntimeError if it does not become so."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name}.log"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("AIFN_")}
    with log.open("wb") as out:
        process = subprocess.Popen(words, env=clean | dict(environment), stdout=out, stderr=out)
    one = Program(process, port)
    try:
        if probe is not None:
            _wait_ready(one, probe, log)
        yield one
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(one: Program, probe: str, log: Path) -> None:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and one.process.poll() is None:
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{one.port}{probe}", timeout=5) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{one.process.args!r} did not become ready:\n{log.read_text(errors='replace')[-2000:]}")


@contextlib.contextmanager
def issuer() -> Iterator[Program]:
    """The development issuer."""
    port = free_port(None)
    words = [sys.executable, "-m", "aifn_local.issuer", "--port", str(port)]
    with program(words, name="issuer", probe="/jwks", environment={}, port=port) as one:
        yield one


@contextlib.contextmanager
def api(number: int, environment: Mapping[str, str]) -> Iterator[Program]:
    """Accounting's `api`."""
    with _role("api", f"api-{number}", environment) as one:
        yield one


@contextlib.contextmanager
def worker(kafka: str, url: str) -> Iterator[Program]:
    """Accounting's `worker`."""
    with _role("worker", "worker", {"AIFN_KAFKA": kafka, "AIFN_DATABASE_URL": url}) as one:
        yield one


@contextlib.contextmanager
def _role(role: str, name: str, environment: Mapping[str, str]) -> Iterator[Program]:
    port = free_port(None)
    words = [str(Path(sys.executable).with_name("aifn-accounting")), role]
    more = {"AIFN_PORT": str(port), "AIFN_FACTORY": "lumi-aif", "AIFN_PSEUDONYM_KEY": "a key for the benchmark only"}
    with program(words, name=name, probe="/readyz", environment={**environment, **more}, port=port) as one:
        yield one


@contextlib.contextmanager
def bare(number: int) -> Iterator[Program]:
    """A FastAPI route and nothing else."""
    port = free_port(None)
    words = [sys.executable, "-m", "benchmarks.accounting.bare", str(port)]
    with program(words, name=f"bare-{number}", probe="/projects/p/balances", environment={}, port=port) as one:
        yield one


def burnt(pid: int) -> float:
    """CPU seconds of a process, of its children, and of those that it has waited for."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        own = process.cpu_times()
        total += own.user + own.system + own.children_user + own.children_system
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = child.cpu_times()
                total += times.user + times.system
    return total


def server_pid(state: StackState) -> int | None:
    """PostgreSQL's first process, if it is one of this machine's."""
    return state.postgres.pid
