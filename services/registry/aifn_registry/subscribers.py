"""What the registry hears: capacity reports of the sites, and what the gate has verified of other members."""

from collections.abc import Sequence

from aifn_common.database import Transaction
from aifn_common.inbox import deliver_once
from aifn_common.kafka import Db, Rejected, Subscriptions
from aifn_events.federation import IN_KINDS, PeerFact
from aifn_events.registry import CapacityReported

from aifn_registry import actions, peer_store
from aifn_registry.settings import RegistrySettings

hears = Subscriptions("registry")
PEER_FACTS_AT_ONCE = 500


@hears(CapacityReported)
async def on_capacity_reported(event: CapacityReported, db: Db, settings: RegistrySettings) -> None:
    """A site agent has looked into its batch system."""

    async def remember(tx: Transaction, event: CapacityReported) -> None:
        await actions.remember_capacity(tx, event, may_be_ahead=settings.capacity_ahead)

    await deliver_once(db, event, remember)


def _hear_peers(stream: str, kind: type[PeerFact]) -> None:
    @hears.in_batches(kind, max_records=PEER_FACTS_AT_ONCE)
    async def on_peer_facts(events: Sequence[PeerFact], tx: Transaction) -> Sequence[Rejected]:
        """Other members have told something. A copy, or an older word, changes nothing: no inbox is needed."""
        await peer_store.put_all(tx, stream, events)
        return ()


for name in ("capacity", "catalogue", "skills", "knowledge", "access", "usage", "usage-summary"):
    _hear_peers(name, IN_KINDS[name])
