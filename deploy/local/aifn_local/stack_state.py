"""What a stack consists of, and the file that remembers it: it holds a password, so only its owner may read it."""

import os
import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from aifn_local import processes
from aifn_local.errors import explain_os_error
from aifn_local.kafka import DEFAULT_HEAP_MB

Kind = Literal["process", "container", "existing"]


class Part(BaseModel):
    """One server of a stack. `pid` and `created` (seconds since the epoch) only where we started a process."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    address: str
    port: int | None = None
    pid: int | None = None
    created: float | None = None


class StackState(BaseModel):
    """What a stack consists of; also the content of its state file."""

    model_config = ConfigDict(frozen=True)

    name: str
    folder: Path
    kafka: Part
    postgres: Part
    controller_port: int | None = None
    heap_mb: int = DEFAULT_HEAP_MB

    @property
    def kafka_bootstrap(self) -> str:
        """host:port of the broker, as clients take it."""
        return self.kafka.address

    @property
    def postgres_url(self) -> str:
        """Address of the database server's administrator, with its password."""
        return self.postgres.address

    @property
    def in_containers(self) -> bool:
        """Whether containers serve, not processes of ours."""
        return self.kafka.kind == "container"

    @property
    def home(self) -> Path:
        """The folder that holds the downloads and all stacks."""
        return self.folder.parent.parent


def process_part(address: str, port: int, pid: int) -> Part:
    return Part(kind="process", address=address, port=port, pid=pid, created=processes.started_at(pid))


def read_state(folder: Path) -> StackState | None:
    """The state file's content; None when there is none or a crash left half of one."""
    try:
        return StackState.model_validate_json(state_file(folder).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write_state(state: StackState) -> StackState:
    write_private(state_file(state.folder), state.model_dump_json(indent=2) + "\n")
    return state


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step; it holds a password, so only its owner may read it."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            handle.write(text)
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise explain_os_error(error, doing="writing the stack's state", path=path) from error


def state_file(folder: Path) -> Path:
    return folder / "state.json"
