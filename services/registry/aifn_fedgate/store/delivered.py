"""The outbox of a member without a broker, and the registry's read table it goes to."""

from collections.abc import Sequence

from aifn_common.database import Row, Transaction
from aifn_events.federation import PeerFact

_WAITING = "SELECT seq, topic, value FROM outbox ORDER BY seq LIMIT $1"
_FORGET = "DELETE FROM outbox WHERE seq = ANY($1::bigint[])"
# The function belongs to the registry's schema: the gate's role may call it, and read or write nothing else there.
_PUT = "SELECT put_peer_fact($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"


async def waiting(tx: Transaction, limit: int) -> list[Row]:
    """What is to be delivered, in order."""
    return await tx.fetch(_WAITING, limit)


async def put_facts(registry: Transaction, facts: Sequence[tuple[str, PeerFact]]) -> None:
    """Put facts of these streams into the registry."""
    rows = [
        (f.origin, stream, f.record_key, f.epoch, f.seq, f.fact, f.fact_source, f.fact_time, f.retired, f.data)
        for stream, f in facts
    ]
    await registry.executemany(_PUT, rows)


async def forget(tx: Transaction, numbers: Sequence[int]) -> None:
    """It is delivered."""
    await tx.execute(_FORGET, list(numbers))
