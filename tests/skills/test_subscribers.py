"""What skills hears, through the plumbing: copies, old words, nonsense."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aifn_common.database import Database
from aifn_common.kafka import Hearing, make_broker
from aifn_events.base import Event
from aifn_events.catalog import TOPICS
from aifn_skills import subscribers
from aifn_skills.settings import SkillsSettings
from faststream.kafka import KafkaBroker, TestKafkaBroker

from tests.skills.make import described, granted, load, machine
from tests.support.kafka import message
from tests.support.settings import settings


@pytest.fixture
async def broker(db: Database) -> AsyncIterator[KafkaBroker]:
    """A broker in memory with all subscriptions of skills."""
    made = make_broker(subscribers.hears, Hearing(db, settings(SkillsSettings)))
    async with TestKafkaBroker(made):
        yield made


async def say(broker: KafkaBroker, event: Event, **changes: Any) -> None:
    said = message(event) | changes
    headers = {name: value.decode() for name, value in said["headers"]}
    await broker.publish(said["value"], said["topic"], key=said["key"], headers=headers)


def test_it_hears_what_the_catalogue_says() -> None:
    heard = {one.kind.topic for one in subscribers.hears.single}
    assert heard == {topic.name for topic in TOPICS if "skills" in topic.consumers}


async def test_an_award_heard_before_its_machine_still_leads_to_advice_once(db: Database, broker: KafkaBroker) -> None:
    await load(db)
    event = granted(mode="aif_fast_lane")
    for said in (event, event, machine(), event):
        await say(broker, said)
    assert await db.fetchval("SELECT cause_id FROM suggestion") == event.id
    assert await db.fetchval("SELECT count(*) FROM suggestion") == 1
    assert await db.fetchval("SELECT count(*) FROM outbox WHERE topic = 'aifn-course-suggested-v1'") == 1
    assert await db.fetchval("SELECT count(*) FROM dead_letter") == 0


async def test_the_same_award_told_by_two_events_is_one_award(db: Database, broker: KafkaBroker) -> None:
    await load(db)
    await say(broker, machine())
    for _ in range(2):
        await say(broker, granted(mode="aif_fast_lane"))
    assert await db.fetchval("SELECT count(*) FROM award") == 1
    assert await db.fetchval("SELECT count(*) FROM suggestion") == 1


async def test_an_award_at_another_factory_is_that_factory_s_to_advise_on(db: Database, broker: KafkaBroker) -> None:
    await load(db)
    await say(broker, machine())
    await say(broker, granted(mode="aif_fast_lane").model_copy(update={"factory_id": "bsc-aif"}))
    assert await db.fetchval("SELECT count(*) FROM award") == 0
    assert await db.fetchval("SELECT count(*) FROM dead_letter") == 0


async def test_members_are_remembered(db: Database, broker: KafkaBroker) -> None:
    await say(broker, described())
    assert await db.fetchval("SELECT project_id FROM membership WHERE subject = 'pi'") == "p1"


async def test_an_older_word_on_a_machine_is_set_aside_with_its_reason(db: Database, broker: KafkaBroker) -> None:
    await say(broker, machine(revision=3))
    await say(broker, machine(vendor="NVIDIA", revision=2))
    assert await db.fetchval("SELECT code FROM dead_letter") == "stale_event"


async def test_an_award_without_lines_is_set_aside_and_changes_nothing(db: Database, broker: KafkaBroker) -> None:
    event = granted()
    value = event.model_copy(update={"lines": []}).model_dump_json().encode()
    await say(broker, event, value=value)
    assert await db.fetchval("SELECT count(*) FROM award") == 0
    assert await db.fetchval("SELECT code FROM dead_letter") == "invalid_payload"
