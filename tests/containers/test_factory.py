"""The demo's story in containers, and what happens to it when containers die, restart and are replaced."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest
from aifn_events.access import AwardGranted
from aifn_local import story
from aifn_local.invariants import Check
from aifn_local.people import Refused

from benchmarks.startup import AGAIN_TARGET_SECONDS
from tests.containers.conftest import Told
from tests.containers.load import job_is_dispatched, small_workload, under_load, weather
from tests.containers.world import World
from tests.support.waiting import until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

GRACE_SECONDS = 60.0
_WAITS_TO_WRITE = """
SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'RowExclusiveLock' AND relation = 'usage_record'::regclass"""


def broken(checks: list[Check]) -> list[str]:
    assert len(checks) >= 9
    return [f"{one.statement}: {one.numbers}" for one in checks if not one.holds]


async def test_the_demos_story_is_told_by_services_in_containers(told_time: World) -> None:
    world = told_time
    firms = story.ventures(small_workload(20), seed=1)
    access_manager = await world.person("access-manager")
    await story.wait_for_partitions(access_manager)
    pis = {}
    for firm in firms:
        pi = await world.person("applicant", f"pi-{firm.group}")
        await story.get_award(firm, pi, access_manager)
        pis[firm.project] = pi
    firm, pi = firms[-1], pis[firms[-1].project]
    assert (await story.try_as_university(await world.person("applicant", "pi-university")))["state"] == "refused"
    access = await story.broker_data(await world.person("data-steward"), pi, firm.project)
    assert [answer["state"] for answer in access] == ["granted", "granted"]
    suggested = await story.suggestions(pi, firm.project)
    assert {one["cause"]["topic"] for one in suggested} == {AwardGranted.topic}
    assert (await story.book_seat(pi, "rocm-porting"))["course_id"] == "rocm-porting"

    answers: list[Mapping[str, Any] | Refused] = []
    wishes = story.wishes(firms)
    await story.submit(wishes, pis, max(1, wishes[-1].second // 4), answers.append)
    assert [answer for answer in answers if isinstance(answer, Refused)] == []
    world.submitted += len(answers)

    assert broken(await world.at_rest()) == []
    jobs = await (await world.person("auditor")).pages("scheduler", "/v1/jobs")
    assert {job["state"] for job in jobs} == {"closed"}
    assert len(jobs) >= 20


async def test_a_container_killed_in_the_middle_of_a_batch_loses_and_doubles_nothing(
    told_time: World, figure: Told
) -> None:
    world = told_time
    await weather(world)
    ledger = await asyncpg.connect(world.factory.admin_url.rpartition("/")[0] + "/accounting")
    try:
        async with under_load(world):
            async with ledger.transaction():
                # A batch has read, locked its payers and decided; now it must wait to write: that is its middle.
                await ledger.execute("LOCK TABLE usage_record IN SHARE MODE")
                await until(lambda: _some(ledger, _WAITS_TO_WRITE), seconds=120, what="a batch is half done")
                await asyncio.to_thread(world.boxes["accounting-worker"].kill)
            seconds = await world.again("accounting-worker")
            figure("accounting-worker killed in mid-batch: ready again", seconds, AGAIN_TARGET_SECONDS)
        assert broken(await world.at_rest()) == []
    finally:
        await ledger.close()


async def _some(connection: asyncpg.Connection, statement: str) -> bool:
    return bool(await connection.fetchval(statement))


async def test_each_kind_of_container_may_be_killed_and_serves_again(told_time: World, figure: Told) -> None:
    world = told_time
    kinds = ("scheduler-worker", "scheduler-api", "siteagent-lumi", "datalab-worker", "registry-api")
    async with under_load(world):
        for name in kinds:
            await asyncio.to_thread(world.boxes[name].kill)
            figure(f"{name} killed: ready again", await world.again(name), AGAIN_TARGET_SECONDS)
        await asyncio.to_thread(world.postgres.kill)
        began = time.monotonic()
        await asyncio.to_thread(world.postgres.again)
        await asyncio.gather(*(world.ready(name) for name in world.boxes if name != "issuer"))
        figure("postgres killed: all services ready again", time.monotonic() - began, AGAIN_TARGET_SECONDS)
    assert broken(await world.at_rest()) == []


async def test_a_broker_container_killed_and_started_again_loses_and_doubles_nothing(
    told_time: World, figure: Told
) -> None:
    world = told_time
    async with under_load(world):
        await asyncio.sleep(1)
        began = time.monotonic()
        await asyncio.to_thread(world.kafka.kill)
        await asyncio.to_thread(world.kafka.again)
        await job_is_dispatched(world, "after-the-broker")
        figure("broker killed: what is said afterwards has its effect", time.monotonic() - began, AGAIN_TARGET_SECONDS)
        await asyncio.gather(*(world.ready(name) for name in world.boxes if name != "issuer"))
        figure("broker killed: all services ready again", time.monotonic() - began, AGAIN_TARGET_SECONDS)
    world.submitted += 1
    assert broken(await world.at_rest()) == []


async def test_workers_replaced_under_load_lose_and_double_nothing(told_time: World, figure: Told) -> None:
    world = told_time
    async with under_load(world):
        for name in ("accounting-worker", "scheduler-worker"):
            fresh = f"{name}-new"
            began = time.monotonic()
            await asyncio.to_thread(world.start, world.program(name), fresh, AIFN_INSTANCE=f"{name}-1")
            await world.ready(fresh)
            old = world.boxes.pop(name)
            # Both work together for a moment, then the old one is told to stop.
            await asyncio.sleep(1)
            status = await asyncio.to_thread(old.end)
            assert status == 0, old.words()[-2000:]
            await asyncio.to_thread(old.stop)
            figure(f"{name} replaced under load, the old one drained", time.monotonic() - began, GRACE_SECONDS)
    assert broken(await world.at_rest()) == []
