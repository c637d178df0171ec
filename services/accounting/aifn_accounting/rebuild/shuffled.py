"""Carries the log out in another order, as far as the order must not matter: usage, corrections, ends of jobs, copies.

What asks for what is left (a hold, a grant, an expiry) keeps its place: between two of these, usage is shuffled, a part
of it heard twice, and cut into other batches.
"""

from datetime import datetime
from random import Random

from aifn_common import clock, event_log
from aifn_common.event_log import Entry, Message
from aifn_events.placement import JobClosed

from aifn_accounting.rebuild.repeat import USAGE, Repeater

MOST_AT_ONCE = 50_000
"""Messages that are shuffled together at most: they are in memory."""
_LARGEST_BATCH = 5000
_COPIES = 0.2


class Shuffled:
    """Takes the entries of a log one after the other; call `flush` at the end.

    Args:
        refused: arrival numbers of usage that was refused when the log was carried out in its own order: of two that
            contradict one another, the first counts.
    """

    def __init__(self, repeater: Repeater, refused: set[int], seed: int) -> None:
        self._repeater = repeater
        self._refused = refused
        self._chance = Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self._waiting: list[Message | Entry] = []
        self._latest: datetime | None = None
        self._settles = False
        self.messages = 0
        self.copies = 0
        self.stretches = 0

    async def take(self, entry: Entry) -> None:
        """Keep what may be moved for later; do all that was kept, and then what may not be moved."""
        topic = entry.messages[0].topic if entry.messages else ""
        if entry.kind == "heard" and topic == USAGE:
            found = [one for number, one in enumerate(entry.messages, entry.number) if number not in self._refused]
            self._waiting += found
            self._latest = max(entry.at, self._latest or entry.at)
        elif entry.kind == "heard" and topic == JobClosed.topic:
            self._waiting.append(entry)
        elif entry.order is not None and entry.order.name == "settle-suspense":
            self._settles = True
        elif entry.order is None or entry.order.name != "watch-usage":
            await self.flush()
            await self._repeater.carry_out(entry)
        if len(self._waiting) >= MOST_AT_ONCE:
            await self.flush()

    async def flush(self) -> None:
        """Do all that was kept, in some order."""
        count = len(self._waiting)
        copies = [one for one in self._waiting if self._chance.random() < _COPIES]
        self._waiting += copies
        self._chance.shuffle(self._waiting)
        batch: list[Message] = []
        size = self._chance.randint(1, _LARGEST_BATCH)
        for one in self._waiting:
            if isinstance(one, Entry):
                await self._charge(batch)
                batch = []
                await self._repeater.carry_out(one)
                continue
            batch.append(one)
            if len(batch) >= size:
                await self._charge(batch)
                batch, size = [], self._chance.randint(1, _LARGEST_BATCH)
        await self._charge(batch)
        if self._settles:
            with event_log.repeating():
                await self._repeater.settle()
        self.messages += count
        self.copies += len(copies)
        self.stretches += count > 1
        self._waiting, self._settles = [], False

    async def _charge(self, batch: list[Message]) -> None:
        if batch:
            with event_log.repeating(), clock.held(clock.Moment(self._latest)):
                await self._repeater.charge(batch)
