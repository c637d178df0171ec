"""How a process is getting on: started, alive, ready. Alive asks nobody outside; ready asks the database.

Pinging a broker proves nothing (a consumer can be stuck while pings succeed), so a worker is judged by progress:
messages wait and none has been handled for a while, though nothing is being worked on.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from aifn_common import migrations
from aifn_common.database import Database
from aifn_common.kafka import Hearing

SAMPLE_SECONDS = 2.0
Consumers = Callable[[], Sequence[tuple[str, Any]]]


@dataclass
class Progress:
    """What a look at one consumer group told."""

    assigned: int = 0
    lag: int = 0
    handled: int = 0
    moved_at: float = field(default_factory=time.monotonic)


class Watch:
    """Looks at every consumer of a process now and then."""

    def __init__(self, hearing: Hearing, consumers: Consumers) -> None:
        self._hearing = hearing
        self._consumers = consumers
        self.groups: dict[str, Progress] = {}

    async def run(self) -> None:
        """Look for ever."""
        while True:
            for group, consumer in self._consumers():
                await self.look(group, consumer)
            await asyncio.sleep(SAMPLE_SECONDS)

    async def look(self, group: str, consumer: Any) -> None:
        """Note how many partitions a consumer has, how many messages wait in them, and whether anything moved."""
        seen = self.groups.setdefault(group, Progress())
        assigned = consumer.assignment() if consumer is not None else frozenset()
        lag = 0
        for partition in assigned:
            with suppress(Exception):
                end = consumer.highwater(partition)
                position = await asyncio.wait_for(consumer.position(partition), 1)
                lag += max(0, (end or 0) - position)
        handled = self._hearing.handled.get(group, 0) + self._hearing.dead_in_a_row.get(group, 0)
        if handled != seen.handled or lag == 0 or group in self._hearing.busy_since:
            seen.moved_at = time.monotonic()
        seen.assigned, seen.lag, seen.handled = len(assigned), lag, handled

    def stalled(self) -> list[str]:
        """Groups in which messages wait and nothing has moved for too long."""
        patience = self._hearing.settings.stall_seconds
        stopped = self._hearing.stopped_by_dead_letters()
        now = time.monotonic()
        return [
            group
            for group, seen in self.groups.items()
            if seen.lag > 0 and now - seen.moved_at > patience and group not in stopped
        ]

    def stopped(self) -> list[str]:
        """Groups that met too many dead letters in a row."""
        return self._hearing.stopped_by_dead_letters()

    def unassigned(self) -> list[str]:
        """Groups of this process that hold no partition (yet)."""
        names = [group for group, _ in self._consumers()]
        return [group for group in names if self.groups.get(group, Progress()).assigned == 0]


def add_probes(
    app: FastAPI, *, packages: Sequence[str], db: Callable[[], Database | None], watch: Callable[[], Watch | None]
) -> None:
    """Add /livez, /readyz, /startupz and /metrics: outside /v1 and outside OpenAPI."""

    @app.get("/livez", include_in_schema=False)
    async def live() -> Response:
        watching = watch()
        stalled = watching.stalled() if watching else []
        return _verdict({f"{group} makes no progress": False for group in stalled})

    @app.get("/readyz", include_in_schema=False)
    async def ready() -> Response:
        checks = {"database": await _answers(db())}
        watching = watch()
        if watching:
            checks |= {f"{group} has no partition": False for group in watching.unassigned()}
            stopped = watching.stopped()
            checks |= {f"{group} stopped after too many dead letters": False for group in stopped}
        return _verdict(checks)

    @app.get("/startupz", include_in_schema=False)
    async def started() -> Response:
        pool = db()
        current = False
        if pool is not None:
            with suppress(Exception):
                current = await asyncio.wait_for(migrations.is_current(pool, *packages), 2)
        return _verdict({"schema": current})

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _verdict(checks: dict[str, bool]) -> Response:
    failed = [name for name, well in checks.items() if not well]
    return JSONResponse({"ok": not failed, "failed": failed}, 503 if failed else 200)


async def _answers(pool: Database | None) -> bool:
    if pool is None:
        return False
    with suppress(Exception):
        async with asyncio.timeout(2):
            return bool(await pool.fetchval("SELECT 1") == 1)
    return False
