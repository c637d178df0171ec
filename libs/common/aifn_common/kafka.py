"""What a service hears: from a Kafka message to one call with an event, whatever the message holds.

Every subscription is made here, so that all have the same promises: the offset moves on only after the effect is
committed or the message is set aside; no answer is ever sent to a topic that a message names; hostile headers
reach nobody; a fault is tried again after a pause; many dead letters in a row stop the subscription.
"""

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

from aifn_events.base import Event
from aifn_events.cloudevents import MalformedEvent, parse
from aiokafka import ConsumerRecord, TopicPartition
from faststream import AckPolicy, Context
from faststream.kafka import KafkaBroker
from faststream.kafka.message import KafkaMessage

from aifn_common import clock, dead_letters, event_log, telemetry
from aifn_common.broker import KNOCK_AGAIN_MS, has_ended, security_of
from aifn_common.database import Database, Transaction
from aifn_common.dead_letters import Record
from aifn_common.errors import Refusal
from aifn_common.hearing import Handled, Hearing, Membership, Stopping
from aifn_common.settings import ServiceSettings

__all__ = ["BatchSubscription", "Context", "Db", "Hearing", "Rejected", "Subscription", "Subscriptions", "make_broker"]

log = logging.getLogger(__name__)

E = TypeVar("E", bound=Event)
Db = Database
Handler = Callable[..., Awaitable[None]]
BatchHandler = Callable[..., Awaitable[Sequence["Rejected"]]]

ATTEMPTS = 3
PAUSES_SECONDS = (0.2, 1.0)
METADATA_MS = 30_000
"""How soon a consumer notices a topic that was made after it had started."""
ENDED_SECONDS = 1.0
"""Between looks at whether a consumer has ended."""


@dataclass(frozen=True)
class Rejected:
    """One event of a batch that was refused while the rest went through."""

    event: object
    refusal: Refusal


@dataclass(frozen=True)
class Subscription(Generic[E]):
    """One topic, one handler for one event at a time."""

    group: str
    kind: type[E]
    handler: Handler
    keeps_log: bool = False


@dataclass(frozen=True)
class BatchSubscription(Generic[E]):
    """One topic, one handler for many events at once, all in one transaction."""

    group: str
    kind: type[E]
    handler: BatchHandler
    max_records: int
    read: "Callable[[Record], Any]"
    keeps_log: bool = False


class Subscriptions:
    """What one service hears; filled by decorators in its subscribers.py.

    Args:
        keeps_log: whether it keeps an event log of all that it hears and is ordered to do (`event_log.py`).
    """

    def __init__(self, service: str, *, keeps_log: bool = False) -> None:
        self.service = service
        self.keeps_log = keeps_log
        self.single: list[Subscription[Any]] = []
        self.batches: list[BatchSubscription[Any]] = []

    def __call__(self, kind: type[E]) -> Callable[[Handler], Handler]:
        """Hear events of one kind, one by one: the handler takes `event` and, as it likes, `db` and `settings`."""

        def keep(handler: Handler) -> Handler:
            self.single.append(Subscription(self._group(kind), kind, handler, self.keeps_log))
            return handler

        return keep

    def in_batches(
        self, kind: type[E], *, max_records: int = 5000, read: Callable[[Record], Any] | None = None
    ) -> Callable[[BatchHandler], BatchHandler]:
        """Hear events of one kind in batches: the handler takes `events`, `tx` and, as it likes, `settings`.

        Args:
            read: makes of a record what the handler takes, or raises MalformedEvent; else the event itself.
        """

        def keep(handler: BatchHandler) -> BatchHandler:
            how = read or (lambda record: parse(kind, record.headers, record.value))
            one = BatchSubscription(self._group(kind), kind, handler, max_records, how, self.keeps_log)
            self.batches.append(one)
            return handler

        return keep

    def of(self, member: str) -> "Subscriptions":
        """The same subscriptions in groups of one member's own: several agents of one service each hear everything."""
        if not member:
            return self
        own = Subscriptions(f"{self.service}-{member}", keeps_log=self.keeps_log)
        own.single = [replace(one, group=own._group(one.kind)) for one in self.single]
        own.batches = [replace(one, group=own._group(one.kind)) for one in self.batches]
        return own

    def _group(self, kind: type[Event]) -> str:
        # A group for each topic: a member that joins for one topic does not make the others wait.
        return f"{self.service}-{kind.topic.removeprefix('aifn-')}"


class _NotedAck:
    """Stands for the consumer of one message: an acknowledgement is noted, a refusal rewinds as ever."""

    def __init__(self, consumer: Any, record: Record, handled: Handled) -> None:
        self._consumer = consumer
        self._record = record
        self._handled = handled

    async def commit(self) -> None:
        self._handled.note(self._consumer, self._record)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._consumer.seek(partition=partition, offset=offset)


async def start_together(broker: KafkaBroker) -> None:
    """Start all subscriptions at once: each waits for its group, and one after the other that adds up."""
    await broker.connect()
    await asyncio.gather(*(subscriber.start() for subscriber in broker.subscribers))


async def until_one_ends(broker: KafkaBroker) -> None:
    """Return when a consumer has ended by a fault that its client does not survive. Only a new one hears again."""
    while not any(has_ended(getattr(one, "consumer", None)) for one in broker.subscribers):  # noqa: ASYNC110
        await asyncio.sleep(ENDED_SECONDS)


def patience_of(settings: ServiceSettings) -> dict[str, Any]:
    """How long a broker waits for a consumer, in milliseconds, as aiokafka is told."""
    return {
        "session_timeout_ms": round(settings.kafka_session_seconds * 1000),
        "heartbeat_interval_ms": round(settings.kafka_heartbeat_seconds * 1000),
        "max_poll_interval_ms": 600_000,
        # While a question about some partitions is open, news of the others waits: no longer than this.
        "fetch_max_wait_ms": round(settings.kafka_wait_seconds * 1000),
    }


def make_broker(hears: Subscriptions, hearing: Hearing) -> KafkaBroker:
    """The FastStream broker with every single-event subscription of a service."""
    settings = hearing.settings
    broker = KafkaBroker(
        settings.kafka.split(","),
        security=security_of(settings),
        client_id=f"aifn-{hears.service}",
        metadata_max_age_ms=METADATA_MS,
        retry_backoff_ms=KNOCK_AGAIN_MS,
        consumer_only=True,  # what we say goes through the outbox
        allow_auto_create_topics=False,
        graceful_timeout=settings.graceful_seconds,
        logger=None,
    )
    for one in hears.single:
        subscriber = broker.subscriber(
            one.kind.topic,
            group_id=one.group,
            group_instance_id=f"{settings.instance}-{one.group}" if settings.instance else None,
            auto_offset_reset="earliest",
            ack_policy=AckPolicy.NACK_ON_ERROR,
            no_reply=True,
            **patience_of(settings),
            listener=Membership(one.group, hearing),
            title=one.kind.__name__,
        )
        subscriber(_receiver(one, hearing), parser=_parser(hearing.offsets(one.group)), decoder=_as_it_came)
    return broker


def _parser(handled: Handled) -> Callable[..., Awaitable[KafkaMessage]]:
    async def without_headers(record: Record, original: Callable[[Record], Awaitable[KafkaMessage]]) -> KafkaMessage:
        # FastStream decodes headers before anything of ours runs, skips the record if that fails, obeys `reply_to`.
        message = await original(_bare(record))
        message.raw_message = record
        message.consumer = cast(Any, _NotedAck(message.consumer, record, handled))
        return message

    return without_headers


def _bare(record: Record) -> Record:
    return cast(Record, replace(cast(ConsumerRecord, record), headers=()))


async def _as_it_came(message: KafkaMessage) -> Record:
    record = message.raw_message
    return cast(Record, record)


def _receiver(one: Subscription[Any], hearing: Hearing) -> Callable[[Any], Awaitable[None]]:
    values = {"db": hearing.db, "settings": hearing.settings}
    wanted = {name: values[name] for name in inspect.signature(one.handler).parameters if name in values}

    async def receive(record: Any) -> None:
        if hearing.stopping.is_set():
            await asyncio.sleep(0.2)  # it comes again at once, until the subscription has stopped
            raise Stopping
        await hearing.wait_if_stopped(one.group)
        await _receive(one, hearing, record, wanted)

    receive.__name__ = one.handler.__name__
    return receive


async def _receive(one: Subscription[Any], hearing: Hearing, record: Record, wanted: dict[str, Any]) -> None:
    topic = {"topic": record.topic}
    telemetry.metrics.received.add(1, topic)
    began = time.perf_counter()
    hearing.busy_since[one.group] = time.monotonic()
    hearing.newest[one.group] = record.timestamp
    outcome = "handled"
    try:
        event = parse(one.kind, record.headers, record.value)
        kept = event_log.arriving(record if one.keeps_log else None)
        with telemetry.handling(f"{one.group} handle", event.traceparent), kept:
            await _handle(one, hearing, event, wanted)
    except Stopping:
        outcome = "left"
        raise
    except Exception as fault:
        outcome = "set_aside"
        await _set_aside(one, hearing, record, fault)
    else:
        hearing.succeeded(one.group)
        telemetry.metrics.delay.record((clock.now() - event.time).total_seconds(), topic)
    finally:
        hearing.busy_since.pop(one.group, None)
        telemetry.metrics.handling.record(time.perf_counter() - began, topic | {"outcome": outcome})


async def _handle(one: Subscription[Any], hearing: Hearing, event: Event, wanted: dict[str, Any]) -> None:
    async def once() -> None:
        await one.handler(event, **wanted)

    for attempt in range(ATTEMPTS):
        try:
            await hearing.patiently(once, one.group)
            return
        except (Refusal, MalformedEvent, Stopping):
            raise
        except Exception:
            if attempt == ATTEMPTS - 1:
                raise
            log.exception("%s failed and tries again", one.group, extra={"ce_id": event.id, "topic": event.topic})
            telemetry.metrics.retried.add(1, {"topic": event.topic})
            await hearing.pause(PAUSES_SECONDS[attempt])


async def _set_aside(one: Subscription[Any], hearing: Hearing, record: Record, fault: Exception) -> None:
    why = dead_letters.verdict_of(fault)
    level = logging.ERROR if why.code == "fault" else logging.WARNING
    log.log(
        level,
        "set aside: %s",
        why.reason,
        exc_info=fault if why.code == "fault" else None,
        extra={"topic": record.topic, "partition": record.partition, "offset": record.offset, "code": why.code},
    )

    async def keep(tx: Transaction) -> None:
        await event_log.keep(tx, [record], clock.now(), kind="set_aside")

    also = keep if one.keeps_log else None
    await hearing.patiently(
        lambda: dead_letters.set_aside_alone(hearing.db, one.group, record, why, also=also), one.group
    )
    hearing.dead(one.group)


async def set_aside_in_batch(tx: Transaction, group: str, hopeless: Sequence[tuple[Record, Exception]]) -> None:
    """Set some messages of a batch aside, in the batch's own transaction."""
    for record, fault in hopeless:
        await dead_letters.set_aside(tx, group, record, dead_letters.verdict_of(fault))
