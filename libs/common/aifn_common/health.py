"""How a process is getting on: started, alive, ready. Alive asks nobody outside; ready asks the database.

Pinging a broker proves nothing (a consumer can be stuck while pings succeed), so a worker is judged by progress:
messages wait and none has been handled for a while, though nothing is being worked on.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
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
BUSY_FACTOR = 5
"""Work on one message or batch may take so many times `stall_seconds` before it counts as stuck."""
Consumers = Callable[[], Sequence[tuple[str, Any]]]


@dataclass
class Progress:
    """What a look at one consumer group told."""

    assigned: int = 0
    lag: int = 0
    handled: int = 0
    member: bool = False
    moved_at: float = field(default_factory=lambda: time.monotonic())


class Watch:
    """Looks at every consumer of a process now and then."""

    def __init__(self, hearing: Hearing, consumers: Consumers) -> None:
        self._hearing = hearing
        self._consumers = consumers
        self.groups: dict[str, Progress] = {}

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.gather(*(self.look(group, consumer) for group, consumer in self._consumers()))
            await asyncio.sleep(SAMPLE_SECONDS)

    async def look(self, group: str, consumer: Any) -> None:
        """Note how many partitions a consumer has, how many messages wait in them, and whether anything moved."""
        seen = self.groups.setdefault(group, Progress())
        assigned = consumer.assignment() if consumer is not None else frozenset()
        lag = await _lag(consumer, assigned) if assigned else 0
        member = group in self._hearing.joined or bool(assigned)
        handled = self._hearing.handled.get(group, 0) + self._hearing.dead_in_a_row.get(group, 0)
        lost = seen.member and not member
        if lag is None:
            lag = seen.lag
        elif handled != seen.handled or (lag == 0 and not lost) or self._busy(group):
            seen.moved_at = time.monotonic()
        seen.assigned, seen.lag, seen.handled = len(assigned), lag, handled
        seen.member = seen.member or member

    def _busy(self, group: str) -> bool:
        since = self._hearing.busy_since.get(group)
        return since is not None and time.monotonic() - since < BUSY_FACTOR * self._hearing.settings.stall_seconds

    def stalled(self) -> list[str]:
        """Groups in which nothing has moved for too long, though messages wait or the membership was lost."""
        patience = self._hearing.settings.stall_seconds
        stopped = self._hearing.stopped_by_dead_letters()
        now = time.monotonic()
        return [
            group
            for group, seen in self.groups.items()
            if (seen.lag > 0 or self._lost(group, seen)) and now - seen.moved_at > patience and group not in stopped
        ]

    def _lost(self, group: str, seen: Progress) -> bool:
        return seen.member and seen.assigned == 0 and group not in self._hearing.joined

    def stopped(self) -> list[str]:
        """Groups that met too many dead letters in a row."""
        return self._hearing.stopped_by_dead_letters()

    def unassigned(self) -> list[str]:
        """Groups of this process that it is no member of (yet). A member without a partition stands by."""
        names = [group for group, _ in self._consumers()]
        known = self.groups
        return [n for n in names if n not in self._hearing.joined and known.get(n, Progress()).assigned == 0]


async def _lag(consumer: Any, assigned: Iterable[Any]) -> int | None:
    """Messages that wait, by a question of its own to the broker; None if it does not answer.

    What the consumer itself remembers comes with its fetches, and a consumer that is stuck fetches nothing.
    """
    with suppress(Exception):
        async with asyncio.timeout(2):
            ends = await consumer.end_offsets(list(assigned))
            return sum([max(0, int(end) - int(await consumer.position(tp))) for tp, end in ends.items()])
    return None


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
            checks |= {f"{group} has not joined its group": False for group in watching.unassigned()}
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
