"""Puts a service together from its rooms and runs it in one of its roles: api, worker, migrate."""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx
import uvicorn
from fastapi import APIRouter, FastAPI
from faststream.kafka import KafkaBroker

from aifn_common import clock, idempotency, inbox, operations, telemetry
from aifn_common.batches import BatchReader
from aifn_common.database import CONNECTION_FAULTS, Database, Transaction, connect_patiently, transaction
from aifn_common.health import Watch, add_probes
from aifn_common.kafka import Hearing, Subscriptions, make_broker
from aifn_common.migrations import MigrationError, is_current, migrate
from aifn_common.oidc import TokenValidator
from aifn_common.outbox import Relay
from aifn_common.settings import ServiceSettings, WrongSetting, read_settings
from aifn_common.topics import create_topics
from aifn_common.web import BodyLimit, add_problems

log = logging.getLogger(__name__)
PLUMBING = "aifn_common"
_LEAD = 0x61_69_66_6F
_SEED = 0x61_69_66_70
STOP_SECONDS = 50
HOUSEKEEPING_SECONDS = 3600


@dataclass(frozen=True)
class Timer:
    """Something done again and again, by one worker at a time, `every_seconds` of real time."""

    name: str
    every_seconds: float
    action: Callable[..., Awaitable[None]]


@dataclass(frozen=True)
class Service:
    """A service's rooms, as its app.py lists them."""

    name: str
    package: str
    hears: Subscriptions
    settings: type[ServiceSettings] = ServiceSettings
    routers: Sequence[APIRouter] = ()
    timers: Sequence[Timer] = ()
    seed: Callable[[Transaction, Any], Awaitable[None]] | None = field(default=None)

    @property
    def packages(self) -> tuple[str, str]:
        """Whose migrations its database has."""
        return (PLUMBING, self.package)

    @property
    def audience(self) -> str:
        """For whom a token must be meant."""
        return f"aifn-{self.name}"


def source_of(service: Service, settings: ServiceSettings) -> str:
    """Who speaks, as events name it."""
    return f"urn:aifn:{settings.factory}:{service.name}"


async def prepare(service: Service, settings: ServiceSettings, db: Database) -> None:
    """Bring the database to this program's schema and first data. Safe to run by several at once, and again."""
    await migrate(db, *service.packages)
    if service.seed is not None:
        async with transaction(db) as tx:
            await tx.execute("SELECT pg_advisory_xact_lock($1)", _SEED)
            await service.seed(tx, settings)


def make_api(service: Service, settings: ServiceSettings, *, validator: TokenValidator | None = None) -> FastAPI:
    """The HTTP side of a service. It takes requests once the database answers."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            url = settings.database_url.get_secret_value()
            app.state.db = await connect_patiently(url, connections=settings.database_connections)
            stack.push_async_callback(_close, app.state.db)
            http = await stack.enter_async_context(httpx.AsyncClient(timeout=5))
            app.state.validator = validator or TokenValidator(settings.oidc_issuer, service.audience, http=http)
            yield

    app = describe_api(service)
    app.router.lifespan_context = life
    app.state.settings = settings
    app.state.db = None
    app.add_middleware(BodyLimit, most=settings.max_body_bytes)
    add_problems(app)
    add_probes(app, packages=service.packages, db=lambda: app.state.db, watch=lambda: None)
    return app


def describe_api(service: Service) -> FastAPI:
    """The routes of a service alone: enough for its OpenAPI document."""
    app = FastAPI(title=f"AIFN {service.name}", version="0.1.0", redoc_url=None, docs_url=None)
    for router in (*service.routers, operations.router):
        app.include_router(router)
    return app


def make_worker(service: Service, settings: ServiceSettings) -> FastAPI:
    """The hearing and ticking side of a service; over HTTP it answers probes only."""
    worker = Worker(service, settings)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        async with worker:
            yield

    app = FastAPI(title=f"AIFN {service.name} worker", openapi_url=None, docs_url=None, redoc_url=None, lifespan=life)
    add_probes(app, packages=service.packages, db=lambda: worker.db, watch=lambda: worker.watch)
    return app


class Worker:
    """Everything of a service that is not HTTP: subscriptions, batches, relay, timers."""

    def __init__(self, service: Service, settings: ServiceSettings) -> None:
        self._service = service
        self._settings = settings
        self._tasks: list[asyncio.Task[None]] = []
        self._broker: KafkaBroker | None = None
        self._readers: list[BatchReader] = []
        self._hearing: Hearing | None = None
        self.db: Database | None = None
        self.watch: Watch | None = None

    async def __aenter__(self) -> "Worker":
        settings = self._settings
        self.db = await connect_patiently(
            settings.database_url.get_secret_value(), connections=settings.database_connections
        )
        self._hearing = Hearing(self.db, settings)
        self.watch = Watch(self._hearing, self._consumers)
        self._tasks = [asyncio.create_task(work, name=name) for name, work in self._work(self._hearing, self.db)]
        return self

    def _work(self, hearing: Hearing, db: Database) -> list[tuple[str, Any]]:
        assert self.watch is not None
        self._readers = [BatchReader(one, hearing) for one in self._service.hears.batches]
        return [
            ("hear", self._hear(hearing, db)),
            ("lead", self._lead(hearing, db)),
            ("watch", self.watch.run()),
        ]

    async def __aexit__(self, *_: object) -> None:
        assert self._hearing is not None
        assert self.db is not None
        self._hearing.stopping.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                if self._broker is not None:
                    await self._broker.stop()
        for task in self._tasks:
            if task.get_name() != "hear":
                task.cancel()
        await asyncio.wait(self._tasks, timeout=10)
        await _close(self.db)

    async def _hear(self, hearing: Hearing, db: Database) -> None:
        await _wait_for_schema(self._service, db)
        readers = [asyncio.create_task(reader.run()) for reader in self._readers]
        while self._service.hears.single and not hearing.stopping.is_set():
            broker = make_broker(self._service.hears, hearing)
            try:
                await broker.start()
                self._broker = broker
                break
            except Exception as fault:
                log.warning("waiting for the broker: %r", fault)
                with suppress(Exception):
                    async with asyncio.timeout(5):
                        await broker.stop()
                await asyncio.sleep(1)
        await asyncio.gather(*readers)

    async def _lead(self, hearing: Hearing, db: Database) -> None:
        """Run what only one worker of a service may run, while this one holds the lock."""
        await _wait_for_schema(self._service, db)
        while True:
            with suppress(*CONNECTION_FAULTS):
                await self._lead_while_connected(hearing, db)
            await asyncio.sleep(0.5)

    async def _lead_while_connected(self, hearing: Hearing, db: Database) -> None:
        connection = await asyncpg.connect(self._settings.database_url.get_secret_value(), timeout=10)
        try:
            while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LEAD):  # noqa: ASYNC110
                await asyncio.sleep(1)
            tasks = [asyncio.create_task(work) for work in self._leading_work(hearing, db)]
            try:
                while not any(task.done() for task in tasks):
                    async with asyncio.timeout(10):
                        await connection.fetchval("SELECT 1")
                    await asyncio.sleep(2)
            finally:
                for task in tasks:
                    task.cancel()
                for ended in await asyncio.gather(*tasks, return_exceptions=True):
                    if isinstance(ended, Exception):
                        log.error("leading work ended", exc_info=ended)
        finally:
            with suppress(Exception):
                await connection.close(timeout=5)

    def _leading_work(self, hearing: Hearing, db: Database) -> list[Coroutine[Any, Any, None]]:
        settings = self._settings
        source = source_of(self._service, settings)
        relay = Relay(db, kafka=settings.kafka, source=source, poll_seconds=settings.relay_poll_seconds)
        return [relay.run(), _keep_house(db), *(self._tick(timer, db, hearing) for timer in self._service.timers)]

    async def _tick(self, timer: Timer, db: Database, hearing: Hearing) -> None:
        while not hearing.stopping.is_set():
            try:
                await timer.action(db, self._settings)
            except CONNECTION_FAULTS as fault:
                log.warning("timer %s waits: %r", timer.name, fault)
            except Exception:
                log.exception("timer %s failed", timer.name)
            await asyncio.sleep(timer.every_seconds)

    def _consumers(self) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = [(reader.group, reader.consumer) for reader in self._readers]
        if self._broker is None:
            return found + [(one.group, None) for one in self._service.hears.single]
        subscribers = self._broker.subscribers
        return found + [(str(getattr(one, "group_id", "")), getattr(one, "consumer", None)) for one in subscribers]


async def _wait_for_schema(service: Service, db: Database) -> None:
    waited = False
    while True:
        with suppress(*CONNECTION_FAULTS):
            if await is_current(db, *service.packages):
                return
        if not waited:
            log.warning("waiting for the schema: run `aifn-%s migrate`", service.name)
            waited = True
        await asyncio.sleep(0.3)


async def _keep_house(db: Database) -> None:
    while True:
        with suppress(*CONNECTION_FAULTS):
            await inbox.forget_old(db)
            await idempotency.forget_old(db)
        await asyncio.sleep(HOUSEKEEPING_SECONDS)


async def _close(db: Database) -> None:
    try:
        async with asyncio.timeout(5):
            await db.close()
    except TimeoutError:
        db.terminate()


def serve(app: FastAPI, settings: ServiceSettings) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(settings.graceful_seconds),
        server_header=False,
    )
    uvicorn.Server(config).run()


def run(service: Service) -> None:
    """The `main` of a service: `aifn-<name> api|worker|migrate`. A wrong setting ends it with one line and status 2."""
    roles = ("api", "worker", "migrate") if service.routers else ("worker", "migrate")
    role = sys.argv[1] if len(sys.argv) == 2 else ""
    if role not in roles:
        sys.exit(f"usage: aifn-{service.name} {'|'.join(roles)}")
    try:
        settings = read_settings(service.settings)
    except WrongSetting as wrong:
        print(f"aifn-{service.name}: {wrong}", file=sys.stderr)
        sys.exit(2)
    telemetry.set_up(service.name, settings)
    clock.use(settings.clock())
    if role == "migrate":
        asyncio.run(_migrate(service, settings))
    else:
        serve(make_api(service, settings) if role == "api" else make_worker(service, settings), settings)


async def _migrate(service: Service, settings: ServiceSettings) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, sys.exit, 143)
    db = await connect_patiently(settings.database_url.get_secret_value(), connections=2)
    try:
        await prepare(service, settings, db)
        await create_topics(settings.kafka)
    except MigrationError as wrong:
        print(f"aifn-{service.name}: {wrong}", file=sys.stderr)
        sys.exit(3)
    finally:
        await _close(db)
