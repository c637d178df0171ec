"""How a process is getting on with what it hears: what it works on, waits for, has handled, and must commit."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from aifn_common import telemetry
from aifn_common.database import CONNECTION_FAULTS, Database
from aifn_common.dead_letters import Record
from aifn_common.settings import ServiceSettings

log = logging.getLogger(__name__)

LONGEST_PAUSE_SECONDS = 2.0
"""Between looks at a database that is away: the time to notice that it is back is added to how long it was gone."""
COMMIT_SECONDS = 0.25


class Stopping(Exception):
    """The process is ending: this message stays unhandled here, and its offset where it is."""


class Handled:
    """How far one consumer has handled its partitions, and commits that a moment later, many messages at once.

    A commit for each message costs more than the rest of its way. What a crash leaves uncommitted comes again, and
    the inbox knows it.
    """

    def __init__(self) -> None:
        self._consumer: Any = None
        self._next: dict[TopicPartition, int] = {}

    def note(self, consumer: Any, record: Record) -> None:
        """A message has been handled or set aside."""
        self._consumer = consumer
        self._next[TopicPartition(record.topic, record.partition)] = record.offset + 1

    async def commit(self) -> None:
        """Commit what was noted since. A group that has moved on is no fault: its new member hears those again."""
        noted, self._next = self._next, {}
        if not noted:
            return
        try:
            await self._consumer.commit(noted)
        except (CommitFailedError, IllegalStateError):
            log.info("partitions moved before their offsets were committed")
        except KafkaError:
            self._next = noted | self._next
            raise


@dataclass
class Hearing:
    """How one process is getting on with what it hears; shared by its subscriptions and its health probes.

    `waits` says, for a group, what of the outside its work waits for; `newest` is the Kafka timestamp, in
    milliseconds, of the message that it took last.
    """

    db: Database
    settings: ServiceSettings
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    dead_in_a_row: dict[str, int] = field(default_factory=dict)
    handled: dict[str, int] = field(default_factory=dict)
    busy_since: dict[str, float] = field(default_factory=dict)
    joined: set[str] = field(default_factory=set)
    waits: dict[str, str] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    _offsets: dict[str, Handled] = field(default_factory=dict)

    def offsets(self, group: str) -> Handled:
        """How far a group's consumer has come."""
        return self._offsets.setdefault(group, Handled())

    async def commit(self) -> None:
        """Commit how far every consumer has come. Raises KafkaError while a part of the broker is away."""
        # Together: a group whose coordinator is away keeps no other from committing.
        done = await asyncio.gather(*(one.commit() for one in self._offsets.values()), return_exceptions=True)
        for fault in done:
            if isinstance(fault, BaseException):
                raise fault

    async def commit_now_and_then(self) -> None:
        """The same for ever, every `COMMIT_SECONDS`."""
        while True:
            await asyncio.sleep(COMMIT_SECONDS)
            try:
                await self.commit()
            except KafkaError as fault:
                log.warning("offsets are committed later: %r", fault)

    async def at_rest(self) -> None:
        """Wait until nothing is being handled."""
        while self.busy_since:  # noqa: ASYNC110 - its readers are many, its writers few and fast
            await asyncio.sleep(0.02)

    def stopped_by_dead_letters(self) -> list[str]:
        """Groups that heard so many hopeless messages in a row that a person must look."""
        return [group for group, count in self.dead_in_a_row.items() if count >= self.settings.dead_letter_limit]

    def succeeded(self, group: str, count: int = 1) -> None:
        """Note that messages were handled."""
        self.dead_in_a_row[group] = 0
        self.handled[group] = self.handled.get(group, 0) + count

    def dead(self, group: str, count: int = 1) -> None:
        """Note that messages were set aside."""
        self.dead_in_a_row[group] = self.dead_in_a_row.get(group, 0) + count

    async def wait_if_stopped(self, group: str) -> None:
        """Hold a subscription that met too many dead letters, until the process ends."""
        if self.dead_in_a_row.get(group, 0) >= self.settings.dead_letter_limit:
            log.critical("%s met too many dead letters in a row and has stopped: see /v1/dead-letters", group)
            await self.stopping.wait()
            raise Stopping

    async def pause(self, seconds: float) -> None:
        """Wait before another attempt. Raises Stopping when the process ends meanwhile."""
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except TimeoutError:
            return
        raise Stopping

    async def patiently(self, work: Callable[[], Awaitable[None]], what: str) -> None:
        """Do work that only a lost connection may delay; waits as long as it takes. Raises Stopping."""
        pause = 0.2
        while True:
            try:
                await work()
            except CONNECTION_FAULTS as fault:
                log.warning("%s waits: %r", what, fault)
                self.waits[what] = " ".join(str(fault).split()) or type(fault).__name__
                if what in self.busy_since:
                    self.busy_since[what] = time.monotonic()
                telemetry.metrics.retried.add(1, {"topic": what})
                await self.pause(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            else:
                self.waits.pop(what, None)
                return


class Membership(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes whether a consumer is a member of its group: a member may hold no partition and yet be well."""

    def __init__(self, group: str, hearing: Hearing) -> None:
        self._group = group
        self._hearing = hearing

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:  # noqa: ARG002
        """A rebalance begins: what was handled is committed while the partitions are still ours."""
        self._hearing.joined.discard(self._group)
        with suppress(KafkaError):
            await self._hearing.offsets(self._group).commit()

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:  # noqa: ARG002
        """A rebalance has ended."""
        self._hearing.joined.add(self._group)
