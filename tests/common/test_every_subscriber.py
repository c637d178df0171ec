"""One walk over all subscriptions of all services: what the plumbing promises holds for each of them."""

import importlib
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from aifn_common.batches import BatchReader
from aifn_common.database import Database
from aifn_common.kafka import Hearing, Subscriptions, make_broker
from aifn_common.settings import ServiceSettings
from aifn_events.catalog import BY_NAME, TOPICS, Service
from aiokafka import AIOKafkaConsumer
from faststream import AckPolicy

from tests.support.settings import settings

SERVICES = sorted(path.name for path in (Path(__file__).parents[2] / "services").iterdir() if path.is_dir())


def hears_of(service: str) -> Subscriptions:
    module = importlib.import_module(f"aifn_{service}.subscribers")
    hears = module.hears
    assert isinstance(hears, Subscriptions)
    return hears


def hearing() -> Hearing:
    return Hearing(cast(Database, None), settings(ServiceSettings, instance="replica-0"))


def subscribers(service: str) -> list[Any]:
    return list(make_broker(hears_of(service), hearing()).subscribers)


def test_every_service_is_walked() -> None:
    assert sorted(get_args(Service)) == SERVICES
    assert sum(len(subscribers(service)) for service in SERVICES) > 10


@pytest.mark.parametrize("service", SERVICES)
async def test_every_subscription_keeps_the_promises_of_the_plumbing(service: str) -> None:
    hears = hears_of(service)
    found = subscribers(service)
    assert len(found) == len(hears.single)
    kinds = {declared.group: declared.kind for declared in hears.single}
    assert len(kinds) == len(found), "a group for each topic"
    for one in found:
        topic = kinds[one.group_id].topic
        assert one.topic_names == [topic]
        assert one.group_id == f"{service}-{topic.removeprefix('aifn-')}"
        assert one.ack_policy is AckPolicy.NACK_ON_ERROR, "an offset moves on only after the effect"
        assert one._no_reply is True, "nobody sends an answer to a topic that a message names"
        consumer = one.builder(group_id=one.group_id, **one._connection_args)
        _assert_consumer(consumer, one.group_id)
        assert len(one.calls) == 1
        assert one.calls[0].item_parser is not None, "headers are kept from the framework"
        assert one._outer_config.allow_auto_create_topics is False
        assert one._outer_config.consumer_only is True, "what a service says goes through its outbox"


@pytest.mark.parametrize("service", SERVICES)
async def test_every_batch_reader_keeps_the_same_promises(service: str) -> None:
    for one in hears_of(service).batches:
        assert one.group == f"{service}-{one.kind.topic.removeprefix('aifn-')}"
        _assert_consumer(BatchReader(one, hearing())._make_consumer(), one.group)


def _assert_consumer(consumer: AIOKafkaConsumer, group: str) -> None:
    assert consumer._enable_auto_commit is False
    assert consumer._auto_offset_reset == "earliest"
    assert consumer._group_id == group
    assert consumer._group_instance_id == f"replica-0-{group}"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_hears_what_the_catalogue_says_it_hears(service: str) -> None:
    hears = hears_of(service)
    heard = [one.kind.topic for one in hears.single] + [one.kind.topic for one in hears.batches]
    assert len(heard) == len(set(heard)), "one subscription for each topic"
    assert set(heard) <= set(BY_NAME)
    assert set(heard) == {topic.name for topic in TOPICS if service in topic.consumers}


def test_usage_is_heard_in_batches() -> None:
    assert [one.kind.topic for one in hears_of("accounting").batches] == ["aifn-usage-reported-v1"]
