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


async def put(tx: Transaction, stream: str, fact: PeerFact) -> bool:
    """Keep a fact, unless a newer word on the same thing is here; whether it was kept."""
    return bool(
        await tx.fetchval(
            _PUT,
            *(fact.origin, stream, fact.record_key, fact.epoch, fact.seq),
            *(fact.fact, fact.fact_source, fact.fact_time, fact.retired, fact.data),
        )
    )


async def list_facts(
    tx: Transaction, stream: str, *, origin: str | None, since: datetime | None, after: str | None, limit: int
) -> Sequence[Row]:
    """Facts of a stream that are not retired, by their keys."""
    return await tx.fetch(_LIST, stream, after or "", origin, since, limit)
