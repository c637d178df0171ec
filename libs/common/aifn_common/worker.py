"""A service's worker: it hears, sends the outbox and keeps the timers, until it is told to stop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import asyncpg
from faststream.kafka import KafkaBroker

from aifn_common import dead_letters, idempotency, inbox, outbox, telemetry
from aifn_common.batches import BatchReader
from aifn_common.broker import reason_away
from aifn_common.database import CONNECTION_FAULTS, Database, Opening
from aifn_common.health import Watch
from aifn_common.hearing import Hearing
from aifn_common.kafka import make_broker, start_together, until_one_ends
from aifn_common.migrations import fit, newest_of
from aifn_common.outbox import Relay
from aifn_common.rooms import Service, Timer, source_of
from aifn_common.settings import ServiceSettings

log = logging.getLogger(__name__)
_LEAD = 0x61_69_66_6F
BROKER = "kafka"
CANCEL_SECONDS = 3
HOUSEKEEPING_SECONDS = 3600
# A machine that loses its power says no goodbye: without these its lock is held for hours, and nobody else may lead.
_LEADING_SESSION = {"tcp_keepalives_idle": "4", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3"}
MEASURE_SECONDS = 5


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
        self.opening = Opening(settings.database_url.get_secret_value(), settings.database_connections)
        self.db: Database | None = None
        self.watch: Watch | None = None

    async def __aenter__(self) -> "Worker":
        await self._stack.enter_async_context(self.opening.pool(self._begin))
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
            await asyncio.wait([hear], timeout=self._settings.stop_seconds)
            for task in (hear, *others):
                task.cancel()
            _ended, stuck = await asyncio.wait(self._tasks, timeout=CANCEL_SECONDS)
            for task in stuck:
                log.error("%s did not end in time and is left", task.get_name())
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
            hearing.waits.pop(BROKER, None)
            await _unless(hearing.stopping, until_one_ends(broker))
            if not hearing.stopping.is_set():
                log.error("a consumer has ended by a fault of its client: all of them start again")
        except Exception as fault:
            why = await reason_away(self._settings) or repr(fault)
            hearing.waits[BROKER] = why
            log.warning("waiting for the broker: %s", why)
        finally:
            with suppress(Exception):
                async with asyncio.timeout(self._settings.graceful_seconds):
                    await hearing.at_rest()
                    await hearing.commit()
            # A broker that is away would keep `stop` for ever.
            with suppress(Exception):
                async with asyncio.timeout(self._settings.stop_seconds):
                    await broker.stop()
            hearing.joined.difference_update(one.group for one in self._hears.single)
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
        url = self._settings.database_url.get_secret_value()
        connection = await asyncpg.connect(url, timeout=10, server_settings=_LEADING_SESSION)
        try:
            while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LEAD):  # noqa: ASYNC110
                await asyncio.sleep(1)
            tasks = [asyncio.create_task(work) for work in self._leading_work(hearing, db)]
            telemetry.metrics.leading.set(1)
            try:
                while not any(task.done() for task in tasks):
                    async with asyncio.timeout(10):
                        await connection.fetchval("SELECT 1")
                    await asyncio.sleep(2)
            finally:
                telemetry.metrics.leading.set(0)
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
        relay = Relay(db, settings, source=source_of(self._service, settings))
        timers = [self._tick(timer, db, hearing) for timer in self._service.timers]
        measuring = _keep_at("measuring", lambda: _measure(db, settings, self._service.measures))
        return [relay.run(), _keep_house(db), measuring, *timers]

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
    known, said = newest_of(*service.packages), None
    while True:
        with suppress(*CONNECTION_FAULTS):
            problem = (await fit(db, known)).problem
            if problem is None:
                return
            if problem != said:
                log.warning("waiting for the schema: %s: run `aifn-%s migrate`", problem, service.name)
                said = problem
        await asyncio.sleep(0.3)


async def _measure(
    db: Database, settings: ServiceSettings, measures: Sequence[Callable[[Database], Awaitable[None]]]
) -> None:
    """Look again and again at what the leading worker alone should tell, and tell nothing once it leads no longer."""
    try:
        while True:
            with suppress(*CONNECTION_FAULTS):
                await outbox.measure(db, clock_factor=settings.clock_factor)
                await dead_letters.measure(db)
                for one in measures:
                    await one(db)
            await asyncio.sleep(MEASURE_SECONDS)
    finally:
        telemetry.metrics.drop_leading()


async def _keep_house(db: Database) -> None:
    while True:
        with suppress(*CONNECTION_FAULTS):
            await inbox.forget_old(db)
            await idempotency.forget_old(db)
        await asyncio.sleep(HOUSEKEEPING_SECONDS)
