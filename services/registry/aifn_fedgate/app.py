"""Assembles the gate; the only `main`."""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
from aifn_common import clock, telemetry
from aifn_common.database import CONNECTION_FAULTS, Database, close, connect, transaction
from aifn_common.health import add_probes
from aifn_common.hearing import Hearing
from aifn_common.problems import BodyLimit, add_problems
from aifn_common.rooms import Service, Timer
from aifn_common.service import Worker, calm_garbage_collection, prepare, serve
from aifn_common.settings import WrongSetting, read_settings
from aifn_common.topics import BrokerAway, prepare_topics
from fastapi import FastAPI

from aifn_fedgate import api, delivery, measures, mirrored, subscribers, timers, topics
from aifn_fedgate.actions.heads import raise_epoch
from aifn_fedgate.actions.repair import Repair
from aifn_fedgate.door import Door
from aifn_fedgate.members import Members
from aifn_fedgate.settings import FedgateSettings
from aifn_fedgate.signing import WrongKeyFile
from aifn_fedgate.state_topics import read_state
from aifn_fedgate.store import peers

log = logging.getLogger(__name__)
USAGE = "usage: aifn-fedgate migrate|serve|raise-epoch|unfreeze MEMBER STREAM"


def service_for(door: Door) -> Service:
    """The gate's rooms."""
    return Service(
        name="fedgate",
        package="aifn_fedgate",
        hears=subscribers.hears_for(door),
        settings=FedgateSettings,
        routers=[api.router],
        measures=[measures.measure],
    )


class GateWorker(Worker):
    """A worker that also hears mirrored topics, and repairs what is missing."""

    def __init__(self, service: Service, door: Door, repair: "RepairAtWork") -> None:
        super().__init__(service, door.settings)
        self._door = door
        self._repair = repair

    def _leading_work(self, hearing: Hearing, db: Database) -> list[Coroutine[Any, Any, None]]:
        door = self._door
        if door.settings.kafka:
            found = super()._leading_work(hearing, db)
            if door.settings.relays:
                found.append(mirrored.hear(db, door))
        else:
            found = [delivery.deliver(db, door)]
        return [*found, self._guard(hearing, db)]

    async def _guard(self, hearing: Hearing, db: Database) -> None:
        """Trust again whom we trusted, look whether a backup was restored, then keep the timers."""
        repair = self._repair.begin(db)
        await timers.begin(repair)
        self._door.ready.set()
        ticks = [
            self._tick(Timer(one.name, one.every_seconds, one.action), db, hearing) for one in timers.all_of(repair)
        ]
        await asyncio.gather(*ticks)


class RepairAtWork:
    """Makes the repair once there is a database, and lets the routes find it."""

    def __init__(self, app: FastAPI, door: Door, http: httpx.AsyncClient) -> None:
        self._app = app
        self._door = door
        self._http = http

    def begin(self, db: Database) -> Repair:
        """The repair on this database."""
        door = self._door
        carried = partial(read_state, door) if door.settings.kafka and door.settings.relays else None
        repair = Repair(db, door, Members(door, self._http), carried)
        self._app.state.repair = repair
        return repair


def make_app(door: Door) -> FastAPI:
    """The whole gate in one process: it hears, repairs and answers."""
    service = service_for(door)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
            worker = GateWorker(service, door, RepairAtWork(app, door, http))
            app.state.worker = worker
            async with worker:
                yield

    app = FastAPI(title="AIFN fedgate", version="0.1.0", redoc_url=None, docs_url=None, lifespan=life)
    app.include_router(api.router)
    app.state.door = door
    app.state.repair = None
    app.state.worker = None
    app.add_middleware(BodyLimit, most=door.settings.max_body_bytes)
    app.add_middleware(DatabaseAtHand, app_state=app.state)
    add_problems(app)

    def worker() -> GateWorker | None:
        found: GateWorker | None = app.state.worker
        return found

    add_probes(
        app,
        packages=service.packages,
        db=lambda: one.db if (one := worker()) else None,
        watch=lambda: one.watch if (one := worker()) else None,
    )
    return app


class DatabaseAtHand:
    """Lets routes find the worker's pool, as soon as there is one."""

    def __init__(self, app: Any, app_state: Any) -> None:
        self._app = app
        self._state = app_state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        worker = self._state.worker
        self._state.db = worker.db if worker is not None else None
        await self._app(scope, receive, send)


def main() -> None:
    """Run one role: `aifn-fedgate migrate|serve`, or one order of an operator."""
    match sys.argv[1:]:
        case ["migrate" | "serve" | "raise-epoch" as role]:
            _run(role, "", "")
        case ["unfreeze", member, stream]:
            _run("unfreeze", member, stream)
        case _:
            print(USAGE, file=sys.stderr)
            sys.exit(os.EX_USAGE)


def _run(role: str, member: str, stream: str) -> None:
    try:
        settings = read_settings(FedgateSettings)
        door = Door.open(settings)
    except (WrongSetting, WrongKeyFile) as wrong:
        print(f"aifn-fedgate: {wrong}", file=sys.stderr)
        sys.exit(os.EX_CONFIG)
    telemetry.set_up("fedgate", settings)
    clock.use(settings.clock())
    if role == "serve":
        calm_garbage_collection()
        door.ready.clear()
        serve(make_app(door), settings)
        return
    try:
        asyncio.run(_order(role, door, member, stream))
    except BrokerAway as away:
        print(f"aifn-fedgate: AIFN_KAFKA cannot be reached: {away}", file=sys.stderr)
        sys.exit(os.EX_UNAVAILABLE)
    except CONNECTION_FAULTS as fault:
        print(f"aifn-fedgate: the database of AIFN_DATABASE_URL cannot be reached: {fault!r}", file=sys.stderr)
        sys.exit(os.EX_UNAVAILABLE)


async def _order(role: str, door: Door, member: str, stream: str) -> None:
    db = await connect(door.settings.database_url.get_secret_value(), connections=2)
    try:
        if role == "migrate":
            await prepare(service_for(door), door.settings, db)
            if door.settings.kafka:
                await prepare_topics(door.settings)
                await topics.create_out_topics(door.settings)
        elif role == "raise-epoch":
            await door.recall(db)
            print(f"signed again: {await raise_epoch(db, door)}")
        else:
            async with transaction(db) as tx:
                done = await peers.unfreeze(tx, member, stream)
            print(f"{member}/{stream} is {'believed again' if done else 'not frozen'}")
    finally:
        await close(db)


if __name__ == "__main__":
    main()
