"""What the scheduler hears, through the plumbing: copies, foreign and old words, nonsense."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aifn_common.database import Database
from aifn_common.kafka import Hearing, make_broker
from aifn_events.access import AwardGranted
from aifn_events.base import Event
from aifn_events.catalog import TOPICS
from aifn_events.placement import BudgetRefused, JobClosed, JobDispatched, JobPlaced
from aifn_events.shares import AllocationChanged
from aifn_scheduler import subscribers, timers
from aifn_scheduler.settings import SchedulerSettings
from faststream.kafka import KafkaBroker, TestKafkaBroker

from tests.scheduler.make import (
    NOW,
    allocation,
    announced,
    award_of_the_ju,
    capacity,
    ended,
    held,
    machine,
    project,
    started,
    submit,
    tick,
    world,
)
from tests.support.kafka import message


@pytest.fixture
async def broker(db: Database, limits: SchedulerSettings) -> AsyncIterator[KafkaBroker]:
    """A broker in memory with all subscriptions of the scheduler."""
    made = make_broker(subscribers.hears, Hearing(db, limits))
    async with TestKafkaBroker(made):
        yield made


async def say(broker: KafkaBroker, event: Event, **changes: Any) -> None:
    said = message(event) | changes
    headers = {name: value.decode() for name, value in said["headers"]}
    await broker.publish(said["value"], said["topic"], key=said["key"], headers=headers)


async def dead(db: Database) -> list[str]:
    """Why messages were set aside since the last look; the broker in memory gives every message the same offset."""
    return [row["code"] for row in await db.fetch("DELETE FROM dead_letter RETURNING code")]


def test_it_hears_what_the_catalogue_says() -> None:
    heard = {one.kind.topic for one in subscribers.hears.single}
    assert heard == {topic.name for topic in TOPICS if "scheduler" in topic.consumers}


async def test_an_award_of_the_ju_is_said_once_and_one_for_another_factory_is_set_aside(
    db: Database, broker: KafkaBroker
) -> None:
    await say(broker, machine())
    heard = award_of_the_ju()
    for event in (heard, heard, award_of_the_ju(factory_id="bsc-aif")):
        await say(broker, event)
    assert [one.project_id for one in await announced(db, AwardGranted)] == ["aif-ju-2026-0001"]
    assert await dead(db) == ["foreign_award"]


async def test_an_extended_allocation_ends_later_in_whatever_order_that_is_heard(
    db: Database, broker: KafkaBroker
) -> None:
    opened = allocation()
    values = {"allocation_id": opened.allocation_id, "project_id": opened.project_id, "resource": opened.resource}
    times = {"starts_at": opened.starts_at, "ends_at": opened.ends_at + timedelta(days=90)}
    for event in (
        AllocationChanged.example(revision=2, **values, **times),
        opened,
        AllocationChanged.example(revision=1, **values, **(times | {"ends_at": opened.ends_at})),
    ):
        await say(broker, event)
    kept = await db.fetchrow("SELECT machine_id, partition_id, ends_at FROM allocation")
    assert tuple(kept or ()) == ("lumi", "lumi-g", times["ends_at"])


async def test_a_job_lives_by_what_is_heard_alone(db: Database, broker: KafkaBroker, limits: SchedulerSettings) -> None:
    for event in (allocation(), capacity(), project(), machine()):
        await say(broker, event)
    job = await submit(db)
    await timers.plan_tick(db, limits)
    (placed,) = await announced(db, JobPlaced)
    for answer in (held(placed), started(job.job_id), ended(job.job_id)):
        await say(broker, answer)
    assert [one.job_id for one in await announced(db, JobDispatched)] == [job.job_id]
    assert [(one.job_id, one.outcome) for one in await announced(db, JobClosed)] == [(job.job_id, "completed")]
    assert await dead(db) == []


async def test_every_word_may_come_twice(db: Database, broker: KafkaBroker, limits: SchedulerSettings) -> None:
    for event in (allocation(), capacity(), project(), machine()):
        await say(broker, event)
        await say(broker, event)
    job = await submit(db)
    await tick(db, limits)
    (placed,) = await announced(db, JobPlaced)
    for answer in (held(placed), started(job.job_id), ended(job.job_id)):
        await say(broker, answer)
        await say(broker, answer)
        await say(broker, answer.model_copy(update={"id": "the-same-said-anew"}))
    assert len(await announced(db, JobDispatched)) == 1
    assert len(await announced(db, JobClosed)) == 1
    assert await dead(db) == []


async def test_the_end_heard_before_the_start_closes_the_job_and_the_start_adds_its_time(
    db: Database, broker: KafkaBroker, limits: SchedulerSettings
) -> None:
    await world(db)
    job = await submit(db)
    await tick(db, limits)
    await say(broker, held((await announced(db, JobPlaced))[0]))
    await say(broker, ended(job.job_id))
    await say(broker, started(job.job_id))
    assert len(await announced(db, JobClosed)) == 1
    row = await db.fetchrow("SELECT state, outcome, started_at FROM job")
    assert row is not None
    assert tuple(row) == ("closed", "completed", NOW)
    assert await dead(db) == []


async def test_news_of_an_unknown_job_is_set_aside(db: Database, broker: KafkaBroker) -> None:
    refused = BudgetRefused.example(job_id="nobody")
    for event in (started("nobody"), ended("nobody"), refused):
        await say(broker, event)
    assert await dead(db) == ["not_found"] * 3


async def test_a_site_that_speaks_of_a_job_it_was_not_given_is_set_aside(
    db: Database, broker: KafkaBroker, limits: SchedulerSettings
) -> None:
    await world(db)
    job = await submit(db)
    await say(broker, ended(job.job_id))
    assert await dead(db) == ["not_dispatched"]
    await tick(db, limits)
    await say(broker, held((await announced(db, JobPlaced))[0]))
    await say(broker, ended(job.job_id, machine_id="leonardo"))
    assert await dead(db) == ["wrong_site"]
    await say(broker, ended(job.job_id))
    await say(broker, ended(job.job_id, outcome="failed"))
    assert await dead(db) == ["already_closed"]
    assert len(await announced(db, JobClosed)) == 1


async def test_an_older_report_is_set_aside_and_an_older_member_list_changes_nothing(
    db: Database, broker: KafkaBroker
) -> None:
    await say(broker, capacity(nodes=5))
    await say(broker, capacity(nodes=9, at=NOW.replace(year=2020)))
    assert await db.fetchval("SELECT nodes_in_service FROM capacity") == 5
    await say(broker, project("p1", "mari", revision=2))
    await say(broker, project("p1", "eve", revision=1))
    assert await db.fetchval("SELECT subject FROM membership") == "mari"
    assert await dead(db) == ["stale_event"]


async def test_a_report_that_cannot_be_true_is_set_aside_and_shuts_out_no_true_one(
    db: Database, broker: KafkaBroker
) -> None:
    await say(broker, capacity(nodes=4000))
    assert await dead(db) == []
    await db.execute("DELETE FROM capacity")
    await say(broker, machine())
    now = datetime.now(UTC)
    for wrong, code in (
        (capacity(at=now + timedelta(minutes=5)), "observed_in_future"),
        (capacity().model_copy(update={"machine_id": "leonardo"}), "foreign_report"),
        (capacity(nodes=2979), "absurd_capacity"),
    ):
        await say(broker, wrong)
        assert await dead(db) == [code]
    assert await db.fetchval("SELECT count(*) FROM capacity") == 0
    await say(broker, capacity(nodes=2978, at=now + timedelta(seconds=30)))
    assert await db.fetchval("SELECT nodes_in_service FROM capacity") == 2978
    assert await dead(db) == []


async def test_a_message_that_is_no_event_is_set_aside_and_changes_nothing(db: Database, broker: KafkaBroker) -> None:
    await say(broker, capacity(), value=b'{"partition_id": "lumi-g", "nodes_in_service": -1}')
    assert await db.fetchval("SELECT count(*) FROM capacity") == 0
    assert await dead(db) == ["invalid_payload"]
