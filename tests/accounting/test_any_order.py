"""Usage, corrections, holds and ends in any order, with any copies, in any batches: the same balances."""

import asyncio
import itertools
from dataclasses import dataclass

from aifn_accounting.settings import AccountingSettings
from aifn_common.database import Database
from aifn_events.usage import UsageReported
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.accounting.make import balances, broken_checks, charge, close, grant, hold, used
from tests.support.backends import Backends

GRANTED = 1000
HELD = {"j1": 150, "j2": 100, "j3": 0}
PROJECT = {"j1": "p1", "j2": "p2", "j3": "p1"}


@dataclass(frozen=True)
class Record:
    """A revision of a segment of a job; what it says follows from these, so that no two copies contradict."""

    job: str
    segment: int
    revision: int

    def event(self, salt: int) -> UsageReported:
        amount = (self.segment * 71 + self.revision * 137 + len(self.job) * 29 + salt * 53) % 400
        return used(self.job, amount, PROJECT[self.job], self.segment, revision=self.revision)


RECORDS = st.builds(Record, st.sampled_from(sorted(HELD)), st.integers(0, 2), st.integers(0, 3))


@st.composite
def stories(draw: st.DrawFn) -> tuple[list[list[Record]], list[list[Record]], dict[str, int], int, bool]:
    """Two ways to hear the same records, how many segments each job had, a salt, and whether ends come first."""
    records = draw(st.lists(RECORDS, min_size=1, max_size=14, unique=True))
    ways = []
    for _ in range(2):
        heard = draw(st.permutations(records + draw(st.lists(st.sampled_from(records), max_size=6))))
        cuts = sorted(draw(st.sets(st.integers(1, len(heard)), max_size=4)) | {0, len(heard)})
        ways.append([heard[a:b] for a, b in itertools.pairwise(cuts)])
    segments = {job: len({one.segment for one in records if one.job == job}) for job in HELD}
    return ways[0], ways[1], segments, draw(st.integers(0, 9)), draw(st.booleans())


def expected(records: set[Record], salt: int, project: str) -> tuple[int, int, int, int]:
    """What must come out: only the highest revision of each segment counts; finished jobs hold nothing."""
    latest: dict[tuple[str, int], Record] = {}
    for one in records:
        if PROJECT[one.job] == project:
            known = latest.get((one.job, one.segment))
            if known is None or known.revision < one.revision:
                latest[one.job, one.segment] = one
    charged = sum(one.event(salt).amounts["lumi/lumi-g/gpu-time"] for one in latest.values())
    rest = GRANTED - charged
    return (max(rest, 0), 0, charged, max(-rest, 0))


async def live(
    db: Database,
    config: AccountingSettings,
    batches: list[list[Record]],
    segments: dict[str, int],
    salt: int,
    *,
    early: bool,
) -> None:
    """Let all of it happen: jobs end in the middle, or before any usage is heard."""
    for project in ("p1", "p2"):
        await grant(db, project, GRANTED)
    for job, amount in HELD.items():
        await hold(db, job, amount, PROJECT[job])
    middle = 0 if early else (len(batches) + 1) // 2
    for number, batch in enumerate(batches):
        if number == middle:
            for job, count in segments.items():
                await close(db, job, count, PROJECT[job])
        assert await charge(db, config, *(one.event(salt) for one in batch)) == []
    if middle >= len(batches):
        for job, count in segments.items():
            await close(db, job, count, PROJECT[job])


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=stories())
def test_any_order_any_copies_any_batches_give_the_same_balances(
    backends: Backends,
    settings: AccountingSettings,
    story: tuple[list[list[Record]], list[list[Record]], dict[str, int], int, bool],
) -> None:
    first, second, segments, salt, early = story

    async def run(batches: list[list[Record]], *, early: bool) -> None:
        async with backends.database("aifn_accounting") as db:
            await live(db, settings, batches, segments, salt, early=early)
            records = {one for batch in batches for one in batch}
            for project in ("p1", "p2"):
                assert await balances(db, project) == expected(records, salt, project)
            assert await broken_checks(db) == []
            assert await db.fetchval("SELECT count(*) FROM usage_record") == len(records)

    # Databases of an example live in a loop of their own: hypothesis calls from outside the tests' loop.
    asyncio.run(run(first, early=early))
    asyncio.run(run(second, early=not early))
