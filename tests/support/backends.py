"""Where the tests' broker and database come from: no test knows which of the three it is.

First of: addresses in the environment (AIFN_KAFKA and AIFN_POSTGRES, both or none); containers, when a Docker engine
answers and already has the images (or AIFN_TEST_PULL=1); the local stack.
"""

import asyncio
import os
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from aifn_common.database import Database, connect
from aifn_common.migrations import migrate
from aifn_common.service import PLUMBING
from aifn_local import processes, stack

KAFKA_IMAGE = os.environ.get("AIFN_KAFKA_IMAGE", "apache/kafka:4.3.1")
POSTGRES_IMAGE = os.environ.get("AIFN_POSTGRES_IMAGE", "postgres:18")


@dataclass
class Backends:
    """A broker, and a database server in which databases can be made. `state` is there for a local stack only."""

    kafka: str
    postgres: str
    origin: str
    state: stack.StackState | None = None
    templates: set[str] = field(default_factory=set)

    def url(self, database: str) -> str:
        """The address of one database."""
        return urlunsplit(urlsplit(self.postgres)._replace(path=f"/{database}"))

    async def template_of(self, package: str) -> str:
        """The name of a database with a service's schema in it, made at its first use."""
        name = f"template_{package}"
        if name not in self.templates:
            await self.execute(f'DROP DATABASE IF EXISTS "{name}"')
            await self.execute(f'CREATE DATABASE "{name}"')
            db = await connect(self.url(name), connections=2)
            await migrate(db, PLUMBING, package) if package != PLUMBING else await migrate(db, PLUMBING)
            await db.close()
            self.templates.add(name)
        return name

    async def execute(self, statement: str) -> None:
        """Run one statement as administrator."""
        connection = await asyncpg.connect(self.postgres)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    async def new_database(self, package: str) -> str:
        """A fresh database with a service's schema; returns its address."""
        template = await self.template_of(package)
        name = f"test_{secrets.token_hex(6)}"
        await self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    async def drop(self, url: str) -> None:
        """Remove a database, whoever is still connected."""
        await self.execute(f'DROP DATABASE IF EXISTS "{urlsplit(url).path[1:]}" WITH (FORCE)')

    @asynccontextmanager
    async def database(self, package: str) -> AsyncIterator[Database]:
        """A fresh database with a service's schema, gone afterwards."""
        url = await self.new_database(package)
        db = await connect(url, connections=20)
        try:
            yield db
        finally:
            db.terminate()
            await asyncio.sleep(0)
            await self.drop(url)


@contextmanager
def provide() -> Iterator[Backends]:
    """The first source that is there; see the module's first lines. Raises ValueError if one address is missing."""
    kafka, postgres = os.environ.get("AIFN_KAFKA"), os.environ.get("AIFN_POSTGRES")
    if bool(kafka) != bool(postgres):
        given, missing = ("AIFN_KAFKA", "AIFN_POSTGRES") if kafka else ("AIFN_POSTGRES", "AIFN_KAFKA")
        raise ValueError(f"{given} is set and {missing} is not: set both, or none to have servers started")
    if kafka and postgres:
        yield Backends(kafka, postgres, "the environment")
    elif _engine_has_images():
        with _containers() as backends:
            yield backends
    else:
        with stack.running(heap_mb=320) as state:
            yield Backends(state.kafka_bootstrap, state.postgres_url, "the local stack", state)


def _engine_has_images() -> bool:
    pull = os.environ.get("AIFN_TEST_PULL") == "1"
    try:
        for command in [["info"], *([] if pull else [["image", "inspect", KAFKA_IMAGE, POSTGRES_IMAGE]])]:
            done = subprocess.run(["docker", *command], capture_output=True, timeout=10, check=False)
            if done.returncode != 0:
                return False
    except (OSError, subprocess.TimeoutExpired):
        return False
    return True


@contextmanager
def _containers() -> Iterator[Backends]:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    port = processes.free_port(None)
    broker = DockerContainer(KAFKA_IMAGE).with_bind_ports(9092, port)
    settings = {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    }
    for name, value in settings.items():
        broker = broker.with_env(name, value)
    database = DockerContainer(POSTGRES_IMAGE).with_env("POSTGRES_PASSWORD", "test").with_exposed_ports(5432)
    broker = broker.waiting_for(LogMessageWaitStrategy("Kafka Server started"))
    database = database.waiting_for(LogMessageWaitStrategy("ready to accept connections", times=2))
    with broker, database:
        address = f"127.0.0.1:{database.get_exposed_port(5432)}"
        yield Backends(f"127.0.0.1:{port}", f"postgresql://postgres:test@{address}/postgres", "containers")
