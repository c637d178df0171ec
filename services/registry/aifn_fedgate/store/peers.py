"""What else is kept of other members: bad bytes, waiting envelopes, evidence, alarms, heads, counts, documents."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from aifn_common.database import Row, Transaction

from aifn_fedgate.domain.envelope import Envelope
from aifn_fedgate.domain.gate import Ruling

_QUARANTINE = """
INSERT INTO quarantine (origin, stream, via, code, reason, raw)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[])"""
_KEPT = "SELECT count(*) FROM quarantine WHERE origin = $1 AND heard_at > now() - interval '1 hour'"
_PARK = """
INSERT INTO parked (origin, stream, epoch, seq, hash, code, raw)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bytea[], $6::text[], $7::bytea[])
ON CONFLICT DO NOTHING"""
_PARKED = "SELECT count(*) FROM parked WHERE origin = $1"
_NEXT_PARKED = """
DELETE FROM parked WHERE ctid IN (
    SELECT ctid FROM parked WHERE (origin, stream) = ($1, $2) ORDER BY epoch, seq LIMIT $5)
AND EXISTS (
    SELECT FROM parked WHERE (origin, stream) = ($1, $2)
    AND ((epoch = $3 AND seq = $4 + 1) OR (epoch > $3 AND seq = 1) OR (epoch, seq) <= ($3, $4)))
RETURNING epoch, seq, raw"""
_WAITING = """
DELETE FROM parked WHERE ctid IN (
    SELECT ctid FROM parked WHERE code = ANY($1) ORDER BY origin, stream, epoch, seq LIMIT $2)
RETURNING origin, stream, raw, epoch, seq"""
_COUNT = """
INSERT INTO verdict_count (origin, stream, verdict, count)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) ORDER BY 1, 2, 3
ON CONFLICT (origin, stream, verdict) DO UPDATE SET count = verdict_count.count + excluded.count"""
_EVIDENCE = """
INSERT INTO evidence (origin, stream, alarm, ours, theirs, directory_version) VALUES ($1, $2, $3, $4, $5, $6)"""
_ALL_EVIDENCE = """
SELECT id, origin, stream, alarm, ours, theirs, directory_version, noted_at FROM evidence
WHERE $1::text IS NULL OR origin = $1 ORDER BY id LIMIT 1000"""
_RAISE = """
INSERT INTO alarm (origin, stream, alarm, detail, raised_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING"""
_END = """
UPDATE alarm SET ended_at = $4
WHERE origin = $1 AND ($2::text IS NULL OR stream = $2) AND alarm = ANY($3) AND ended_at IS NULL"""
_ALARMS = """
SELECT origin, stream, alarm, detail, raised_at, ended_at FROM alarm ORDER BY raised_at DESC LIMIT 500"""
_HEARD = """
INSERT INTO peer (origin, head_at, head) VALUES ($1, $2, $3)
ON CONFLICT (origin) DO UPDATE SET head_at = excluded.head_at, head = coalesce(excluded.head, peer.head)"""
_MEET = "INSERT INTO peer (origin, head_at) SELECT o, $2 FROM unnest($1::text[]) AS t(o) ON CONFLICT DO NOTHING"
_PEERS = "SELECT origin, head_at FROM peer"
_HEAD = "SELECT head FROM peer WHERE origin = $1"
_COUNTS = "SELECT origin, stream, verdict, count FROM verdict_count ORDER BY origin, stream, verdict"
_STREAMS = """
SELECT origin, stream, epoch, seq, seen_epoch, seen_seq, keys, digest, frozen, moved_at,
    (SELECT count(*) FROM parked AS p WHERE (p.origin, p.stream) = (c.origin, c.stream)) AS waiting
FROM chain AS c ORDER BY origin, stream"""
_DOCUMENT = "INSERT INTO trusted_document (kind, version, content) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
_DOCUMENTS = "SELECT version, content FROM trusted_document WHERE kind = $1 ORDER BY version"
_CARRIED = "SELECT max(version) FROM trusted_document WHERE kind = 'carried'"
_UNFREEZE = "UPDATE chain SET frozen = false WHERE origin = $1 AND stream = $2 AND frozen"
_REPLAYED = "UPDATE journal SET verdict = $5, code = $6 WHERE (origin, stream, epoch, seq) = ($1, $2, $3, $4)"
_UNREAD = """
SELECT origin, stream, epoch, seq, raw FROM journal WHERE verdict = 'parked' AND origin <> $1
ORDER BY origin, stream, epoch, seq LIMIT $2"""


async def quarantine(tx: Transaction, rulings: Sequence[Ruling], *, at_most: int) -> None:
    """Keep bad bytes as they came, at most so many of one member in an hour; the rest is only counted."""
    rows = []
    for origin in {one.arrival.origin for one in rulings}:
        room = at_most - int(await tx.fetchval(_KEPT, origin))
        mine = [one for one in rulings if one.arrival.origin == origin][: max(room, 0)]
        rows += [
            (origin, one.arrival.stream, one.arrival.via, one.code, _keepable(one.reason), one.arrival.raw)
            for one in mine
        ]
    if rows:
        await tx.execute(_QUARANTINE, *(list(column) for column in zip(*rows, strict=True)))


def _keepable(text: str) -> str:
    return text[:1000].replace("\0", "?").encode(errors="replace").decode()


async def park(tx: Transaction, rulings: Sequence[Ruling], *, at_most: int) -> None:
    """Let envelopes wait, at most so many of one member; the rest is asked for later."""
    rows = []
    for origin in {one.arrival.origin for one in rulings}:
        room = at_most - int(await tx.fetchval(_PARKED, origin))
        mine = [
            (one.envelope, one.code) for one in rulings if one.arrival.origin == origin and one.envelope is not None
        ]
        for envelope, code in mine[: max(room, 0)]:
            h = envelope.header
            rows.append((h.origin, h.stream, h.epoch, h.seq, envelope.hash, code, envelope.raw))
    if rows:
        await tx.execute(_PARK, *(list(column) for column in zip(*rows, strict=True)))


async def take_parked(tx: Transaction, origin: str, stream: str, at: tuple[int, int], limit: int) -> list[bytes]:
    """Envelopes that waited, if the one after this place is among them, in order; they wait no more."""
    rows = await tx.fetch(_NEXT_PARKED, origin, stream, *at, limit)
    return [row["raw"] for row in sorted(rows, key=lambda row: (row["epoch"], row["seq"]))]


async def take_waiting(tx: Transaction, codes: Sequence[str], limit: int) -> list[Row]:
    """Envelopes that waited for one of these reasons, in order; they wait no more."""
    rows = await tx.fetch(_WAITING, list(codes), limit)
    return sorted(rows, key=lambda row: (row["origin"], row["stream"], row["epoch"], row["seq"]))


async def unread(tx: Transaction, me: str, limit: int) -> list[Row]:
    """Envelopes that have their place and that no program here could read yet."""
    return await tx.fetch(_UNREAD, me, limit)


async def replayed(tx: Transaction, envelope: Envelope, verdict: str, code: str) -> None:
    """An envelope that could not be read has been looked at again."""
    h = envelope.header
    await tx.execute(_REPLAYED, h.origin, h.stream, h.epoch, h.seq, verdict, code)


async def count(tx: Transaction, counts: Mapping[tuple[str, str, str], int]) -> None:
    """Add to the counts of verdicts."""
    if counts:
        rows = [(*key, number) for key, number in counts.items()]
        await tx.execute(_COUNT, *(list(column) for column in zip(*rows, strict=True)))


async def add_evidence(
    tx: Transaction, origin: str, stream: str, alarm: str, *, ours: bytes | None, theirs: bytes, directory_version: int
) -> None:
    """Keep the proof of what an owner signed."""
    await tx.execute(_EVIDENCE, origin, stream, alarm, ours, theirs, directory_version)


async def evidence(tx: Transaction, origin: str | None) -> list[Row]:
    """All proofs, or those against one member."""
    return await tx.fetch(_ALL_EVIDENCE, origin)


async def raise_alarm(tx: Transaction, origin: str, stream: str, alarm: str, detail: str, now: datetime) -> bool:
    """Note that something is wrong; False if that was known."""
    return await tx.execute(_RAISE, origin, stream, alarm, detail[:1000], now) == "INSERT 0 1"


async def end_alarms(tx: Transaction, origin: str, stream: str | None, alarms: Sequence[str], now: datetime) -> None:
    """Note that it is wrong no more."""
    await tx.execute(_END, origin, stream, list(alarms), now)


async def alarms(tx: Transaction) -> list[Row]:
    """The newest alarms, open or over."""
    return await tx.fetch(_ALARMS)


async def heard_head(tx: Transaction, origin: str, now: datetime, raw: bytes | None) -> None:
    """A head of a member came."""
    await tx.execute(_HEARD, origin, now, raw)


async def meet(tx: Transaction, origins: Sequence[str], now: datetime) -> None:
    """Members that are new to us have the whole patience before they count as silent."""
    await tx.execute(_MEET, list(origins), now)


async def last_heard(tx: Transaction) -> dict[str, datetime]:
    """When the newest head of each member came."""
    return {row["origin"]: row["head_at"] for row in await tx.fetch(_PEERS)}


async def head_of(tx: Transaction, origin: str) -> bytes | None:
    """The newest head of a member."""
    found: bytes | None = await tx.fetchval(_HEAD, origin)
    return found


async def verdict_counts(tx: Transaction) -> list[Row]:
    """How many of each verdict, by origin and stream."""
    return await tx.fetch(_COUNTS)


async def stream_rows(tx: Transaction) -> list[Row]:
    """How every stream is getting on."""
    return await tx.fetch(_STREAMS)


async def keep_document(tx: Transaction, kind: str, version: int, content: str) -> None:
    """Keep a root or directory."""
    await tx.execute(_DOCUMENT, kind, version, content)


async def documents(tx: Transaction, kind: str) -> list[str]:
    """All roots or directories, oldest first."""
    return [row["content"] for row in await tx.fetch(_DOCUMENTS, kind)]


async def carried_version(tx: Transaction) -> int:
    """The newest directory this member has passed on; 0 if none."""
    return int(await tx.fetchval(_CARRIED) or 0)


async def unfreeze(tx: Transaction, origin: str, stream: str) -> bool:
    """A person has decided that a stream is believed again from where it stopped."""
    return await tx.execute(_UNFREEZE, origin, stream) == "UPDATE 1"
