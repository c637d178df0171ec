"""A stack as containers, for those who have a Docker engine: `aifn stack up --docker`."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from aifn_local import compose, processes
from aifn_local.errors import StackError
from aifn_local.home import make_folder
from aifn_local.stack_processes import Say, anything_runs
from aifn_local.stack_state import Part, StackState, read_state, write_private, write_state


def up_docker(name: str, folder: Path, say: Say) -> StackState:
    before = read_state(folder)
    if before and before.in_containers and compose.compose_running(project(name)) == {"kafka", "postgres"}:
        return before
    if anything_runs(folder, None):
        raise StackError(f"the stack {name!r} runs as processes: stop it with `aifn stack down --name {name}` first")
    for setting in ("AIFN_KAFKA", "AIFN_POSTGRES"):
        if os.environ.get(setting):
            raise StackError(f"{setting} names an existing server and --docker starts one: leave one of the two away")
    make_folder(folder)
    password = _container_password(folder)
    kafka_port = processes.free_port(before.kafka.port if before else None)
    postgres_port = processes.free_port(before.postgres.port if before else None)
    say("starting the containers; the first time their images are pulled")
    try:
        compose.compose_up(project(name), kafka_port=kafka_port, postgres_port=postgres_port, password=password)
    except BaseException:
        with suppress(StackError):
            compose.compose_down(project(name), wipe=False)
        raise
    kafka = Part(kind="container", address=f"127.0.0.1:{kafka_port}", port=kafka_port)
    address = f"postgresql://aifn:{password}@127.0.0.1:{postgres_port}/postgres"
    postgres = Part(kind="container", address=address, port=postgres_port)
    return write_state(StackState(name=name, folder=folder, kafka=kafka, postgres=postgres))


def _container_password(folder: Path) -> str:
    """The password the containers' data was made with: it must outlive `down`."""
    path = folder / "container-password"
    with suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8").strip()
    password = secrets.token_hex(16)
    write_private(path, password + "\n")
    return password


def project(name: str) -> str:
    return f"aifn-{name}"
