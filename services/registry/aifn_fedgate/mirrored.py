"""Mirrored topics on the member's own broker: what the relays brought of the other members' streams."""

import asyncio
import logging
import re
import time
from collections.abc import Iterable, Sequence

from aifn_common import telemetry
from aifn_common.broker import check_group, connection_of
from aifn_common.database import CONNECTION_FAULTS, Database
from aifn_common.hearing import COMMIT_SECONDS
from aifn_events.federation import STREAMS
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from aifn_fedgate.actions.receive import take_in
from aifn_fedgate.domain.gate import Arrival, Ruling
from aifn_fedgate.domain.quota import Quotas
from aifn_fedgate.door import Door

log = logging.getLogger(__name__)
GROUP = "fedgate-mirrored"
AT_ONCE = 300
WAIT_MS = 50
"""One consumer reads all mirrored topics: while it waits for news of some, news of the others waits too."""
_STREAMS = "|".join(re.escape(name) for name in STREAMS)


def pattern_of(relays: Sequence[str]) -> str:
    """Which topics are mirrored journals.

    >>> bool(re.match(pattern_of(["relay-a"]), "relay-a.bsc-aif.aifn-out-capacity-v1"))
    True
    >>> bool(re.match(pattern_of(["relay-a"]), "relay-a.bsc-aif.aifn-out-capacity-state-v1"))
    False
    """
    names = "|".join(re.escape(relay) for relay in relays)
    return rf"^({names})\.([a-z0-9-]{{2,20}})\.aifn-out-({_STREAMS})-v1$"


def arrival_of(record: ConsumerRecord, pattern: re.Pattern[str]) -> Arrival:
    """A record as it came; whose it claims to be says its topic."""
    found = pattern.match(record.topic)
    assert found is not None, "only topics of the pattern are read"
    relay, origin, stream = found.groups()
    return Arrival(record.value, origin, stream, record.key, via=f"{relay}/{record.partition}/{record.offset}")


async def hear(db: Database, door: Door) -> None:
    """Take in mirrored topics for ever. A broker or database that is away is waited for."""
    while True:
        try:
            await _hear(db, door)
        except (KafkaError, *CONNECTION_FAULTS) as fault:
            log.warning("mirrored topics wait: %r", fault)
        await asyncio.sleep(1)


async def _hear(db: Database, door: Door) -> None:
    pattern = re.compile(pattern_of(door.settings.relays))
    consumer = AIOKafkaConsumer(
        **connection_of(door.settings),
        group_id=GROUP,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        metadata_max_age_ms=3_000,
        session_timeout_ms=10_000,
        max_poll_interval_ms=600_000,
        fetch_max_wait_ms=WAIT_MS,
    )
    consumer.subscribe(pattern=pattern.pattern)
    await consumer.start()
    turns = _Turns(consumer, door, pattern)
    handled, committed = False, time.monotonic()
    try:
        while True:
            # Nobody is trusted yet: what came stays where it is.
            while door.trust is None:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
            check_group(consumer, GROUP)
            turns.resume()
            found = await consumer.getmany(timeout_ms=200, max_records=AT_ONCE)
            arrivals = [arrival_of(record, pattern) for records in found.values() for record in records]
            if arrivals:
                turns.count(await take_in(db, door, arrivals))
                handled = True
            # Now and then, for it costs as much as a batch; what a crash leaves uncommitted comes again and is known.
            if handled and time.monotonic() - committed > COMMIT_SECONDS:
                await consumer.commit()
                handled, committed = False, time.monotonic()
    finally:
        await consumer.stop()


class _Turns:
    """Lets a member that says more than the directory allows wait its turn: its topics alone are not read meanwhile."""

    def __init__(self, consumer: AIOKafkaConsumer, door: Door, pattern: re.Pattern[str]) -> None:
        self._consumer, self._door, self._pattern = consumer, door, pattern
        self._quotas = Quotas()
        self._waiting: dict[str, float] = {}

    def count(self, rulings: Iterable[Ruling]) -> None:
        """Count what was new and readable, and pause the topics of whoever said too much."""
        if self._door.trust is None:
            return
        allowed = {name: one.events_per_second for name, one in self._door.trust.directory.members.items()}
        for one in rulings:
            if one.fact is not None and one.arrival.origin in allowed:
                self._quotas.spend(one.arrival.origin, one.fact.time, per_second=allowed[one.arrival.origin])
        for origin, seconds in self._quotas.settle(allowed).items():
            self._waiting[origin] = time.monotonic() + seconds
            self._consumer.pause(*self._topics_of(origin))
            telemetry.metrics.federation_throttled.add(seconds, {"origin": origin})
            log.warning("%s says more than %s facts a second: not read for %.1f s", origin, allowed[origin], seconds)

    def resume(self) -> None:
        """Read again who has waited long enough."""
        for origin, until in list(self._waiting.items()):
            if time.monotonic() >= until:
                del self._waiting[origin]
                self._consumer.resume(*self._topics_of(origin))

    def _topics_of(self, origin: str) -> list[TopicPartition]:
        return [
            one
            for one in self._consumer.assignment()
            if (found := self._pattern.match(one.topic)) is not None and found[2] == origin
        ]
