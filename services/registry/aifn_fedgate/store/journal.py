"""Logs and their state: read what a batch must know, write what it has come to."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from aifn_common.database import Row, Transaction
from pydantic_core import from_json

from aifn_fedgate.domain.chain import Chain
from aifn_fedgate.domain.envelope import Envelope
from aifn_fedgate.domain.gate import Ruling

StreamOf = tuple[str, str]
Place = tuple[str, str, int, int]
Thing = tuple[str, str, bytes]

_MAKE_CHAINS = """
INSERT INTO chain (origin, stream)
SELECT o, s FROM unnest($1::text[], $2::text[]) AS t(o, s) ORDER BY o, s
ON CONFLICT DO NOTHING"""
_CHAINS = """
SELECT c.origin, c.stream, epoch, seq, tip, keys, digest, seen_epoch, seen_seq, frozen FROM chain AS c
JOIN unnest($1::text[], $2::text[]) AS t(o, s) ON (c.origin, c.stream) = (t.o, t.s)
ORDER BY c.origin, c.stream"""
_UNSETTLED = """
SELECT c.origin, c.stream FROM chain AS c
JOIN unnest($1::text[], $2::text[]) AS t(o, s) ON (c.origin, c.stream) = (t.o, t.s)
WHERE (c.seen_epoch, c.seen_seq) > (c.epoch, c.seq) OR EXISTS (
    SELECT FROM parked AS p
    WHERE (p.origin, p.stream) = (c.origin, c.stream) AND (p.epoch, p.seq) <= (c.epoch, c.seq))
ORDER BY c.origin, c.stream"""
_ALL_CHAINS = """
SELECT origin, stream, epoch, seq, tip, keys, digest, seen_epoch, seen_seq, frozen FROM chain
WHERE $1::text IS NULL OR origin = $1 ORDER BY origin, stream"""
_HASHES = """
SELECT j.origin, j.stream, j.epoch, j.seq, j.hash FROM journal AS j
JOIN unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS t(o, s, e, q)
  ON (j.origin, j.stream, j.epoch, j.seq) = (t.o, t.s, t.e, t.q)"""
_STATES = """
SELECT r.origin, r.stream, r.key_hash, r.hash FROM replica AS r
JOIN unnest($1::text[], $2::text[], $3::bytea[]) AS t(o, s, k) ON (r.origin, r.stream, r.key_hash) = (t.o, t.s, t.k)"""
_JOURNAL_COLUMNS = ("origin", "stream", "epoch", "seq", "hash", "key_hash", "verdict", "code", "raw")
_SET_STATE = """
INSERT INTO replica (origin, stream, key_hash, epoch, seq, hash, raw)
SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bytea[], $7::bytea[])
ON CONFLICT (origin, stream, key_hash)
DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq, hash = excluded.hash, raw = excluded.raw"""
_DROP_STATE = """
DELETE FROM replica AS r USING unnest($1::text[], $2::text[], $3::bytea[]) AS t(o, s, k)
WHERE (r.origin, r.stream, r.key_hash) = (t.o, t.s, t.k)"""
_SET_CHAINS = """
UPDATE chain AS c SET epoch = t.epoch, seq = t.seq, tip = t.tip, keys = t.keys, digest = t.digest,
    seen_epoch = t.seen_epoch, seen_seq = t.seen_seq, frozen = t.frozen, moved_at = now()
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bytea[], $6::bigint[], $7::bytea[], $8::bigint[],
    $9::bigint[], $10::boolean[])
    AS t(o, s, epoch, seq, tip, keys, digest, seen_epoch, seen_seq, frozen)
WHERE (c.origin, c.stream) = (t.o, t.s)"""
_PAGE = """
SELECT epoch, seq, raw FROM journal WHERE origin = $1 AND stream = $2 AND epoch = $3 AND seq > $4
ORDER BY seq LIMIT $5"""
_FIRST = "SELECT min(seq) FROM journal WHERE origin = $1 AND stream = $2 AND epoch = $3"
_STATE_PAGE = """
SELECT key_hash, raw FROM replica WHERE origin = $1 AND stream = $2 AND key_hash > $3 ORDER BY key_hash LIMIT $4"""
_RAW = "SELECT raw FROM journal WHERE origin = $1 AND stream = $2 AND epoch = $3 AND seq = $4"
_PRUNE = "DELETE FROM journal WHERE heard_at < now() - make_interval(days => $1)"
_HIGHEST = "SELECT max(epoch) FROM chain WHERE origin = $1"


@dataclass
class BatchMemory:
    """What a batch must know, read at once; what it has come to, written at once."""

    chains: dict[StreamOf, Chain] = field(default_factory=dict)
    hashes: dict[Place, bytes] = field(default_factory=dict)
    states: dict[Thing, bytes | None] = field(default_factory=dict)
    newest: dict[Thing, Envelope] = field(default_factory=dict)

    def chain(self, origin: str, stream: str) -> Chain:
        """The chain of a stream."""
        return self.chains.setdefault((origin, stream), Chain(origin, stream))

    def hash_at(self, origin: str, stream: str, epoch: int, seq: int) -> bytes | None:
        """The hash of the envelope held at a place."""
        return self.hashes.get((origin, stream, epoch, seq))

    def state_at(self, origin: str, stream: str, key_hash: bytes) -> bytes | None:
        """The hash of a key's newest envelope."""
        return self.states.get((origin, stream, key_hash))

    def add(self, envelope: Envelope) -> None:
        """An envelope has its place, and is its key's newest."""
        header = envelope.header
        thing = (header.origin, header.stream, header.key_hash)
        self.hashes[header.origin, header.stream, header.epoch, header.seq] = envelope.hash
        self.states[thing] = None if header.retired else envelope.hash
        self.newest[thing] = envelope


async def lock_chains(tx: Transaction, streams: Iterable[StreamOf]) -> dict[StreamOf, Chain]:
    """The chains of these streams, made where they are missing, locked in one order."""
    wanted = sorted(set(streams))
    names = [origin for origin, _ in wanted], [stream for _, stream in wanted]
    await tx.execute(_MAKE_CHAINS, *names)
    return {(row["origin"], row["stream"]): _chain(row) for row in await tx.fetch(_CHAINS + " FOR UPDATE OF c", *names)}


async def unsettled(tx: Transaction, streams: Iterable[StreamOf]) -> list[StreamOf]:
    """Those of these streams of which something is known to be missing, or waits though its place was filled."""
    wanted = sorted(set(streams))
    rows = await tx.fetch(_UNSETTLED, [origin for origin, _ in wanted], [stream for _, stream in wanted])
    return [(row["origin"], row["stream"]) for row in rows]


async def all_chains(tx: Transaction, origin: str | None = None) -> list[Chain]:
    """Every chain, or those of one member, as they are."""
    return [_chain(row) for row in await tx.fetch(_ALL_CHAINS, origin)]


def _chain(row: Row) -> Chain:
    return Chain(
        origin=row["origin"],
        stream=row["stream"],
        epoch=row["epoch"],
        seq=row["seq"],
        tip=row["tip"],
        keys=row["keys"],
        digest=int.from_bytes(row["digest"], "big"),
        seen=(row["seen_epoch"], row["seen_seq"]),
        frozen=row["frozen"],
    )


async def load(tx: Transaction, envelopes: Sequence[Envelope]) -> BatchMemory:
    """Lock the chains of a batch and read what it must know."""
    headers = [envelope.header for envelope in envelopes]
    memory = BatchMemory(chains=await lock_chains(tx, {(one.origin, one.stream) for one in headers}))
    places = list({(one.origin, one.stream, one.epoch, one.seq) for one in headers})
    for row in await tx.fetch(_HASHES, *(_column(places, index) for index in range(4))):
        memory.hashes[row["origin"], row["stream"], row["epoch"], row["seq"]] = row["hash"]
    await load_states(tx, memory, ((one.origin, one.stream, one.key_hash) for one in headers))
    return memory


async def load_states(tx: Transaction, memory: BatchMemory, things: Iterable[Thing]) -> None:
    """Read what is true of these things."""
    wanted = list(set(things))
    for row in await tx.fetch(_STATES, *(_column(wanted, index) for index in range(3))):
        memory.states[row["origin"], row["stream"], row["key_hash"]] = row["hash"]


async def known_hashes(tx: Transaction, places: Sequence[Place]) -> dict[Place, bytes]:
    """The hashes held at these places."""
    rows = await tx.fetch(_HASHES, *(_column(places, index) for index in range(4)))
    return {(row["origin"], row["stream"], row["epoch"], row["seq"]): row["hash"] for row in rows}


async def save(tx: Transaction, memory: BatchMemory, rulings: Sequence[Ruling]) -> None:
    """Write what a batch has come to: the envelopes that have their place, the state, the chains."""
    rows = [
        (one.envelope.header, one.envelope, one.verdict.value, one.code)
        for one in rulings
        if one.moved and one.envelope
    ]
    if rows:
        records = [
            (h.origin, h.stream, h.epoch, h.seq, envelope.hash, h.key_hash, verdict, code, envelope.raw)
            for h, envelope, verdict, code in rows
        ]
        await tx.copy_records_to_table("journal", records=records, columns=_JOURNAL_COLUMNS)
    await save_states(tx, memory)
    await save_chains(tx, memory.chains.values())


async def save_states(tx: Transaction, memory: BatchMemory) -> None:
    """Write each key's newest envelope, and forget what is retired."""
    live = [
        (*thing, e.header.epoch, e.header.seq, e.hash, e.raw)
        for thing, e in memory.newest.items()
        if not e.header.retired
    ]
    gone = [thing for thing, envelope in memory.newest.items() if envelope.header.retired]
    if live:
        await tx.execute(_SET_STATE, *(_column(live, index) for index in range(7)))
    if gone:
        await tx.execute(_DROP_STATE, *(_column(gone, index) for index in range(3)))


async def save_chains(tx: Transaction, chains: Iterable[Chain]) -> None:
    """Write how far these chains are."""
    rows = [
        (c.origin, c.stream, c.epoch, c.seq, c.tip, c.keys, c.digest.to_bytes(32, "big"), *c.seen, c.frozen)
        for c in chains
    ]
    if rows:
        await tx.execute(_SET_CHAINS, *(_column(rows, index) for index in range(10)))


async def put_own(tx: Transaction, envelopes: Iterable[Envelope]) -> None:
    """Write envelopes of this member's own log."""
    records = [
        (h.origin, h.stream, h.epoch, h.seq, envelope.hash, h.key_hash, "accepted", "own", envelope.raw)
        for envelope in envelopes
        for h in (envelope.header,)
    ]
    await tx.copy_records_to_table("journal", records=records, columns=_JOURNAL_COLUMNS)


async def page(tx: Transaction, origin: str, stream: str, epoch: int, after: int, limit: int) -> list[Row]:
    """Envelopes in order: (epoch, seq, raw)."""
    return await tx.fetch(_PAGE, origin, stream, epoch, after, limit)


async def first_seq(tx: Transaction, origin: str, stream: str, epoch: int) -> int | None:
    """The oldest place still held of an epoch."""
    found: int | None = await tx.fetchval(_FIRST, origin, stream, epoch)
    return found


async def state_page(tx: Transaction, origin: str, stream: str, after: bytes, limit: int) -> list[Row]:
    """The newest envelope of each key, by the key's hash: (key_hash, raw)."""
    return await tx.fetch(_STATE_PAGE, origin, stream, after, limit)


async def raw_at(tx: Transaction, origin: str, stream: str, epoch: int, seq: int) -> bytes | None:
    """The envelope held at a place."""
    found: bytes | None = await tx.fetchval(_RAW, origin, stream, epoch, seq)
    return found


async def highest_epoch(tx: Transaction, origin: str) -> int:
    """The highest epoch of any stream of a member; 0 if there is none."""
    return int(await tx.fetchval(_HIGHEST, origin) or 0)


async def prune(tx: Transaction, days: int) -> None:
    """Drop what was heard longer ago than the log is kept; the state stays."""
    await tx.execute(_PRUNE, days)


def data_of(payload: bytes) -> dict[str, object]:
    """The data of a fact of our own."""
    found: dict[str, object] = from_json(payload)["data"]
    return found


def _column(rows: Sequence[Sequence[object]], index: int) -> list[object]:
    return [row[index] for row in rows]
