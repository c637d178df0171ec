"""What keeps a factory busy: the demo's firms, and a stream of small jobs while something is done to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aifn_local import story, workload
from aifn_local.people import Person, sign_in

from tests.containers.world import World
from tests.support.waiting import until

SIX_HOURS = 6 * 3600
PACE_SECONDS = 0.1
MOST_OPEN = 40


def small_workload(count: int) -> list[workload.TraceJob]:
    """The first real jobs that end within six hours."""
    return [job for job in workload.philly() if job.run_seconds <= SIX_HOURS][:count]


async def weather(world: World) -> Person:
    """Somebody with a project on the CPU partition, opened at the first call."""
    if story.CPU_PROJECT not in world.people:
        pi = await sign_in(world.http, world.factory, "applicant", "pi-weather")
        manager = await sign_in(world.http, world.factory, "allocation-manager")
        await story.wait_for_partitions(await sign_in(world.http, world.factory, "access-manager"))
        await story.open_cpu_project(manager, pi.subject)
        await until(lambda: _allocation_heard(world), seconds=120, what="the scheduler hears of the allocation")
        world.people[story.CPU_PROJECT] = pi
    return world.people[story.CPU_PROJECT]


async def _allocation_heard(world: World) -> bool:
    return bool(
        await world.tables.value(
            "scheduler", f"SELECT count(*) FROM allocation WHERE project_id = '{story.CPU_PROJECT}'"
        )
    )


def small_job(number: int) -> dict[str, object]:
    """Half an hour on an eighth of a node."""
    return {
        "project_id": story.CPU_PROJECT,
        "name": f"ensemble-{number}",
        "partition_id": story.CPU_PARTITION.name,
        "cores": 16,
        "walltime_seconds": 3600,
        "script": "#!/bin/sh\nsleep 1800\n",
    }


async def job_is_dispatched(world: World, name: str) -> None:
    """Submit a job and wait until the API says that its site has it.

    By then an event of the scheduler has had its effect in accounting, and accounting's answer in the scheduler.
    """
    person = await weather(world)
    job = await person.post("scheduler", "/v1/jobs", small_job(0) | {"name": name}, key=name)

    async def underway() -> bool:
        state = (await person.get("scheduler", f"/v1/jobs/{job['job_id']}"))["state"]
        return state not in ("queued", "placed")

    await until(underway, seconds=150, what="a job submitted afterwards is dispatched")


async def closed(world: World) -> int:
    """How many jobs have come to their end."""
    return int(await world.tables.value("scheduler", "SELECT count(*) FROM job WHERE state = 'closed'"))


@asynccontextmanager
async def under_load(world: World) -> AsyncIterator[None]:
    """Somebody submits ten jobs a second, unless many are open, as long as the block lasts; each must be taken."""
    person = await weather(world)
    done = asyncio.Event()

    async def submit() -> None:
        while not done.is_set():
            if world.submitted - await closed(world) < MOST_OPEN:
                number = world.submitted
                await person.post("scheduler", "/v1/jobs", small_job(number), key=f"load-{number}")
                world.submitted += 1
            await asyncio.sleep(PACE_SECONDS)

    submitting = asyncio.create_task(submit())
    try:
        yield
    finally:
        done.set()
        await submitting
