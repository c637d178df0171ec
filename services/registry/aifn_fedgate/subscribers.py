"""What the gate hears on its member's own broker: every topic that the catalogue marks exported."""

from collections.abc import Sequence

from aifn_common.database import Transaction
from aifn_common.inbox import first_heard
from aifn_common.kafka import Rejected, Subscriptions
from aifn_events.base import Event
from aifn_events.catalog import TOPICS
from aifn_events.federation import STREAMS
from aifn_events.usage import UsageCharged

from aifn_fedgate.actions import publish, usage
from aifn_fedgate.door import Door

AT_ONCE = 500


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
    async def on_facts(events: Sequence[Event], tx: Transaction) -> Sequence[Rejected]:
        """Facts of this member's own may be for others too."""
        await door.ready.wait()
        new = await first_heard(tx, f"{__package__}:{kind.topic}", events)
        if STREAMS[stream].sealed:
            return await publish.tell_sealed(tx, door, stream, new)
        return await publish.tell_local(tx, door, stream, new)

    hears.in_batches(kind, max_records=AT_ONCE)(on_facts)
