"""The same stack in containers: `compose.yaml` of this repository, by `docker compose` or `docker-compose`."""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from aifn_local.errors import StackError

_UP_SECONDS = 600.0
_HEALTHY_SECONDS = 120.0


def compose_file() -> Path:
    """The repository's compose.yaml, looked for upwards from the working folder and from here. Raises StackError."""
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            candidate = folder / "compose.yaml"
            if candidate.is_file() and "AIFN_KAFKA_IMAGE" in candidate.read_text(encoding="utf-8"):
                return candidate
    raise StackError("compose.yaml of aifn was not found: run the command inside a checkout, or leave --docker away")


def compose_up(project: str, *, kafka_port: int, postgres_port: int, password: str) -> None:
    """Start both containers and wait until they are healthy. Raises StackError, in one line."""
    settings = {
        "AIFN_KAFKA_PORT": str(kafka_port),
        "AIFN_POSTGRES_PORT": str(postgres_port),
        "AIFN_POSTGRES_PASSWORD": password,
    }
    _compose(project, ["up", "--detach", "--quiet-pull"], settings, timeout=_UP_SECONDS)
    _wait_healthy(project)


def _wait_healthy(project: str) -> None:
    """What `--wait` does in newer versions."""
    deadline = time.monotonic() + _HEALTHY_SECONDS
    identities = _compose(project, ["ps", "--quiet"], {}, timeout=30.0).split()
    while True:
        told = _docker(["inspect", "--format", "{{.State.Status}} {{.State.Health.Status}}", *identities])
        states = told.splitlines()
        if all(state == "running healthy" for state in states):
            return
        if any(state.startswith(("exited", "dead")) for state in states) or time.monotonic() > deadline:
            raise StackError(f"a container did not become healthy: see `{' '.join(_program())} -p {project} logs`")
        time.sleep(0.3)


def compose_down(project: str, *, wipe: bool) -> None:
    """Stop and remove the containers; `wipe` removes their data too."""
    _compose(project, ["down", *(["--volumes"] if wipe else [])], {}, timeout=120.0)


def compose_running(project: str) -> set[str]:
    """Which of the services run now."""
    return set(_compose(project, ["ps", "--services", "--filter", "status=running"], {}, timeout=30.0).split())


def compose_logs(project: str, service: str, lines: int) -> str:
    """The end of one container's log."""
    return _compose(project, ["logs", "--no-color", "--tail", str(lines), service], {}, timeout=30.0)


def _compose(project: str, arguments: Sequence[str], settings: dict[str, str], *, timeout: float) -> str:
    if shutil.which("docker") is None:
        raise StackError("docker was not found: install Docker with its compose plugin, or leave --docker away")
    # The password is a required setting of the file, also where it plays no part.
    # The older program gives up on a busy engine after a minute.
    environment = {"COMPOSE_HTTP_TIMEOUT": "300"} | os.environ | {"AIFN_POSTGRES_PASSWORD": "-"} | settings
    command = [*_program(), "--project-name", project, "--file", str(compose_file()), *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise StackError(
            f"{' '.join(_program())} was not done after {timeout:.0f} s: see its logs of the project {project}"
        ) from error
    if done.returncode != 0:
        raise _explain(done.stderr)
    return done.stdout


def _program() -> tuple[str, ...]:
    """The plug-in where there is one; else the program of its own that Debian 12 has (1.29)."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    standalone = plugin.returncode != 0 and shutil.which("docker-compose") is not None
    return ("docker-compose",) if standalone else ("docker", "compose")


def _docker(arguments: Sequence[str]) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise _explain(done.stderr)
    return done.stdout


def _explain(output: str) -> StackError:
    """Docker's own words, made one line of advice."""
    if "is not a docker command" in output or "unknown flag: --project-name" in output or "unknown shorthand" in output:
        return StackError(
            "docker has no compose: install docker-compose-plugin or docker-compose, or leave --docker away"
        )
    if "Cannot connect to the Docker daemon" in output or "permission denied while trying to connect" in output:
        return StackError("the Docker engine does not answer: start it and join its group, or leave --docker away")
    if "port is already allocated" in output or "address already in use" in output:
        return StackError("a port was taken by another program: run the command again to choose another")
    lines = [line for line in output.splitlines() if line.strip()]
    return StackError(f"docker compose failed: {lines[-1].strip()[:300] if lines else 'it printed nothing'}")
