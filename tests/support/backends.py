"""Where the tests' broker and database come from: no test knows which of the three it is.

First of: addresses in the environment (AIFN_KAFKA and AIFN_POSTGRES, both or none); containers, when a Docker engine
answers and already has the images (or AIFN_TEST_PULL=1); the local stack.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from aifn_common.database import Database, connect
from aifn_common.migrations import migrate
from aifn_common.service import PLUMBING
from aifn_local import stack

from tests.support import engine
from tests.support.waiting import until


@dataclass
class Backends:
    """A broker, and a database server in which databases can be made. `state` is there for a local stack only."""

    kafka: str
    postgres: str
    origin: str
    state: stack.StackState | None = None
    templates: set[str] = field(default_factory=set)
    copies: str = "wal_log"

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

    async def hurry(self) -> None:
        """Do not wait for the disk: a server that is killed loses nothing by it, and no test pulls the plug.

        A new database for each test took 0.8 to 1.3 s, without the disk 0.4 to 0.5 s, copied as files 0.2 s.
        """
        await self.execute("ALTER SYSTEM SET fsync = off")
        await self.execute("ALTER SYSTEM SET full_page_writes = off")
        await self.execute("SELECT pg_reload_conf()")
        self.copies = "file_copy"

    async def new_database(self, package: str) -> str:
        """A fresh database with a service's schema; returns its address."""
        template = await self.template_of(package)
        name = f"test_{secrets.token_hex(6)}"
        await self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY {self.copies}')
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
    elif engine.engine_answers() and not engine.missing_images([engine.KAFKA_IMAGE, engine.POSTGRES_IMAGE]):
        with _containers() as backends:
            yield backends
    else:
        with stack.running(heap_mb=320) as state:
            backends = Backends(state.kafka_bootstrap, state.postgres_url, "the local stack", state)
            asyncio.run(backends.hurry())
            yield backends


@contextmanager
def _containers() -> Iterator[Backends]:
    """The two servers as containers, both ready."""
    engine.sweep()
    broker, kafka = engine.kafka_box()
    database, url = engine.postgres_box()
    with broker, database:
        engine.wait_for_kafka(broker)
        asyncio.run(answers(url))
        yield Backends(kafka, url, "containers")


async def answers(url: str) -> None:
    """Wait for the server itself: the one that an image runs to prepare its files is not open to others."""
    await until(lambda: _select_1(url), seconds=90, what="PostgreSQL in its container answers")


async def _select_1(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url, timeout=5)
    except (OSError, asyncpg.PostgresError, TimeoutError):
        return False
    await connection.close()
    return True
