"""The seals that chain the journal: what may be sealed, how it is, and whether it still is as it was sealed.

`seal_digest` in the database says which bytes are sealed; each digest is made from the one before it.
"""

from dataclasses import dataclass
from datetime import datetime

from aifn_common.database import Transaction

AT_ONCE = 50_000
"""Most ids of one kind under one seal: their text is put together in the memory of the database."""
_CHECKED_AT_ONCE = 500

_LOCK = "SELECT pg_advisory_xact_lock(7075616767)"
# One snapshot for all. The own number is taken after it, so it is above that of everybody who has an id seen here.
_MARK = """
SELECT (SELECT coalesce(max(id), 0) FROM ledger_transfer) AS transfers,
    greatest((SELECT max(number) FROM usage_record), (SELECT max(position) FROM further_charge), 0) AS usage,
    pg_current_xact_id()::text AS transaction"""
_ENDED = "SELECT pg_snapshot_xmin(pg_current_snapshot()) > $1::text::xid8"
_LAST = """
SELECT number, transfers_until, usage_until, digest FROM journal_seal ORDER BY number DESC LIMIT 1"""
_SEAL = """
INSERT INTO journal_seal
    (number, transfers_after, transfers_until, usage_after, usage_until, covered, sealed_at, digest)
SELECT $1, $3, $4, $5, $6, covered, $7, digest FROM seal_digest($2, $3, $4, $5, $6)"""
_COUNT = "SELECT count(*) FROM journal_seal"
_FIRST_BROKEN = """
SELECT s.number FROM (
    SELECT number, transfers_after, transfers_until, usage_after, usage_until, covered, digest,
        lag(number, 1, 0::bigint) OVER chain AS number_before,
        lag(transfers_until, 1, 0::bigint) OVER chain AS transfers_before,
        lag(usage_until, 1, 0::bigint) OVER chain AS usage_before,
        lag(digest, 1, ''::bytea) OVER chain AS digest_before
    FROM journal_seal WHERE number BETWEEN $1 - 1 AND $2 WINDOW chain AS (ORDER BY number)
) s, LATERAL seal_digest(s.digest_before, s.transfers_after, s.transfers_until, s.usage_after, s.usage_until) AS now
WHERE s.number >= $1 AND (
    (s.digest, s.covered) <> (now.digest, now.covered)
    OR (s.number - 1, s.transfers_after, s.usage_after) <> (s.number_before, s.transfers_before, s.usage_before)
) ORDER BY s.number LIMIT 1"""


@dataclass(frozen=True)
class Mark:
    """How far the journal went at a moment: all below is there once every transaction before `transaction` ended."""

    transfers: int
    usage: int
    transaction: str


@dataclass(frozen=True)
class Seal:
    """The last seal: its number, how far it goes, and its digest."""

    number: int
    transfers: int
    usage: int
    digest: bytes


@dataclass(frozen=True)
class Chain:
    """What looking at all seals found: how many there are, the last, and the first that differs, None if none does."""

    seals: int
    last: Seal
    broken: int | None


async def mark(tx: Transaction) -> Mark:
    """Note how far the journal goes. The transaction must end before what was noted is sealed."""
    row = await tx.fetchrow(_MARK)
    assert row is not None
    return Mark(**row)


async def is_settled(tx: Transaction, noted: Mark) -> bool:
    """Whether everybody who had an id below the mark has ended, so that no row can appear there any more."""
    return bool(await tx.fetchval(_ENDED, noted.transaction))


async def lock(tx: Transaction) -> None:
    """Be the only one who seals until the end."""
    await tx.execute(_LOCK)


async def last(tx: Transaction) -> Seal:
    """The last seal; number 0 if nothing was sealed yet."""
    row = await tx.fetchrow(_LAST)
    return Seal(0, 0, 0, b"") if row is None else Seal(*row)


async def seal(tx: Transaction, before: Seal, *, transfers: int, usage: int, at: datetime) -> None:
    """Seal what lies between a seal and these ends."""
    await tx.execute(
        _SEAL,
        before.number + 1,
        before.digest,
        before.transfers,
        max(transfers, before.transfers),
        before.usage,
        max(usage, before.usage),
        at,
    )


async def check(tx: Transaction) -> Chain:
    """Make every digest anew from the rows, some seals at a time."""
    head = await last(tx)
    seals = await tx.fetchval(_COUNT)
    for first in range(1, head.number + 1, _CHECKED_AT_ONCE):
        broken = await tx.fetchval(_FIRST_BROKEN, first, first + _CHECKED_AT_ONCE - 1)
        if broken is not None:
            return Chain(seals, head, broken)
    return Chain(seals, head, None)
