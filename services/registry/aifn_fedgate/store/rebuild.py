"""A state that is being read again: staged page by page, then taken over as a whole."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from aifn_common import clock
from aifn_common.database import Transaction
from aifn_events.federation import IN_KINDS, Head, PeerFact

from aifn_fedgate.domain.envelope import Envelope

_CLEAR = "DELETE FROM rebuild WHERE origin = $1 AND stream = $2"
_STAGE = """
INSERT INTO rebuild (origin, stream, key_hash, epoch, seq, hash, raw, retired, key, value, event_id)
SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bytea[], $7::bytea[],
    $8::boolean[], $9::text[], $10::bytea[], $11::text[])
ON CONFLICT (origin, stream, key_hash) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq, hash = excluded.hash,
    raw = excluded.raw, retired = excluded.retired, key = excluded.key, value = excluded.value,
    event_id = excluded.event_id
WHERE (excluded.epoch, excluded.seq) > (rebuild.epoch, rebuild.seq)"""
_NEWEST = "SELECT epoch, seq FROM rebuild WHERE origin = $1 AND stream = $2 ORDER BY epoch DESC, seq DESC LIMIT 1"
_HASHES = "SELECT key_hash, hash FROM rebuild WHERE origin = $1 AND stream = $2 AND NOT retired"
_GHOSTS = """
SELECT r.raw FROM replica AS r LEFT JOIN rebuild AS b USING (origin, stream, key_hash)
WHERE r.origin = $1 AND r.stream = $2 AND (b.key_hash IS NULL OR b.retired)"""
_ANNOUNCE = """
INSERT INTO outbox (event_id, topic, key, value, time)
SELECT b.event_id, $3, convert_to(b.key, 'UTF8'), b.value, $4
FROM rebuild AS b LEFT JOIN replica AS r USING (origin, stream, key_hash)
WHERE b.origin = $1 AND b.stream = $2 AND NOT b.retired AND b.value IS NOT NULL AND r.hash IS DISTINCT FROM b.hash
ORDER BY b.epoch, b.seq"""
_DROP = "DELETE FROM replica WHERE origin = $1 AND stream = $2"
_TAKE = """
INSERT INTO replica (origin, stream, key_hash, epoch, seq, hash, raw)
SELECT origin, stream, key_hash, epoch, seq, hash, raw FROM rebuild WHERE origin = $1 AND stream = $2 AND NOT retired"""
_BASE = "UPDATE chain SET base_epoch = $3, base_seq = $4 WHERE origin = $1 AND stream = $2"


@dataclass(frozen=True, slots=True)
class Staged:
    """An envelope of a state, and what will be announced of it."""

    envelope: Envelope
    event: PeerFact | None

    @property
    def seq(self) -> int:
        """Its place in its epoch."""
        return self.envelope.header.seq


async def clear(tx: Transaction, origin: str, stream: str) -> None:
    """Begin anew."""
    await tx.execute(_CLEAR, origin, stream)


async def stage(tx: Transaction, staged: Sequence[Staged]) -> None:
    """Add envelopes; of each key the newest stays."""
    newest: dict[bytes, tuple[object, ...]] = {}
    for one in staged:
        h, event = one.envelope.header, one.event
        newest[h.key_hash] = (
            *(h.origin, h.stream, h.key_hash, h.epoch, h.seq, one.envelope.hash, one.envelope.raw, h.retired),
            event.record_key if event else None,
            event.model_dump_json().encode() if event else None,
            event.id if event else None,
        )
    if newest:
        await tx.execute(_STAGE, *(list(column) for column in zip(*newest.values(), strict=True)))


async def newest(tx: Transaction, origin: str, stream: str) -> tuple[int, int]:
    """The place of the newest staged envelope; (0, 0) if there is none."""
    row = await tx.fetchrow(_NEWEST, origin, stream)
    return (row["epoch"], row["seq"]) if row else (0, 0)


async def hashes(tx: Transaction, origin: str, stream: str) -> AsyncIterator[tuple[bytes, bytes]]:
    """Key and envelope, as hashes, of everything staged that is not retired."""
    async for row in tx.cursor(_HASHES, origin, stream, prefetch=5000):
        yield row["key_hash"], row["hash"]


async def ghosts(tx: Transaction, origin: str, stream: str) -> list[bytes]:
    """Envelopes of things we have and their owner has not."""
    return [row["raw"] for row in await tx.fetch(_GHOSTS, origin, stream)]


def gone(envelope: Envelope, key: str, head: Head, now: datetime) -> PeerFact | None:
    """What the local services hear of a thing that turned out not to be there."""
    header = envelope.header
    kind = IN_KINDS.get(header.stream)
    if kind is None:
        return None
    place = f"{header.origin}/{header.stream}/{head.epoch}/{head.seq}"
    return kind(
        id=f"{place}/gone/{header.key_hash.hex()[:16]}",
        origin=header.origin,
        epoch=head.epoch,
        seq=head.seq,
        record_key=key,
        fact="eu.aifn.thing-gone.v1",
        fact_id=place,
        fact_source=f"urn:aifn:{header.origin}:fedgate",
        fact_time=now,
        retired=True,
        data="{}",
    )


async def take_over(tx: Transaction, origin: str, stream: str) -> None:
    """Announce what is new in the staged state, and put it in the place of the replica."""
    kind = IN_KINDS.get(stream)
    if kind is not None:
        await tx.execute(_ANNOUNCE, origin, stream, kind.topic, clock.now())
    await tx.execute(_DROP, origin, stream)
    await tx.execute(_TAKE, origin, stream)
    await tx.execute(_CLEAR, origin, stream)


async def set_base(tx: Transaction, origin: str, stream: str, epoch: int, seq: int) -> None:
    """The journal is whole from this place on."""
    await tx.execute(_BASE, origin, stream, epoch, seq)
