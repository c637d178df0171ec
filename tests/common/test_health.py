"""A process is alive while something moves or nothing waits; ready says what is missing, in words."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import asyncpg
import httpx
import pytest
from aifn_common import health, hearing, telemetry
from aifn_common.database import Database
from aifn_common.health import BUSY_FACTOR, Watch, add_probes
from aifn_common.hearing import Hearing, Membership
from aifn_common.service import PLUMBING
from aifn_common.settings import ServiceSettings
from fastapi import FastAPI

from tests.support.settings import settings

GROUP = "victim-job-placed-v1"


class Consumer:
    """A consumer as the watch sees it."""

    def __init__(self, *, partitions: int = 3, waiting: int = 0) -> None:
        self.partitions = partitions
        self.waiting = waiting
        self.silent = False
        self.there = True

    def assignment(self) -> set[int]:
        return set(range(self.partitions))

    async def end_offsets(self, partitions: list[int]) -> dict[int, int]:
        if self.silent:
            raise TimeoutError
        return dict.fromkeys(partitions, 10 + self.waiting)

    async def position(self, _: int) -> int:
        return 10

    def subscription(self) -> set[str]:
        return {"aifn-job-placed-v1"}

    def partitions_for_topic(self, _: str) -> set[int] | None:
        return {0, 1, 2} if self.there else None


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The watch's own time."""
    made = Clock()
    for module in (health, hearing):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=made, time=made))
    return made


def watch(consumer: Consumer | None, **more: Any) -> tuple[Watch, Hearing]:
    hearing = Hearing(cast(Database, None), settings(ServiceSettings, stall_seconds=60, **more))
    return Watch(hearing, lambda: [(GROUP, consumer)]), hearing


async def test_messages_that_wait_while_nothing_moves_are_a_stall(passing: Clock) -> None:
    watching, _ = watch(consumer := Consumer(waiting=5))
    for seconds, stalled in ((0, []), (59, []), (2, [GROUP])):
        passing.now += seconds
        await watching.look(GROUP, consumer)
        assert watching.stalled() == stalled


@pytest.mark.parametrize(
    "moves",
    [
        lambda hearing, _: hearing.succeeded(GROUP),
        lambda hearing, _: hearing.dead(GROUP),
        lambda hearing, passing: hearing.busy_since.update({GROUP: passing.now}),
        lambda *_: None,
    ],
    ids=["handled", "set aside", "busy", "nothing"],
)
async def test_anything_that_moves_is_progress(
    passing: Clock, moves: Callable[[Hearing, Clock], None], request: pytest.FixtureRequest
) -> None:
    watching, hearing = watch(consumer := Consumer(waiting=5))
    for _ in range(10):
        passing.now += 40
        moves(hearing, passing)
        await watching.look(GROUP, consumer)
    assert (watching.stalled() == []) is ("nothing" not in request.node.name)


async def test_a_queue_that_is_empty_is_no_stall(passing: Clock) -> None:
    watching, _ = watch(consumer := Consumer(waiting=0))
    for _ in range(5):
        passing.now += 100
        await watching.look(GROUP, consumer)
    assert watching.stalled() == []


async def test_one_message_worked_on_for_ever_is_a_stall_in_the_end(passing: Clock) -> None:
    watching, hearing = watch(consumer := Consumer(waiting=5))
    hearing.busy_since[GROUP] = passing.now
    await watching.look(GROUP, consumer)
    passing.now += 60 * BUSY_FACTOR - 1
    await watching.look(GROUP, consumer)
    assert watching.stalled() == []
    for _ in range(2):
        passing.now += 61
        await watching.look(GROUP, consumer)
    assert watching.stalled() == [GROUP]


async def test_work_that_waits_for_the_database_is_not_stuck(passing: Clock) -> None:
    watching, hearing = watch(consumer := Consumer(waiting=5))
    hearing.busy_since[GROUP] = passing.now
    passing.now += 60 * BUSY_FACTOR * 2
    left = 1

    async def work() -> None:
        nonlocal left
        if left:
            left -= 1
            raise ConnectionResetError

    await hearing.patiently(work, GROUP)
    assert hearing.busy_since[GROUP] == passing.now
    await watching.look(GROUP, consumer)
    passing.now += 61
    await watching.look(GROUP, consumer)
    assert watching.stalled() == []


async def test_a_broker_that_does_not_answer_is_no_stall_of_ours_but_a_known_one_stays(passing: Clock) -> None:
    watching, _ = watch(consumer := Consumer())
    consumer.silent = True
    for _ in range(3):
        passing.now += 100
        await watching.look(GROUP, consumer)
    assert watching.stalled() == []


async def test_a_member_that_loses_its_group_for_good_is_stalled_and_one_that_never_joined_is_not(
    passing: Clock,
) -> None:
    watching, hearing = watch(consumer := Consumer(partitions=0))
    await watching.look(GROUP, consumer)
    passing.now += 1000
    await watching.look(GROUP, consumer)
    assert (watching.stalled(), watching.unassigned()) == ([], [GROUP])
    membership = Membership(GROUP, hearing)
    membership.on_partitions_assigned(set())
    await watching.look(GROUP, consumer)
    # It stands by: a member without a partition, because others have them all.
    assert (watching.stalled(), watching.unassigned()) == ([], [])
    await membership.on_partitions_revoked(set())
    for _ in range(2):
        passing.now += 61
        await watching.look(GROUP, consumer)
    assert (watching.stalled(), watching.unassigned()) == ([GROUP], [GROUP])


async def test_a_subscription_stopped_by_dead_letters_is_not_restarted_for_it(passing: Clock) -> None:
    watching, hearing = watch(consumer := Consumer(waiting=5), dead_letter_limit=3)
    hearing.dead(GROUP, 3)
    for _ in range(3):
        passing.now += 61
        await watching.look(GROUP, consumer)
    assert (watching.stalled(), watching.stopped()) == ([], [GROUP])


async def probes(db: Database | None, watching: Watch | None) -> dict[str, tuple[int, list[str]]]:
    """What each probe answers."""
    app = FastAPI()
    add_probes(app, packages=(PLUMBING,), db=lambda: db, watch=lambda: watching)
    found = {}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x") as http:
        for path in ("/livez", "/readyz", "/startupz"):
            answer = await http.get(path)
            found[path] = answer.status_code, answer.json()["failed"]
        assert (await http.get("/metrics")).status_code == 200
    return found


async def test_probes_tell_in_words_what_is_wrong(db: Database, passing: Clock) -> None:
    watching, hearing = watch(consumer := Consumer(waiting=5), dead_letter_limit=3)
    assert await probes(None, None) == {
        "/livez": (200, []),
        "/readyz": (503, ["database: no connection yet"]),
        "/startupz": (503, ["database: no connection yet"]),
    }
    assert (await probes(db, watching))["/readyz"] == (503, [f"{GROUP} has not joined its group"])
    await watching.look(GROUP, consumer)
    assert await probes(db, watching) == {"/livez": (200, []), "/readyz": (200, []), "/startupz": (200, [])}
    passing.now += 61
    await watching.look(GROUP, consumer)
    found = await probes(db, watching)
    assert found["/readyz"] == (503, [f"{GROUP} makes no progress"])
    # Whoever answers is alive: a restart would end what goes well beside it.
    assert found["/livez"] == (200, [])
    hearing.dead(GROUP, 3)
    now = await probes(db, watching)
    assert now["/livez"] == (200, [])
    assert now["/readyz"] == (503, [f"{GROUP} stopped after too many dead letters"])


async def test_a_schema_that_is_behind_is_not_started(db: Database) -> None:
    await db.execute("DELETE FROM schema_migration")
    found = await probes(db, None)
    behind = "schema: the schema of aifn_common is at 0000 and this program needs 0001"
    assert found["/startupz"] == found["/readyz"] == (503, [behind])


async def test_a_database_that_hangs_makes_a_process_unready_and_not_dead() -> None:
    class Hanging:
        async def fetchval(self, *_: Any) -> None:
            import asyncio

            await asyncio.sleep(30)

        def get_size(self) -> int:
            return 1

        get_idle_size = get_size

    began = time.perf_counter()
    found = await probes(cast(Database, Hanging()), None)
    assert found["/livez"] == (200, [])
    assert found["/readyz"] == (503, ["database: no answer within 2 s"])
    assert time.perf_counter() - began < 20


async def test_a_topic_that_is_missing_is_named(passing: Clock) -> None:
    watching, hearing = watch(consumer := Consumer(partitions=0))
    consumer.there = False
    Membership(GROUP, hearing).on_partitions_assigned(set())
    await watching.look(GROUP, consumer)
    assert watching.problems() == [f"{GROUP}: the broker has no topic aifn-job-placed-v1"]
    consumer.there = True
    await watching.look(GROUP, consumer)
    assert watching.problems() == []


async def test_work_that_waits_for_something_outside_is_not_ready_and_says_for_what(passing: Clock) -> None:
    watching, hearing = watch(consumer := Consumer())
    await watching.look(GROUP, consumer)
    seen = []
    full = asyncpg.DiskFullError('could not extend file "base/5/16384": No space left on device')

    async def work() -> None:
        seen.append(watching.problems())
        if len(seen) == 1:
            raise full

    await hearing.patiently(work, GROUP)
    assert seen == [[], [f"{GROUP} waits: {full}"]]
    assert watching.problems() == []


def lag_seconds() -> float:
    """What the metrics say of the one group."""
    return telemetry.metrics.lag_seconds.values()[(GROUP,)]


async def test_lag_is_the_time_since_which_the_oldest_message_waits(passing: Clock) -> None:
    watching, _ = watch(consumer := Consumer(waiting=0))
    for waiting, seconds in ((0, 0.0), (3, 0.0), (3, 10.0), (9, 20.0), (0, 0.0)):
        passing.now += 10
        consumer.waiting = waiting
        await watching.look(GROUP, consumer)
        assert lag_seconds() == seconds
    # After a start nobody has seen them come: what was handled last tells how far behind one is.
    again, hearing = watch(consumer := Consumer(waiting=50))
    hearing.newest[GROUP] = int((passing.now - 3600) * 1000)
    hearing.succeeded(GROUP)
    await again.look(GROUP, consumer)
    assert lag_seconds() == 3600
