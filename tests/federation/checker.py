"""Looks at a federation from outside: reads only the gates' tables and the brokers' topics, and shares no code.

    violations = await check({"lumi-aif": Place(dsn, kafka), ...}, canaries=["mari.meikalainen"])

Checked: I3 (a hand-over has one end, in time, the same on both sides), I4 (every place once), I5 (replicas equal their
owner's state), I6 (no gap that is not alarmed), I7 (everything believed was signed by its owner, byte for byte), I8
(what was committed was published, and nothing else), I9 (every chain hashes from its first envelope), I10 (no canary
identity on any federation topic or in any envelope).
"""

import argparse
import asyncio
import base64
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ZERO = bytes(32)
GRACE = timedelta(minutes=10)
HANDOVERS = """
SELECT h.handover_id, h.side, h.job_id, h.home_steps, h.receiver_steps, h.reason, h.used, h.end_by, h.ended_at,
    j.state, j.dispatched_at
FROM handover AS h JOIN job AS j ON j.job_id = h.job_id"""


@dataclass(frozen=True)
class Place:
    """Where a member keeps what is checked. Without a broker only the tables are; `scheduler` is that database."""

    dsn: str
    kafka: str = ""
    scheduler: str = ""


@dataclass
class Seen:
    """What was read of one member."""

    journal: list[Any]
    chains: dict[tuple[str, str], Any]
    replica: dict[tuple[str, str], dict[bytes, bytes]]
    alarms: set[tuple[str, str]]
    outbox: int
    keys: dict[str, tuple[str, bytes]]
    topics: dict[str, list[bytes]]


async def check(places: Mapping[str, Place], *, canaries: Sequence[str] = ()) -> list[str]:
    """Everything that is wrong, one line each; empty if nothing is."""
    seen = {member: await _read(place) for member, place in places.items()}
    found: list[str] = []
    for member, one in seen.items():
        found += _chains_hold(member, one)
        found += _signed(member, one, seen)
        found += _published(member, one)
        found += _nobody_named(member, one, canaries)
    for member, one in seen.items():
        for origin, owner in seen.items():
            if origin != member:
                found += _agree(member, one, origin, owner)
    schedulers = {member: place.scheduler for member, place in places.items() if place.scheduler}
    handovers = {member: await _rows(dsn, HANDOVERS) for member, dsn in schedulers.items()}
    return found + one_end(handovers, datetime.now(UTC))


async def _rows(dsn: str, query: str) -> list[Any]:
    db = await asyncpg.connect(dsn)
    try:
        return list(await db.fetch(query))
    finally:
        await db.close()


def one_end(handovers: Mapping[str, Sequence[Any]], now: datetime) -> list[str]:
    """I3: what is wrong with the hand-overs of these members' schedulers, whose rows are those of `HANDOVERS`."""
    found: list[str] = []
    by_id: dict[str, dict[str, Any]] = defaultdict(dict)
    finished: dict[tuple[str, str], int] = defaultdict(int)
    for member, rows in handovers.items():
        for row in rows:
            name = f"I3 {member} {row['handover_id']}"
            by_id[row["handover_id"]][row["side"]] = row
            ran = "finished" in row["receiver_steps"] and "confirmed" in row["home_steps"]
            finished[member, row["job_id"]] += ran
            if ran and row["reason"] is not None:
                found.append(f"{name}: finished and {row['reason']}")
            if row["ended_at"] is None and now > row["end_by"] + GRACE:
                found.append(f"{name}: no end after {row['end_by']}")
            if row["side"] == "receiver" and row["reason"] is not None and row["dispatched_at"] is not None:
                found.append(f"{name}: its home had taken it back, and it was sent to its site")
            if row["ended_at"] is not None and row["side"] == "home" and ran and row["state"] != "closed":
                found.append(f"{name}: finished, and its job is {row['state']}")
    for handover_id, sides in by_id.items():
        ends = {(row["reason"], row["used"]) for row in sides.values() if row["ended_at"] is not None}
        if len(ends) > 1:
            found.append(f"I3 {handover_id}: two ends {sorted(map(str, ends))}")
    return found + [f"I3 {member} {job}: ran {count} times" for (member, job), count in finished.items() if count > 1]


async def _read(place: Place) -> Seen:
    db = await asyncpg.connect(place.dsn)
    try:
        async with db.transaction(isolation="repeatable_read", readonly=True):
            journal = await db.fetch(
                "SELECT origin, stream, epoch, seq, raw, verdict FROM journal ORDER BY origin, stream, epoch, seq"
            )
            chains = {(row["origin"], row["stream"]): row for row in await db.fetch("SELECT * FROM chain")}
            replica: dict[tuple[str, str], dict[bytes, bytes]] = defaultdict(dict)
            for row in await db.fetch("SELECT origin, stream, key_hash, raw FROM replica"):
                replica[row["origin"], row["stream"]][row["key_hash"]] = row["raw"]
            alarms = {
                (row["origin"], row["stream"])
                for row in await db.fetch("SELECT origin, stream FROM alarm WHERE ended_at IS NULL")
            }
            outbox = int(await db.fetchval("SELECT count(*) FROM outbox"))
            documents = await db.fetch("SELECT content FROM trusted_document WHERE kind = 'directory'")
    finally:
        await db.close()
    topics = await _topics(place.kafka) if place.kafka else {}
    return Seen(journal, chains, replica, alarms, outbox, _keys(row["content"] for row in documents), topics)


async def _topics(kafka: str) -> dict[str, list[bytes]]:
    """Every record of every topic that is the federation's: own logs, mirrored ones, what was announced."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    try:
        names = [name for name in await consumer.topics() if "aifn-out-" in name or name.startswith("aifn-in-")]
        found: dict[str, list[bytes]] = {name: [] for name in names}
        parts = [TopicPartition(name, part) for name in names for part in consumer.partitions_for_topic(name) or ()]
        if not parts:
            return found
        consumer.assign(parts)
        ends = await consumer.end_offsets(parts)
        await consumer.seek_to_beginning()
        while any([await consumer.position(part) < end for part, end in ends.items()]):
            for part, records in (await consumer.getmany(timeout_ms=500)).items():
                found[part.topic] += [record.value or b"" for record in records]
        return found
    finally:
        await consumer.stop()


def _raw(text: str | bytes) -> bytes:
    said = text.encode() if isinstance(text, str) else text
    return base64.urlsafe_b64decode(said + b"=" * (-len(said) % 4))


def _header(raw: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_raw(raw.split(b".")[0]))
    return found


def _keys(documents: Any) -> dict[str, tuple[str, bytes]]:
    """Owner and public key by key id, of every directory that was ever in force here."""
    found = {}
    for text in documents:
        for name, member in json.loads(_raw(json.loads(text)["payload"]))["members"].items():
            for key in member["keys"]:
                found[key["kid"]] = (name, _raw(key["sign"]))
    return found


def _chains_hold(member: str, one: Seen) -> list[str]:
    """I4, I6 and I9: one envelope at each place, none missing, each naming the hash of the one before."""
    found: list[str] = []
    before: dict[tuple[str, str], tuple[tuple[int, int], bytes]] = {}
    for row in one.journal:
        thread, here = (row["origin"], row["stream"]), (row["epoch"], row["seq"])
        base = one.chains[thread]["base_epoch"], one.chains[thread]["base_seq"]
        last = before.get(thread)
        if here > base:
            first = last is None or last[0][0] < here[0]
            if last is not None and last[0] == here:
                found.append(f"I4 {member}: two envelopes at {thread} {here}")
            expected = (
                1 if first and here[0] != base[0] else (base[1] if last is None or last[0] < base else last[0][1]) + 1
            )
            if here[1] != expected and thread not in one.alarms:
                found.append(f"I6 {member}: {thread} has {here} where {expected} should be, and no alarm")
            prev = _raw(_header(row["raw"])["p"])
            if last is not None and last[0] == (here[0], here[1] - 1) and prev != last[1]:
                found.append(f"I9 {member}: {thread} {here} does not follow the one before")
            if here[1] == 1 and prev != ZERO:
                found.append(f"I9 {member}: {thread} {here} begins an epoch and follows something")
        before[thread] = (here, hashlib.sha256(row["raw"]).digest())
    for thread, chain in one.chains.items():
        last = before.get(thread)
        at = (chain["epoch"], chain["seq"])
        if last is not None and last[0] == at and last[1] != chain["tip"]:
            found.append(f"I9 {member}: the tip of {thread} is not the hash of {at}")
        if (chain["seen_epoch"], chain["seen_seq"]) > at and thread not in one.alarms:
            found.append(f"I6 {member}: {thread} is behind at {at}, and no alarm is open")
    return found


def _signed(member: str, one: Seen, seen: Mapping[str, Seen]) -> list[str]:
    """I7: signed by a key of its origin, and the same bytes that the origin has at that place."""
    found = []
    originals = {
        (name, row["stream"], row["epoch"], row["seq"]): row["raw"]
        for name, owner in seen.items()
        for row in owner.journal
        if row["origin"] == name
    }
    for row in one.journal:
        raw, header = row["raw"], _header(row["raw"])
        where = (row["origin"], row["stream"], row["epoch"], row["seq"])
        owner, public = one.keys.get(header["kid"], ("", b""))
        signed, _, signature = raw.rpartition(b".")
        if owner != row["origin"] or (header["o"], header["s"], header["e"], header["q"]) != where:
            found.append(f"I7 {member}: {where} is signed by a key of {owner or 'nobody'}")
            continue
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(_raw(signature), signed)
        except InvalidSignature:
            found.append(f"I7 {member}: the signature of {where} does not hold")
        if where in originals and originals[where] != raw:
            found.append(f"I7 {member}: {where} is not what its owner has there")
    return found


def _published(member: str, one: Seen) -> list[str]:
    """I8: the outbox is empty, and the own log is what stands on the export topics. I4: nothing is announced twice
    in two ways."""
    found = [f"I8 {member}: {one.outbox} messages wait in the outbox"] if one.outbox else []
    if not one.topics:
        return found
    for stream in {row["stream"] for row in one.journal if row["origin"] == member}:
        log = [row["raw"] for row in one.journal if (row["origin"], row["stream"]) == (member, stream)]
        sent = list(dict.fromkeys(one.topics.get(f"aifn-out-{stream}-v1", [])))
        if sent != log:
            found.append(f"I8 {member}: {len(log)} envelopes of {stream} in the log, {len(sent)} on the topic")
    for topic, values in one.topics.items():
        if topic.startswith("aifn-in-"):
            places: dict[tuple[Any, ...], bytes] = {}
            for value in values:
                said = json.loads(value)
                place = (said["origin"], said["epoch"], said["seq"], said["record_key"], said["retired"])
                if places.setdefault(place, value) != value:
                    found.append(f"I4 {member}: {topic} says two things for {place}")
    return found


def _agree(member: str, one: Seen, origin: str, owner: Seen) -> list[str]:
    """I5: where a replica is as far as its owner, it has the same things and the digest they add up to."""
    found = []
    for (name, stream), theirs in owner.chains.items():
        ours = one.chains.get((origin, stream))
        if (
            name != origin
            or ours is None
            or ours["frozen"]
            or (ours["epoch"], ours["seq"]) != (theirs["epoch"], theirs["seq"])
        ):
            continue
        if one.replica[origin, stream] != owner.replica[origin, stream]:
            found.append(f"I5 {member}: the state of {origin}/{stream} is not its owner's")
        total = sum(
            int.from_bytes(hashlib.sha256(key + hashlib.sha256(raw).digest()).digest(), "big")
            for key, raw in one.replica[origin, stream].items()
        )
        if (total % 2**256).to_bytes(32, "big") != ours["digest"] or ours["digest"] != theirs["digest"]:
            found.append(f"I5 {member}: the digest of {origin}/{stream} is not that of its state")
    return found


def _nobody_named(member: str, one: Seen, canaries: Sequence[str]) -> list[str]:
    """I10: in no envelope and on no federation topic stands a planted identity, in clear or in base64url."""
    words = [word.encode() for word in canaries]
    texts = [(f"{row['origin']}/{row['stream']}", row["raw"]) for row in one.journal]
    texts += [(topic, value) for topic, values in one.topics.items() for value in values if "aifn-out-" in topic]
    found = set()
    for where, value in texts:
        parts = [value, *(_raw(part) for part in value.split(b".")[:2] if value.count(b".") == 2)]
        found |= {
            f"I10 {member}: {word.decode()} stands on {where}" for word in words for part in parts if word in part
        }
    return sorted(found)


def main(arguments: list[str] | None = None) -> int:
    """`python -m tests.federation.checker lumi-aif=DSN[,KAFKA] ...`; ends with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.federation.checker", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("member", nargs="+", help="MEMBER=DSN, or MEMBER=DSN,KAFKA")
    parser.add_argument("--canary", action="append", default=[], help="an identity that must stand nowhere")
    chosen = parser.parse_args(arguments)
    places = {}
    for text in chosen.member:
        name, _, rest = text.partition("=")
        dsn, _, kafka = rest.partition(",")
        places[name] = Place(dsn, kafka)
    lines = asyncio.run(check(places, canaries=chosen.canary))
    print("\n".join(lines) if lines else f"{len(places)} members: I4, I5, I6, I7, I8, I9, I10 hold")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
