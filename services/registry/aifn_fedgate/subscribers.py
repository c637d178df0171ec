"""What the gate hears on its member's own broker: every topic that the catalogue marks exported."""

from collections.abc import Sequence

from aifn_common.database import Transaction
from aifn_common.inbox import deliver_once
from aifn_common.kafka import Db, Rejected, Subscriptions
from aifn_events.access import AwardGranted
from aifn_events.base import Event
from aifn_events.catalog import TOPICS
from aifn_events.usage import UsageCharged

from aifn_fedgate.actions import publish, usage
from aifn_fedgate.door import Door


def hears_for(door: Door) -> Subscriptions:
    """The subscriptions of one gate; none for a member without a broker."""
    hears = Subscriptions("fedgate")
    if not door.settings.kafka:
        return hears
    for topic in TOPICS:
        if topic.exported is not None and topic.event is not UsageCharged:
            _hear(hears, door, topic.event, topic.exported)

    @hears.in_batches(UsageCharged)
    async def on_usage_charged(events: Sequence[UsageCharged], tx: Transaction) -> Sequence[Rejected]:
        """Charges become sums; who is charged is not looked at."""
        await usage.add_up(tx, events)
        return ()

    return hears


def _hear(hears: Subscriptions, door: Door, kind: type[Event], stream: str) -> None:
    async def tell_others(tx: Transaction, event: Event) -> None:
        await door.ready.wait()
        if isinstance(event, AwardGranted):
            await publish.tell_award(tx, door, event)
        else:
            await publish.tell_own(tx, door, stream, event)

    async def on_fact(event: Event, db: Db) -> None:
        """A fact of this member's own may be for others too."""
        await deliver_once(db, event, tell_others)

    hears(kind)(on_fact)
