"""The agent as a process of its own on a real broker, killed at any moment."""

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TypeVar

import pytest
from aifn_events.base import Event
from aifn_events.cloudevents import parse
from aifn_events.placement import JobEnded, JobStarted
from aifn_events.registry import CapacityReported, MachineDescribed
from aifn_events.usage import UsageDayStated, UsageReported
from aifn_siteagent.domain import UsageRecord, digest_of

from tests.siteagent.conftest import GPU_TIME, dispatched, passport
from tests.support.backends import Backends
from tests.support.kafka import read_all, send

E = TypeVar("E", bound=Event)
JOBS = 40


async def heard(kafka: str, kind: type[E]) -> list[E]:
    """Everything on a topic, each event once, as its receivers keep it."""
    found = {}
    for record in await read_all(kafka, kind.topic):
        event = parse(kind, record.headers, record.value)
        found[event.source, event.id] = event
    return list(found.values())


async def until(look: Callable[[], Awaitable[list[E]]], enough: Callable[[list[E]], object]) -> None:
    """Look until what is seen is enough; a minute at most."""
    deadline = time.monotonic() + 60
    while not enough(found := await look()):
        assert time.monotonic() < deadline, f"only {len(found)} events, the last of them {found[-1:]}"
        await asyncio.sleep(0.5)


@asynccontextmanager
async def agent(environment: dict[str, str], role: str = "worker") -> AsyncIterator[asyncio.subprocess.Process]:
    """The agent's process; killed at the end if it still runs."""
    program = "from aifn_siteagent.app import main; main()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, role, env=environment, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.kafka
async def test_an_agent_killed_again_and_again_loses_and_doubles_nothing(backends: Backends, kafka: str) -> None:
    url = await backends.new_database("aifn_siteagent")
    environment = {
        **os.environ,
        "AIFN_FACTORY": "lumi-aif",
        "AIFN_MACHINE": "lumi",
        "AIFN_DATABASE_URL": url,
        "AIFN_KAFKA": kafka,
        "AIFN_PORT": "0",
        "AIFN_INSTANCE": "lumi-0",
        "AIFN_TICK_SECONDS": "0.06",
        "AIFN_CLOCK_EPOCH": "2026-11-21T00:00:00Z",
        "AIFN_CLOCK_STARTED": datetime.now(UTC).isoformat(),
        "AIFN_CLOCK_FACTOR": "1000",
    }
    try:
        await send(kafka, MachineDescribed.example(partitions=[passport(nodes=2)]))
        async with agent(environment):
            # As the scheduler does: nothing is sent to a partition that has not reported itself.
            await until(lambda: heard(kafka, CapacityReported), len)
        for lot in range(4):
            numbers = range(lot * JOBS // 4, (lot + 1) * JOBS // 4)
            await send(kafka, *(dispatched(f"job-{number}", slices=32, script="sleep 1000") for number in numbers))
            async with agent(environment):
                await asyncio.sleep(2.5 + lot / 7)
        async with agent(environment):
            await until(lambda: heard(kafka, JobEnded), lambda found: len(found) >= JOBS)
            # An hour of the simulated clock later at the latest, its days are stated as they are.
            await until(
                lambda: heard(kafka, UsageDayStated),
                lambda found: sum(one.records for one in latest(found)) == JOBS,
            )
        await check(kafka)
    finally:
        await backends.drop(url)


async def check(kafka: str) -> None:
    """Every job once, and the site's own statements agree with what was heard."""
    names = {f"job-{number}": 1 for number in range(JOBS)}
    used = await heard(kafka, UsageReported)
    assert Counter(one.job_id for one in await heard(kafka, JobStarted)) == names
    assert Counter(one.job_id for one in await heard(kafka, JobEnded)) == names
    assert Counter(one.job_id for one in used) == names
    assert {one.amounts[GPU_TIME] for one in used} == {32 * 1000}
    for stated in latest(await heard(kafka, UsageDayStated)):
        assert stated.digest == digest_of(
            UsageRecord(one.local_job_id, one.submitted_at, one.segment, one.revision, GPU_TIME, one.amounts[GPU_TIME])
            for one in used
            if one.ended_at.date() == stated.day
        )


def latest(statements: list[UsageDayStated]) -> list[UsageDayStated]:
    """The statement that counts, for each day."""
    return list({one.day: one for one in sorted(statements, key=lambda one: one.revision)}.values())
