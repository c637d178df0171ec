"""Capacity reports as they come from Kafka: copies, late ones, absurd ones."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aifn_common.database import Database
from aifn_common.kafka import Hearing, make_broker
from aifn_events.registry import CapacityReported
from aifn_registry import subscribers
from aifn_registry.settings import RegistrySettings
from faststream.kafka import KafkaBroker, TestKafkaBroker

from tests.registry import make
from tests.support.kafka import SOURCE, message


@pytest.fixture
async def broker(seeded: Database, settings: RegistrySettings) -> AsyncIterator[KafkaBroker]:
    """A broker in memory with the registry's subscriptions, its database seeded."""
    async with TestKafkaBroker(make_broker(subscribers.hears, Hearing(seeded, settings))) as running:
        yield running


async def say(broker: KafkaBroker, event: CapacityReported, **changed: Any) -> None:
    """Send a report; `changed` replaces parts of the message."""
    sent = message(event) | changed
    sent["headers"] = {name: value.decode() for name, value in dict(sent["headers"]).items()}
    await broker.publish(sent.pop("value"), **sent)


async def codes(db: Database) -> list[str]:
    """Why messages were set aside, in order."""
    return [row["code"] for row in await db.fetch("SELECT code FROM dead_letter ORDER BY id")]


async def test_a_report_is_kept_with_its_source_and_its_moment(broker: KafkaBroker, seeded: Database) -> None:
    seen = make.report(seconds_ago=10)
    await say(broker, seen)
    row = await seeded.fetchrow("SELECT * FROM capacity")
    assert row is not None
    assert (row["partition_id"], row["source"], row["observed_at"]) == ("lumi-g", SOURCE, seen.observed_at)
    assert (row["nodes_in_service"], row["slices_idle"]) == (seen.nodes_in_service, seen.slices_idle)
    assert row["received_at"] > seen.observed_at
    assert await codes(seeded) == []


async def test_the_same_report_delivered_twice_is_heard_once(broker: KafkaBroker, seeded: Database) -> None:
    first = make.report(seconds_ago=20)
    await say(broker, first)
    await say(broker, make.report(seconds_ago=10, jobs_running=1))
    await say(broker, first)
    assert await seeded.fetchval("SELECT jobs_running FROM capacity") == 1
    assert await codes(seeded) == []


async def test_an_older_observation_is_set_aside_and_changes_nothing(broker: KafkaBroker, seeded: Database) -> None:
    await say(broker, make.report(seconds_ago=10))
    before = await seeded.fetchrow("SELECT * FROM capacity")
    await say(broker, make.report(seconds_ago=11, jobs_running=1))
    assert await seeded.fetchrow("SELECT * FROM capacity") == before
    assert await codes(seeded) == ["stale_event"]
    assert await seeded.fetchval("SELECT topic FROM outbox") == "aifn-capacity-reported-v1-dead"


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"machine_id": "lumo"}, "unknown_partition"),
        ({"partition_id": "lumi-x"}, "unknown_partition"),
        ({"nodes_in_service": 2979}, "absurd_capacity"),
        ({"nodes_idle": 2901, "slices_idle": 2901 * 64}, "absurd_capacity"),
        ({"slices_idle": 2900 * 64 + 1}, "absurd_capacity"),
        ({"seconds_ago": -3600}, "observed_in_future"),
    ],
)
async def test_a_report_that_cannot_be_true_is_set_aside_with_its_reason(
    broker: KafkaBroker, seeded: Database, wrong: dict[str, Any], code: str
) -> None:
    await say(broker, make.report(**wrong))
    assert await codes(seeded) == [code]
    assert await seeded.fetchval("SELECT count(*) FROM capacity") == 0


@pytest.mark.parametrize(
    "words", [b"{", b"{}", b'{"nodes_in_service": -1}', b'{"nodes_in_service": 1e3}', b"null"], ids=repr
)
async def test_a_malformed_report_is_set_aside(broker: KafkaBroker, seeded: Database, words: bytes) -> None:
    await say(broker, make.report(), value=words)
    assert len(await codes(seeded)) == 1
    assert await seeded.fetchval("SELECT count(*) FROM capacity") == 0


async def test_after_a_refused_report_the_next_good_one_is_heard(broker: KafkaBroker, seeded: Database) -> None:
    await say(broker, make.report(nodes_in_service=2979))
    await say(broker, make.report())
    assert await seeded.fetchval("SELECT nodes_in_service FROM capacity") == 2900
    assert await codes(seeded) == ["absurd_capacity"]
