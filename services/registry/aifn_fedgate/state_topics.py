"""The newest envelope of each key as the relays carried it: for a joiner that reaches nobody over HTTPS."""

from collections.abc import AsyncIterator

from aifn_common.broker import connection_of
from aifn_events.federation import STREAMS
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from aifn_fedgate.door import Door
from aifn_fedgate.members import NoAnswer

AT_ONCE = 500
WAIT_MS = 5_000


async def read_state(door: Door, origin: str, stream: str) -> AsyncIterator[list[bytes]]:
    """What the mirrored state topics of a stream hold now, from every relay; a newer word on a key may come after.

    Yields: values as they came, in the order of each topic. Raises NoAnswer, if the broker is away or falls silent.
    """
    names = {f"{relay}.{origin}.{STREAMS[stream].state_topic}" for relay in door.settings.relays}
    # With a seek to the beginning instead, the answer to its own first question for the end may take the seek's place.
    consumer = AIOKafkaConsumer(**connection_of(door.settings), enable_auto_commit=False, auto_offset_reset="earliest")
    try:
        await consumer.start()
        # These topics have one partition each: their order is their owner's.
        parts = [TopicPartition(name, 0) for name in sorted(names & await consumer.topics())]
        if not parts:
            return
        consumer.assign(parts)
        ends = await consumer.end_offsets(parts)
        while any([await consumer.position(part) < ends[part] for part in parts]):
            found = await consumer.getmany(timeout_ms=WAIT_MS, max_records=AT_ONCE)
            if not found:
                raise NoAnswer(f"the mirrored state of {origin}/{stream} stops before its end")
            if values := [one.value for records in found.values() for one in records if one.value is not None]:
                yield values
    except KafkaError as fault:
        raise NoAnswer(f"the mirrored state cannot be read: {fault!r}") from None
    finally:
        await consumer.stop()
