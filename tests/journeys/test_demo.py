"""The main job as a newcomer sees it: every service and role its own process, a real broker, a real database."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from aifn_local import stack, workload
from aifn_local.demo import Demo, Outcome, Progress, Workload, running_factory
from aifn_local.fleet import Fleet

pytestmark = [pytest.mark.journey, pytest.mark.kafka, pytest.mark.timeout(600)]

SIX_HOURS = 6 * 3600
ARRIVAL_SECONDS = 45

Disturb = Callable[[Fleet, stack.StackState], Coroutine[Any, Any, None]]


def short_jobs(count: int) -> Workload:
    """The first real jobs that end within six hours."""
    jobs = [job for job in workload.philly() if job.run_seconds <= SIX_HOURS][:count]
    return Workload(jobs, f"{count} short jobs of the Philly log")


@pytest.fixture
def own_stack() -> Iterator[stack.StackState]:
    """A broker and a database server that this test may kill."""
    with stack.running(heap_mb=320) as state:
        yield state


async def play(state: stack.StackState, logs: Path, jobs: Workload, disturb: Disturb | None = None) -> Outcome:
    factor = max(job.submitted_second for job in jobs.jobs) // ARRIVAL_SECONDS
    async with running_factory(state, logs, factor) as (factory, fleet):
        demo = Demo(factory, fleet, state, jobs, Progress(lambda _: None))
        disturbing = asyncio.create_task(disturb(fleet, state)) if disturb else None
        outcome = await demo.run()
        if disturbing is not None:
            await disturbing
        return outcome


def failures(outcome: Outcome) -> list[str]:
    return [f"{one.statement}: {one.numbers}" for one in outcome.checks if not one.holds]


async def test_the_demo_tells_its_whole_story_and_every_invariant_holds(
    own_stack: stack.StackState, tmp_path: Path
) -> None:
    outcome = await play(own_stack, tmp_path, short_jobs(120))

    assert failures(outcome) == []
    assert len(outcome.checks) >= 9
    assert outcome.verified["passed"] is True
    assert len(outcome.jobs) == 220
    assert {job["state"] for job in outcome.jobs} == {"closed"}
    assert {firm.application["state"] for firm in outcome.firms} == {"awarded"}
    assert outcome.university["state"] == "refused"
    assert [finding["rule"] for finding in outcome.university["findings"] if not finding["passed"]]
    assert [(answer["state"], answer["decided_by"]) for answer in outcome.access] == [
        ("granted", "rule"),
        ("granted", "steward"),
    ]
    assert "rocm-porting" in {one["course_id"] for one in outcome.suggestions}
    assert all(one["cause"]["topic"] == "aifn-award-granted-v1" for one in outcome.suggestions)
    assert outcome.seat["course_id"] == "rocm-porting"
    assert sum(took for _, took in outcome.first_job) > 0
    assert outcome.restarts == {}


async def test_killing_every_process_in_turn_loses_and_doubles_nothing(
    own_stack: stack.StackState, tmp_path: Path
) -> None:
    killed: list[str] = []

    async def kill_one_after_the_other(fleet: Fleet, state: stack.StackState) -> None:
        await asyncio.sleep(8)
        workers = [name for name in fleet.members if not name.endswith("-api")]
        apis = [name for name in fleet.members if name.endswith("-api")]
        for name in [*workers, *apis]:
            await asyncio.to_thread(fleet.kill, name)
            killed.append(name)
            await asyncio.sleep(2)
        await asyncio.to_thread(stack.restart_kafka, state, kill=True)
        await asyncio.to_thread(stack.restart_postgres, state, "kill")

    outcome = await play(own_stack, tmp_path, short_jobs(150), kill_one_after_the_other)

    assert failures(outcome) == []
    assert set(outcome.restarts) >= set(killed)
    assert len(killed) == 14
    assert outcome.refused_at_submission == {}
    assert len(outcome.jobs) == 250
