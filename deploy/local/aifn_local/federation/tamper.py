"""A relay that lies: it takes a genuine message, alters it, and hands it on as its member's."""

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from aifn_local.errors import StackError
from aifn_local.federation.grants import tls
from aifn_local.federation.mirror import RelayAccess

_PATIENCE_MS = 15_000


async def alter_newest(relay: RelayAccess, topic: str) -> bytes:
    """Write an altered copy of a topic's newest message beside it, with the relay's own rights; returns the copy.

    One letter of the payload is another; header and signature stay. Raises StackError if the topic is empty.
    """
    connection = {
        "bootstrap_servers": relay.bootstrap,
        "security_protocol": "SSL",
        "ssl_context": tls(relay),
        "request_timeout_ms": _PATIENCE_MS,
    }
    place = TopicPartition(topic, 0)
    consumer = AIOKafkaConsumer(**connection)
    await consumer.start()
    try:
        consumer.assign([place])
        end = (await consumer.end_offsets([place]))[place]
        if end == 0:
            raise StackError(f"{topic} is empty at {relay.alias}: there is nothing to alter")
        consumer.seek(place, end - 1)
        genuine = await consumer.getone()
    finally:
        await consumer.stop()
    forged = altered(genuine.value or b"")
    producer = AIOKafkaProducer(**connection)
    await producer.start()
    try:
        await producer.send_and_wait(topic, forged, key=genuine.key, headers=list(genuine.headers))
    finally:
        await producer.stop()
    return forged


def altered(envelope: bytes) -> bytes:
    """The same envelope with one letter of its payload changed.

    >>> altered(b"aa.bbbb.cc")
    b'aa.bbCb.cc'
    """
    header, payload, signature = envelope.split(b".")
    middle = len(payload) // 2
    other = b"C" if payload[middle : middle + 1] != b"C" else b"D"
    return b".".join([header, payload[:middle] + other + payload[middle + 1 :], signature])
