"""What the Data Lab hears, through the plumbing: copies, old words, nonsense."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from aifn_common.database import Database
from aifn_common.kafka import Hearing, make_broker
from aifn_datalab import subscribers
from aifn_datalab.settings import DatalabSettings
from aifn_events.base import Event
from aifn_events.catalog import TOPICS
from aifn_events.shares import AllocationChanged
from faststream.kafka import KafkaBroker, TestKafkaBroker

from tests.datalab.make import allocation, ask, described, machine, offer, personal
from tests.support.kafka import message
from tests.support.settings import settings


@pytest.fixture
async def broker(db: Database) -> AsyncIterator[KafkaBroker]:
    """A broker in memory with all subscriptions of the Data Lab."""
    made = make_broker(subscribers.hears, Hearing(db, settings(DatalabSettings)))
    async with TestKafkaBroker(made):
        yield made


async def say(broker: KafkaBroker, event: Event, **changes: Any) -> None:
    said = message(event) | changes
    headers = dict(said["headers"])
    await broker.publish(
        said["value"], said["topic"], key=said["key"], headers={k: v.decode() for k, v in headers.items()}
    )


def test_it_hears_what_the_catalogue_says() -> None:
    heard = {one.kind.topic for one in subscribers.hears.single}
    assert heard == {topic.name for topic in TOPICS if "datalab" in topic.consumers}


async def test_project_allocation_and_machine_make_a_grant_possible(db: Database, broker: KafkaBroker) -> None:
    await offer(db, personal())
    for event in (described(), allocation(), machine()):
        await say(broker, event)
    assert (await ask(db, "voices", legal_basis="consent")).state == "granted"


async def test_an_extended_allocation_ends_later_in_whatever_order_that_is_heard(
    db: Database, broker: KafkaBroker
) -> None:
    opened = allocation()
    ends_at = opened.ends_at + timedelta(days=90)
    values = {"allocation_id": opened.allocation_id, "project_id": opened.project_id, "ends_at": ends_at}
    await say(broker, AllocationChanged.example(revision=1, **values))
    await say(broker, opened)
    assert [tuple(row) for row in await db.fetch("SELECT machine_id, ends_at FROM allocation")] == [("lumi", ends_at)]


async def test_the_same_allocation_heard_twice_is_kept_once_and_decides_once(db: Database, broker: KafkaBroker) -> None:
    await offer(db, personal())
    await say(broker, described())
    await say(broker, machine())
    await ask(db, "voices", legal_basis="consent")
    event = allocation()
    await say(broker, event)
    await say(broker, event)
    assert await db.fetchval("SELECT count(*) FROM allocation") == 1
    assert await db.fetchval("SELECT count(*) FROM outbox WHERE topic = 'aifn-dataset-access-decided-v1'") == 1


async def test_an_older_word_on_a_machine_is_set_aside_with_its_reason(db: Database, broker: KafkaBroker) -> None:
    await say(broker, machine(revision=3))
    await say(broker, machine(country="SE", revision=2))
    assert await db.fetchval("SELECT country FROM machine") == "FI"
    assert await db.fetchval("SELECT code FROM dead_letter") == "stale_event"


async def test_a_message_that_is_no_event_is_set_aside_and_changes_nothing(db: Database, broker: KafkaBroker) -> None:
    await say(broker, machine(), value=b'{"machine_id": 7}')
    assert await db.fetchval("SELECT count(*) FROM machine") == 0
    assert await db.fetchval("SELECT code FROM dead_letter") == "invalid_payload"
