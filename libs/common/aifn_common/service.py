"""Puts a service together from its rooms and runs it in one of its roles: api, worker, migrate."""

import asyncio
import gc
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
from aifn_common.database import CONNECTION_FAULTS, Database, Transaction, connect, connect_patiently, transaction
from aifn_common.health import Watch, add_probes
from aifn_common.kafka import Hearing, Subscriptions, make_broker, start_together
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
    """The HTTP side of a service. Until the database answers, only the probes say something useful."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(httpx.AsyncClient(timeout=5))
            app.state.validator = validator or TokenValidator(settings.oidc_issuer, service.audience, http=http)
            await stack.enter_async_context(_pool(settings, lambda db: setattr(app.state, "db", db)))
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
        self._hears = service.hears.of(settings.member)
        self._tasks: list[asyncio.Task[None]] = []
        self._stack = AsyncExitStack()
        self._broker: KafkaBroker | None = None
        self._readers: list[BatchReader] = []
        self._hearing: Hearing | None = None
        self.db: Database | None = None
        self.watch: Watch | None = None

    async def __aenter__(self) -> "Worker":
        await self._stack.enter_async_context(_pool(self._settings, self._begin))
        return self

    def _begin(self, db: Database) -> None:
        hearing = self._hearing = Hearing(db, self._settings)
        self.db = db
        self.watch = Watch(hearing, self._consumers)
        self._readers = [BatchReader(one, hearing) for one in self._hears.batches]
        work: dict[str, Callable[[], Awaitable[None]]] = {
            "hear": lambda: self._hear(hearing, db),
            "lead": lambda: self._lead(hearing, db),
            "watch": self.watch.run,
            "commit": hearing.commit_now_and_then,
        }
        self._tasks = [asyncio.create_task(_keep_at(name, one), name=name) for name, one in work.items()]

    async def __aexit__(self, *_: object) -> None:
        if self._hearing is not None:
            self._hearing.stopping.set()
            hear, *others = self._tasks
            await asyncio.wait([hear], timeout=STOP_SECONDS)
            for task in (hear, *others):
                task.cancel()
            await asyncio.wait(self._tasks, timeout=10)
        await self._stack.aclose()

    async def _hear(self, hearing: Hearing, db: Database) -> None:
        """Hear until the process stops, then let running work end."""
        await _unless(hearing.stopping, _wait_for_schema(self._service, db))
        readers = [asyncio.create_task(reader.run()) for reader in self._readers]
        try:
            while self._hears.single and not hearing.stopping.is_set():
                await self._hear_one_by_one(hearing)
            await asyncio.gather(*readers)
        finally:
            for reader in readers:
                reader.cancel()

    async def _hear_one_by_one(self, hearing: Hearing) -> None:
        broker = make_broker(self._hears, hearing)
        try:
            await _unless(hearing.stopping, start_together(broker))
            self._broker = broker
            await hearing.stopping.wait()
        except Exception as fault:
            log.warning("waiting for the broker: %r", fault)
        finally:
            with suppress(Exception):
                async with asyncio.timeout(self._settings.graceful_seconds):
                    await hearing.at_rest()
                    await hearing.commit()
            # A broker that is away would keep `stop` for ever.
            with suppress(Exception):
                async with asyncio.timeout(STOP_SECONDS):
                    await broker.stop()
        await _unless(hearing.stopping, asyncio.sleep(1))

    async def _lead(self, hearing: Hearing, db: Database) -> None:
        """Run what only one worker of a service may run, while this one holds the lock."""
        await _wait_for_schema(self._service, db)
        while True:
            try:
                await self._lead_while_connected(hearing, db)
            except CONNECTION_FAULTS as fault:
                log.warning("leading waits for the database: %r", fault)
            except asyncpg.InterfaceError as fault:
                # What the client says when it finds its connection closed.
                log.warning("leading lost its connection: %s", fault)
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
                with telemetry.tracer.start_as_current_span(f"{self._service.name} {timer.name}"):
                    await timer.action(db, self._settings)
            except CONNECTION_FAULTS as fault:
                log.warning("timer %s waits: %r", timer.name, fault)
            except Exception:
                log.exception("timer %s failed", timer.name)
            await asyncio.sleep(timer.every_seconds)

    def _consumers(self) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = [(reader.group, reader.consumer) for reader in self._readers]
        if self._broker is None:
            return found + [(one.group, None) for one in self._hears.single]
        subscribers = self._broker.subscribers
        return found + [(str(getattr(one, "group_id", "")), getattr(one, "consumer", None)) for one in subscribers]


@asynccontextmanager
async def _pool(settings: ServiceSettings, use: Callable[[Database], None]) -> AsyncIterator[None]:
    """Open the pool and tell `use`: at once, or in the background if the server does not answer yet.

    A process that waits must answer its probes and stop when told to. A wrong password or name is raised at once.
    """
    pools: list[Database] = []

    def keep(db: Database) -> None:
        pools.append(db)
        use(db)

    async def later() -> None:
        keep(await connect_patiently(url, connections=settings.database_connections))

    url = settings.database_url.get_secret_value()
    waiting: asyncio.Task[None] | None = None
    try:
        keep(await connect(url, connections=settings.database_connections))
    except CONNECTION_FAULTS as fault:
        log.warning("waiting for the database: %r", fault)
        waiting = asyncio.create_task(_keep_at("connecting", later))
    try:
        yield
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.wait([waiting])
        for db in pools:
            await _close(db)


async def _keep_at(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do work to its end; a fault nobody thought of is logged, and the work begins again."""
    while True:
        try:
            return await work()
        except Exception:
            log.exception("%s failed and begins again", name)
            await asyncio.sleep(1)


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do work unless the process stops first; then it is given up. Raises what the work raises."""
    doing, told = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({doing, told}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
    finally:
        for task in (doing, told):
            task.cancel()
        await asyncio.wait({doing, told}, timeout=5)


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
    """Serve until SIGTERM or SIGINT, then drain; the process ends with status 0."""
    # The server raises the signal once more when it has drained, for whoever was there before it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
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
    calm_garbage_collection()
    if role == "migrate":
        asyncio.run(_migrate(service, settings))
    else:
        serve(make_api(service, settings) if role == "api" else make_worker(service, settings), settings)


def calm_garbage_collection() -> None:
    """Look for garbage less often: a batch of thousands of events is no garbage, and looking costs a third of it."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


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
