"""`compose.yaml` on a real engine: the stack alone as `aifn stack up --docker` starts it, and one whole factory."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import yaml
from aifn_local import processes, stack
from aifn_local.compose import compose_file
from aiokafka.admin import AIOKafkaAdminClient

from tests.containers.world import SERVICES, image_of, kafka_image, postgres_image
from tests.support.engine import docker
from tests.support.waiting import until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

PROJECT = f"aifn-test-{os.getpid()}"
APIS = SERVICES[:-1]


@pytest.fixture
def same_images(images: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images these tests use everywhere, and no server of others."""
    monkeypatch.setenv("AIFN_KAFKA_IMAGE", kafka_image())
    monkeypatch.setenv("AIFN_POSTGRES_IMAGE", postgres_image())
    for name in ("AIFN_KAFKA", "AIFN_POSTGRES"):
        monkeypatch.delenv(name, raising=False)


def compose_program() -> list[str]:
    """The plug-in, or the older program of its own; skips where there is neither."""
    if docker("compose", "version") is not None:
        return ["docker", "compose"]
    if shutil.which("docker-compose") is None:
        pytest.skip("neither `docker compose` nor docker-compose is here")
    return ["docker-compose"]


def compose(*arguments: str, **settings: str) -> str:
    """What compose prints. Fails with what it said."""
    done = subprocess.run(
        [*compose_program(), "--project-name", PROJECT, "--file", str(compose_file()), "--profile", "factory",
         *arguments],
        env={**os.environ, "COMPOSE_HTTP_TIMEOUT": "300", "AIFN_POSTGRES_PASSWORD": "a1b2c3", **settings},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def factory_ports(same_images: None) -> Iterator[dict[str, int]]:
    """A factory started by compose, and where its APIs answer; gone afterwards, with its data."""
    ports = {name: processes.free_port(None) for name in (*APIS, "kafka", "postgres")}
    settings = {f"AIFN_{name.upper()}_PORT": str(port) for name, port in ports.items()}
    try:
        compose("up", "--detach", **settings)
        yield ports
    finally:
        compose("down", "--volumes", "--timeout", "5", **settings)


async def test_a_factory_of_compose_becomes_ready_by_itself_and_answers_nobody_without_a_token(
    factory_ports: dict[str, int],
) -> None:
    async with httpx.AsyncClient(timeout=5, trust_env=False) as http:

        async def ready(name: str) -> bool:
            try:
                return (await http.get(f"http://127.0.0.1:{factory_ports[name]}/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        for name in APIS:
            await until(lambda name=name: ready(name), seconds=240, what=f"{name} is ready")  # type: ignore[misc]
            answer = await http.get(f"http://127.0.0.1:{factory_ports[name]}/v1/dead-letters")
            assert answer.status_code == 401
            assert answer.headers["content-type"] == "application/problem+json"


async def test_the_stack_of_containers_serves_this_machine_and_keeps_its_data_over_down(
    same_images: None, tmp_path: Path
) -> None:
    compose_program()
    name = f"t{os.getpid()}"
    try:
        first = await asyncio.to_thread(stack.up, name, home=tmp_path, docker=True)
        assert [part.running for part in stack.status(name, tmp_path)] == [True, True]
        await execute(first.postgres_url, "CREATE TABLE kept AS SELECT 42 AS n")
        assert await topics(first.kafka_bootstrap) is not None
        assert await asyncio.to_thread(stack.down, name, tmp_path)
        second = await asyncio.to_thread(stack.up, name, home=tmp_path, docker=True)
        assert await execute(second.postgres_url, "SELECT n FROM kept") == 42
    finally:
        await asyncio.to_thread(lambda: stack.down(name, tmp_path, wipe=True))
    assert (
        docker("container", "ls", "--all", "--quiet", "--filter", f"label=com.docker.compose.project=aifn-{name}") == ""
    )
    assert docker("volume", "ls", "--quiet", "--filter", f"label=com.docker.compose.project=aifn-{name}") == ""


async def execute(url: str, statement: str) -> Any:
    connection = await asyncpg.connect(url, timeout=30)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def topics(bootstrap: str) -> list[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return list(await admin.list_topics())
    finally:
        await admin.close()


def test_compose_runs_each_service_in_each_role_confined_and_from_the_images_that_are_built() -> None:
    services: dict[str, Any] = yaml.safe_load(compose_file().read_text(encoding="utf-8"))["services"]
    ours = {name: told for name, told in services.items() if "profiles" in told}
    roles = {(name.rpartition("-")[0], name.rpartition("-")[2]) for name in ours}
    assert roles == {(name, role) for name in APIS for role in ("api", "worker", "migrate")} | {
        ("siteagent", "worker"),
        ("siteagent", "migrate"),
    }
    for name, told in ours.items():
        service, _, role = name.rpartition("-")
        assert told["command"] == [role]
        assert told["image"].replace("${AIFN_IMAGE_PREFIX:-aifn}", "aifn").replace(
            "${AIFN_IMAGE_TAG:-local}", "local"
        ) == image_of(service)
        assert (told["read_only"], told["cap_drop"]) == (True, ["ALL"])
        assert told["security_opt"] == ["no-new-privileges:true"]
