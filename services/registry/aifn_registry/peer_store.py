"""The registry's read table of what other members have told."""

from collections.abc import Sequence
from datetime import datetime

from aifn_common.database import Row, Transaction
from aifn_events.federation import PeerFact

_PUT = "SELECT put_peer_fact($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
_LIST = """
SELECT origin, stream, record_key, epoch, seq, fact, source, told_at, heard_at, data FROM peer_fact
WHERE stream = $1 AND record_key > $2 AND NOT retired AND ($3::text IS NULL OR origin = $3)
    AND ($4::timestamptz IS NULL OR heard_at >= $4)
ORDER BY record_key LIMIT $5"""


async def put_all(tx: Transaction, stream: str, facts: Sequence[PeerFact]) -> None:
    """Keep facts, each unless a newer word on the same thing is here."""
    # By key, so that two who write never wait for each other in a circle.
    in_order = sorted(facts, key=lambda one: (one.record_key, one.epoch, one.seq))
    rows = [
        (f.origin, stream, f.record_key, f.epoch, f.seq, f.fact, f.fact_source, f.fact_time, f.retired, f.data)
        for f in in_order
    ]
    await tx.executemany(_PUT, rows)


async def list_facts(
    tx: Transaction, stream: str, *, origin: str | None, since: datetime | None, after: str | None, limit: int
) -> Sequence[Row]:
    """Facts of a stream that are not retired, by their keys."""
    return await tx.fetch(_LIST, stream, after or "", origin, since, limit)
