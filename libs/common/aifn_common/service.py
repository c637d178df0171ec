"""Puts a service together from its rooms and runs it in one of its roles: api, worker, migrate."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import asyncpg
import uvicorn
from starlette.applications import Starlette

from aifn_common import clock, telemetry
from aifn_common.broker import tls_context
from aifn_common.database import CONNECTION_FAULTS, Database, close, connect, transaction
from aifn_common.health import add_probes
from aifn_common.migrations import MigrationBusy, MigrationError, fit, migrate, newest_of
from aifn_common.one_write import OneWrite
from aifn_common.rooms import PLUMBING, Service, Timer, source_of
from aifn_common.settings import ServiceSettings, WrongSetting, read_settings
from aifn_common.topics import BrokerAway, prepare_topics
from aifn_common.worker import Worker

__all__ = ["PLUMBING", "Service", "Timer", "Worker", "make_worker", "prepare", "run", "serve", "source_of"]

_SEED = 0x61_69_66_70


class CannotStart(Exception):
    """Why a process cannot begin, in one line, and the status it ends with (those of sysexits.h)."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(" ".join(why.split()))
        self.status = status


async def prepare(service: Service, settings: ServiceSettings, db: Database) -> None:
    """Bring the database to this program's schema and first data. Safe to run by several at once, and again."""
    await migrate(db, *service.packages)
    if service.seed is not None:
        async with transaction(db) as tx:
            await tx.execute("SELECT pg_advisory_xact_lock($1)", _SEED)
            await service.seed(tx, settings)


def make_worker(service: Service, settings: ServiceSettings) -> Starlette:
    """The hearing and ticking side of a service; over HTTP it answers probes only."""
    worker = Worker(service, settings)

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        async with worker:
            yield

    app = Starlette(lifespan=life)
    add_probes(app, packages=service.packages, db=lambda: worker.db, watch=lambda: worker.watch, opening=worker.opening)
    return app


def serve(app: Starlette, settings: ServiceSettings) -> None:
    """Serve until SIGTERM or SIGINT, then drain; the process ends with status 0, or 70 if it could not begin."""
    # The server raises the signal once more when it has drained, for whoever was there before it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=OneWrite,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(settings.graceful_seconds),
        server_header=False,
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    server.run()
    if not server.started:
        sys.exit(os.EX_SOFTWARE)


def run(service: Service) -> None:
    """The `main` of a service: `aifn-<name> api|worker|migrate`.

    What makes it impossible to begin is one line on standard error and a status: 64 a wrong command, 78 a wrong
    setting, 65 a schema that is not for this program, 69 a server that did not answer `migrate`, 75 try again.
    """
    roles = ("api", "worker", "migrate") if service.routers else ("worker", "migrate")
    role = sys.argv[1] if len(sys.argv) == 2 else ""
    if role not in roles:
        _end(CannotStart(os.EX_USAGE, f"usage: aifn-{service.name} {'|'.join(roles)}"), "")
    try:
        settings = read_settings(service.settings)
        telemetry.set_up(service.name, settings)
        clock.use(settings.clock())
        calm_garbage_collection()
        if role == "migrate":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
            asyncio.run(migrate_service(service, settings))
            return
        asyncio.run(check(service, settings))
    except WrongSetting as wrong:
        _end(CannotStart(os.EX_CONFIG, str(wrong)), f"aifn-{service.name}: ")
    except CannotStart as wrong:
        _end(wrong, f"aifn-{service.name}: ")
    serve(_make(service, settings, role), settings)


def _make(service: Service, settings: ServiceSettings, role: str) -> Starlette:
    if role == "worker":
        return make_worker(service, settings)
    # Half of a start is importing this and the routes; a worker, which answers probes only, does without.
    from aifn_common.answering import make_api

    return make_api(service, settings)


def _end(why: CannotStart, who: str) -> NoReturn:
    print(f"{who}{why}", file=sys.stderr)
    sys.exit(why.status)


async def check(service: Service, settings: ServiceSettings) -> None:
    """Look once at what no waiting will mend. A server that does not answer yet is waited for later.

    Raises: WrongSetting, CannotStart.
    """
    tls_context(settings)
    try:
        db = await _connect(settings)
        try:
            found = await fit(db, newest_of(*service.packages))
        finally:
            await close(db)
    except CONNECTION_FAULTS:
        return
    if found.final:
        raise CannotStart(os.EX_DATAERR, found.problem or "")


async def _connect(settings: ServiceSettings) -> Database:
    try:
        return await connect(settings.database_url.get_secret_value(), connections=2)
    except CONNECTION_FAULTS:
        raise
    except asyncpg.PostgresError as wrong:
        raise CannotStart(os.EX_CONFIG, f"AIFN_DATABASE_URL is wrong: the server says: {wrong}") from None
    except (asyncpg.InterfaceError, ValueError) as wrong:
        raise CannotStart(os.EX_CONFIG, f"AIFN_DATABASE_URL is wrong: {wrong}") from None


def calm_garbage_collection() -> None:
    """Look for garbage less often: a batch of thousands of events is no garbage, and looking costs a third of it."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def migrate_service(service: Service, settings: ServiceSettings, *, patience_seconds: float = 60) -> None:
    """The role `migrate`: schema, first data and topics. Raises CannotStart, WrongSetting.

    Args:
        patience_seconds: how long to wait for the database, and then for the broker.
    """
    db = await connect_for_a_while(settings, patience_seconds)
    try:
        await prepare(service, settings, db)
        await prepare_topics(settings, patience_seconds=patience_seconds)
    except MigrationError as wrong:
        raise CannotStart(os.EX_DATAERR, str(wrong)) from None
    except MigrationBusy as busy:
        raise CannotStart(os.EX_TEMPFAIL, str(busy)) from None
    except BrokerAway as away:
        raise CannotStart(os.EX_UNAVAILABLE, f"AIFN_KAFKA cannot be reached: {away}") from None
    except CONNECTION_FAULTS as fault:
        raise CannotStart(os.EX_TEMPFAIL, f"the database stopped in the middle, nothing was changed: {fault}") from None
    finally:
        await close(db)


async def connect_for_a_while(settings: ServiceSettings, patience_seconds: float) -> Database:
    """A pool on a database that may not answer yet. Raises CannotStart, if it does not within `patience_seconds`."""
    fault: Exception = TimeoutError("it does not answer")
    try:
        async with asyncio.timeout(patience_seconds):
            while True:
                try:
                    return await _connect(settings)
                except CONNECTION_FAULTS as away:
                    fault = away
                    await asyncio.sleep(0.5)
    except TimeoutError:
        why = f"the database of AIFN_DATABASE_URL cannot be reached: {str(fault) or repr(fault)}"
        raise CannotStart(os.EX_UNAVAILABLE, why) from None
