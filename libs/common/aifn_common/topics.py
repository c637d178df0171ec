"""Creates topics as the catalogue describes them. Nothing else does: the broker makes none by itself."""

import asyncio
from typing import Any

from aifn_events.catalog import TOPICS
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, TopicAlreadyExistsError, for_code

from aifn_common.broker import UNWILLING, connection_of, reason_away
from aifn_common.settings import ServiceSettings

DEAD_LETTER_DAYS = 90
MOST_PARTITIONS = max(topic.partitions for topic in TOPICS)


class BrokerAway(Exception):
    """No broker took the connection in time; the message says why."""


async def prepare_topics(settings: ServiceSettings, *, patience_seconds: float = 30) -> list[str]:
    """The same as the settings want it: over TLS, with so many replicas and partitions, or not at all.

    Raises: BrokerAway, WrongSetting.
    """
    if not settings.topic_replicas:
        return []
    try:
        wanted = _wanted(settings.topic_replicas, settings.topic_partitions)
        return await _create(connection_of(settings), wanted, patience_seconds)
    except (TimeoutError, KafkaConnectionError):
        raise BrokerAway(await reason_away(settings) or UNWILLING) from None


async def create_topics(kafka: str, *, partitions: int = MOST_PARTITIONS, patience_seconds: float = 30) -> list[str]:
    """Create the catalogue's topics and their dead-letter topics where they are missing; returns the new names.

    Raises TimeoutError when no broker answers within `patience_seconds`.
    """
    return await _create({"bootstrap_servers": kafka}, _wanted(1, partitions), patience_seconds)


async def _create(connection: dict[str, Any], topics: list[NewTopic], patience_seconds: float) -> list[str]:
    async with asyncio.timeout(patience_seconds):
        while True:
            admin = AIOKafkaAdminClient(**connection)
            try:
                await admin.start()
                break
            except KafkaConnectionError:
                await admin.close()
                await asyncio.sleep(0.3)
    try:
        there = set(await admin.list_topics())
        wanted = [new for new in topics if new.name not in there]
        if not wanted:
            return []
        answer = await admin.create_topics(wanted)
        for name, code, *message in answer.topic_errors:
            if code and for_code(code) is not TopicAlreadyExistsError:
                raise for_code(code)(f"topic {name}: {message}")
        return [new.name for new in wanted]
    finally:
        await admin.close()


def _wanted(replicas: int, most: int) -> list[NewTopic]:
    dead = {"cleanup.policy": "delete", "retention.ms": str(DEAD_LETTER_DAYS * 86_400_000)}
    found = []
    for topic in TOPICS:
        found.append(NewTopic(topic.name, min(topic.partitions, most), replicas, topic_configs=topic.settings()))
        found.append(NewTopic(topic.dead_name, 1, replicas, topic_configs=dead))
    return found
