"""The topics of this member's own log on its broker; those of the catalogue are made as for every service."""

import asyncio

from aifn_common.broker import UNWILLING, connection_of, reason_away
from aifn_common.settings import ServiceSettings
from aifn_common.topics import BrokerAway
from aifn_events.federation import STREAMS
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, TopicAlreadyExistsError, for_code

_DAY_MS = 86_400_000
TOMBSTONE_DAYS = 35


def wanted(replicas: int) -> list[NewTopic]:
    """One partition each: a member's news is in one order, and there is little of it."""
    found = []
    for stream in STREAMS.values():
        kept = {"cleanup.policy": "delete", "retention.ms": str(stream.journal_days * _DAY_MS)}
        found.append(NewTopic(stream.out_topic, 1, replicas, topic_configs=kept))
        if stream.state:
            newest = {"cleanup.policy": "compact", "delete.retention.ms": str(TOMBSTONE_DAYS * _DAY_MS)}
            found.append(NewTopic(stream.state_topic, 1, replicas, topic_configs=newest))
    return found


async def create_out_topics(settings: ServiceSettings, *, patience_seconds: float = 30) -> list[str]:
    """Create those that are missing; returns their names. Raises BrokerAway, WrongSetting."""
    if not settings.kafka or not settings.topic_replicas:
        return []
    try:
        async with asyncio.timeout(patience_seconds):
            return await _create(settings)
    except (TimeoutError, KafkaConnectionError):
        raise BrokerAway(await reason_away(settings) or UNWILLING) from None


async def _create(settings: ServiceSettings) -> list[str]:
    admin = AIOKafkaAdminClient(**connection_of(settings))
    await admin.start()
    try:
        there = set(await admin.list_topics())
        missing = [new for new in wanted(settings.topic_replicas) if new.name not in there]
        if not missing:
            return []
        answer = await admin.create_topics(missing)
        for name, code, *message in answer.topic_errors:
            if code and for_code(code) is not TopicAlreadyExistsError:
                raise for_code(code)(f"topic {name}: {message}")
        return [new.name for new in missing]
    finally:
        await admin.close()
