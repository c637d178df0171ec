"""Creates topics as the catalogue describes them. Nothing else does: the broker makes none by itself."""

import asyncio

from aifn_events.catalog import TOPICS
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, TopicAlreadyExistsError, for_code

DEAD_LETTER_DAYS = 90


async def create_topics(kafka: str, *, replicas: int = 1, patience_seconds: float = 30) -> list[str]:
    """Create the catalogue's topics and their dead-letter topics where they are missing; returns the new names.

    Raises KafkaConnectionError when no broker answers within `patience_seconds`.
    """
    async with asyncio.timeout(patience_seconds):
        while True:
            admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
            try:
                await admin.start()
                break
            except KafkaConnectionError:
                await admin.close()
                await asyncio.sleep(0.3)
    try:
        there = set(await admin.list_topics())
        wanted = [new for new in _wanted(replicas) if new.name not in there]
        if not wanted:
            return []
        answer = await admin.create_topics(wanted)
        for name, code, *message in answer.topic_errors:
            if code and for_code(code) is not TopicAlreadyExistsError:
                raise for_code(code)(f"topic {name}: {message}")
        return [new.name for new in wanted]
    finally:
        await admin.close()


def _wanted(replicas: int) -> list[NewTopic]:
    dead = {"cleanup.policy": "delete", "retention.ms": str(DEAD_LETTER_DAYS * 86_400_000)}
    found = []
    for topic in TOPICS:
        found.append(NewTopic(topic.name, topic.partitions, replicas, topic_configs=topic.settings()))
        found.append(NewTopic(topic.dead_name, 1, replicas, topic_configs=dead))
    return found
