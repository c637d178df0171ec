"""How a process is getting on: started, alive, ready.

Alive asks the event loop alone: whoever can answer is alive, and restarting helps nobody else. Ready asks the
database, the schema and the subscriptions. Pinging a broker proves nothing (a consumer can be stuck while pings
succeed), so a subscription is judged by progress: messages wait and none has been handled for a while, though nothing
is being worked on.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from aifn_common import migrations, telemetry
from aifn_common.database import Database, Opening
from aifn_common.hearing import Hearing

SAMPLE_SECONDS = 2.0
BUSY_FACTOR = 5
"""Work on one message or batch may take so many times `stall_seconds` before it counts as stuck."""
MOST_SAMPLES = 500
Consumers = Callable[[], Sequence[tuple[str, Any]]]
Ends = dict[Any, tuple[int, int]]


class Backlog:
    """When messages came into one partition, as far as one could see: its end at the moments of looking."""

    def __init__(self) -> None:
        self._ends: deque[tuple[float, int]] = deque()

    def waits_since(self, position: int, end: int, now: float) -> float | None:
        """The moment by which the message at `position` was there; None if none waits.

        >>> backlog = Backlog()
        >>> looks = (5, 5, 10.0), (5, 7, 12.0), (5, 9, 14.0), (7, 9, 16.0), (9, 9, 18.0)
        >>> [backlog.waits_since(*look) for look in looks]
        [None, 12.0, 12.0, 14.0, None]
        """
        if (not self._ends or end > self._ends[-1][1]) and len(self._ends) < MOST_SAMPLES:
            self._ends.append((now, end))
        while self._ends and self._ends[0][1] <= position:
            self._ends.popleft()
        if position >= end:
            return None
        return self._ends[0][0] if self._ends else now


@dataclass
class Progress:
    """What a look at one consumer group told."""

    assigned: int = 0
    lag: int = 0
    handled: int = 0
    member: bool = False
    moved_at: float = field(default_factory=lambda: time.monotonic())
    backlogs: dict[Any, Backlog] = field(default_factory=dict)


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
            self.tell()
            await asyncio.sleep(SAMPLE_SECONDS)

    async def look(self, group: str, consumer: Any) -> None:
        """Note how many partitions a consumer has, how many messages wait in them, and whether anything moved."""
        seen = self.groups.setdefault(group, Progress())
        assigned = consumer.assignment() if consumer is not None else frozenset()
        ends = await _ends(consumer, assigned) if assigned else {}
        lag = seen.lag if ends is None else sum(max(0, end - position) for end, position in ends.values())
        member = group in self._hearing.joined or bool(assigned)
        handled = self._hearing.handled.get(group, 0) + self._hearing.dead_in_a_row.get(group, 0)
        lost = seen.member and not member
        if ends is not None:
            self._tell(group, seen, ends, moved=handled != seen.handled)
            if handled != seen.handled or (lag == 0 and not lost) or self._busy(group):
                seen.moved_at = time.monotonic()
        seen.assigned, seen.lag, seen.handled = len(assigned), lag, handled
        seen.member = seen.member or member

    def _tell(self, group: str, seen: Progress, ends: Ends, *, moved: bool) -> None:
        now = time.monotonic()
        seen.backlogs = {tp: seen.backlogs.get(tp, Backlog()) for tp in ends}
        since = [seen.backlogs[tp].waits_since(position, end, now) for tp, (end, position) in ends.items()]
        waits = [now - moment for moment in since if moment is not None]
        if waits and moved:
            # After a start nobody saw them come; what was handled just now came no later than what still waits.
            waits.append(time.time() - self._hearing.newest.get(group, time.time() * 1000) / 1000)
        telemetry.metrics.lag.set(sum(max(0, end - position) for end, position in ends.values()), group=group)
        telemetry.metrics.lag_seconds.set(max(waits, default=0.0), group=group)

    def tell(self) -> None:
        """Put into the metrics how the groups are getting on."""
        unassigned, stopped, stalled = self.unassigned(), self.stopped(), self.stalled()
        for group, _ in self._consumers():
            telemetry.metrics.joined.set(group not in unassigned, group=group)
            telemetry.metrics.stopped.set(group in stopped, group=group)
            telemetry.metrics.stalled.set(group in stalled, group=group)

    def problems(self) -> list[str]:
        """What keeps this worker from doing its work, in words."""
        found = [f"{what} waits: {why}" for what, why in list(self._hearing.waits.items())]
        missing = {group: topic for group, consumer in self._consumers() if (topic := _missing_topic(consumer))}
        found += [f"{group} has not joined its group" for group in self.unassigned() if group not in missing]
        found += [f"{group}: the broker has no topic {topic}" for group, topic in missing.items()]
        found += [f"{group} stopped after too many dead letters" for group in self.stopped()]
        return found + [f"{group} makes no progress" for group in self.stalled()]

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


async def _ends(consumer: Any, assigned: Iterable[Any]) -> Ends | None:
    """End and position of each partition, by a question of its own to the broker; None if it does not answer.

    What the consumer itself remembers comes with its fetches, and a consumer that is stuck fetches nothing.
    """
    with suppress(Exception):
        async with asyncio.timeout(2):
            ends = await consumer.end_offsets(list(assigned))
            return {tp: (int(end), int(await consumer.position(tp))) for tp, end in ends.items()}
    return None


def _missing_topic(consumer: Any) -> str | None:
    """The topic that a member without partitions was to read, if the broker does not know it."""
    if consumer is None or consumer.assignment():
        return None
    return next((topic for topic in sorted(consumer.subscription()) if not consumer.partitions_for_topic(topic)), None)


def add_probes(
    app: Starlette,
    *,
    packages: Sequence[str],
    db: Callable[[], Database | None],
    watch: Callable[[], Watch | None],
    opening: Opening | None = None,
) -> None:
    """Add /livez, /readyz, /startupz and /metrics: outside /v1 and outside OpenAPI."""
    known = migrations.newest_of(*packages)

    async def live(_: Request) -> Response:
        return _verdict([])

    async def ready(_: Request) -> Response:
        watching = watch()
        return _verdict(await _base(db(), known, opening) + (watching.problems() if watching else []))

    async def started(_: Request) -> Response:
        return _verdict(await _base(db(), known, opening))

    async def metrics(_: Request) -> Response:
        pool = db()
        if pool is not None:
            idle = pool.get_idle_size()
            telemetry.metrics.connections.set(idle, state="idle")
            telemetry.metrics.connections.set(pool.get_size() - idle, state="used")
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    probes = {"/livez": live, "/readyz": ready, "/startupz": started, "/metrics": metrics}
    for path, answer in probes.items():
        app.add_route(path, answer, include_in_schema=False)


def _verdict(failed: list[str]) -> Response:
    return JSONResponse({"ok": not failed, "failed": failed}, 503 if failed else 200)


async def _base(pool: Database | None, known: dict[str, int], opening: Opening | None) -> list[str]:
    """What is wrong with the database or with its schema."""
    if pool is None:
        why = opening.waits_for if opening is not None else None
        return [f"database: {why or 'no connection yet'}"]
    try:
        async with asyncio.timeout(2):
            problem = (await migrations.fit(pool, known)).problem
    except TimeoutError:
        return ["database: no answer within 2 s"]
    except Exception as fault:
        return [f"database: {' '.join(str(fault).split()) or type(fault).__name__}"]
    return [f"schema: {problem}"] if problem else []
