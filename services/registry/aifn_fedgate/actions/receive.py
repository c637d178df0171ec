"""Take in what others say: judge a batch, and write verdicts, log, state and announcements in one transaction."""

import logging
from collections.abc import Sequence
from datetime import datetime

from aifn_common import outbox, telemetry
from aifn_common.database import CONNECTION_FAULTS, Database, Transaction, transaction
from aifn_events.federation import IN_KINDS, DirectoryCarried, FederationAlarmRaised, HeadsSigned, PeerFact

from aifn_fedgate.domain import gate as rules
from aifn_fedgate.domain.chain import Chain, Verdict
from aifn_fedgate.domain.directory import Distrusted
from aifn_fedgate.domain.envelope import Envelope
from aifn_fedgate.domain.facts import Fact, UnknownFact
from aifn_fedgate.domain.gate import Arrival, Gate, Ruling
from aifn_fedgate.domain.heads import Alarm, Finding, compare_all
from aifn_fedgate.door import Door
from aifn_fedgate.store import journal, peers
from aifn_fedgate.store.journal import BatchMemory

log = logging.getLogger(__name__)
DRAIN = 500
FREEZING = frozenset(("equivocation", "head_mismatch"))


async def take_in(db: Database, door: Door, arrivals: Sequence[Arrival]) -> list[Ruling]:
    """Take in a batch, in its order, and what was waiting for it. No bytes can make it fail; a lost connection can."""
    gate = door.gate()
    if gate is None or not arrivals:
        return []
    async with door.lock:
        rulings = await _patiently(db, door, gate, list(arrivals))
        for chain_of in await _unsettled(db, rulings):
            rulings += await drain(db, door, gate, *chain_of)
    outbox.nudge()
    for one in rulings:
        if one.fact is not None and isinstance(one.fact.event, DirectoryCarried):
            await _consider(db, door, one.fact.event)
    return rulings


async def _unsettled(db: Database, rulings: Sequence[Ruling]) -> list[tuple[str, str]]:
    """The streams of a batch that moved on and for which something may still wait."""
    moved = {(one.envelope.header.origin, one.envelope.header.stream) for one in rulings if one.moved and one.envelope}
    if not moved:
        return []
    async with transaction(db) as tx:
        return await journal.unsettled(tx, moved)


async def _patiently(db: Database, door: Door, gate: Gate, arrivals: list[Arrival]) -> list[Ruling]:
    """A batch that fails through a fault of ours is taken in one by one, and the one that fails is set aside."""
    try:
        return await _take_in(db, door, gate, arrivals)
    except CONNECTION_FAULTS:
        raise
    except Exception:
        log.exception("a batch of %s envelopes failed", len(arrivals))
    if len(arrivals) > 1:
        return [ruling for one in arrivals for ruling in await _patiently(db, door, gate, [one])]
    ruling = Ruling(arrivals[0], Verdict.QUARANTINED, "fault", "a fault of ours, see the log")
    async with transaction(db) as tx:
        await peers.quarantine(tx, [ruling], at_most=door.settings.fed_quarantine_at_most)
        await peers.count(tx, rules.counts([ruling]))
    return [ruling]


async def _take_in(db: Database, door: Door, gate: Gate, arrivals: Sequence[Arrival]) -> list[Ruling]:
    async with transaction(db) as tx:
        rulings = await _within(tx, door, gate, arrivals)
    for (_, stream, verdict), number in rules.counts(rulings).items():
        telemetry.metrics.received.add(number, {"topic": f"federation/{stream}/{verdict}"})
    return rulings


async def _within(tx: Transaction, door: Door, gate: Gate, arrivals: Sequence[Arrival]) -> list[Ruling]:
    opened = [(one, rules.unpack(one)) for one in arrivals]
    ways = {(one.origin, one.stream) for one in arrivals}
    # A chain is made for what came by its own way only: a forger's inventions leave no rows.
    readable = [
        one for _, one in opened if isinstance(one, Envelope) and (one.header.origin, one.header.stream) in ways
    ]
    memory = await journal.load(tx, readable)
    before = {key: (chain.behind, chain.epoch) for key, chain in memory.chains.items()}
    rulings = rules.look_at_all(gate, opened, memory, door.now())
    await journal.save(tx, memory, rulings)
    await _keep_the_rest(tx, door, rulings)
    await outbox.announce_all(tx, [one for one in map(announcement, rulings) if one is not None])
    await _raise_for(tx, door, memory, before, rulings)
    for one in rulings:
        if one.fact is not None and isinstance(one.fact.event, HeadsSigned):
            await hear_head(tx, door, one.fact.event, one.envelope)
    return rulings


async def _keep_the_rest(tx: Transaction, door: Door, rulings: Sequence[Ruling]) -> None:
    bad = [one for one in rulings if one.verdict is Verdict.QUARANTINED]
    await peers.quarantine(tx, bad, at_most=door.settings.fed_quarantine_at_most)
    await peers.park(tx, [one for one in rulings if _waits(one)], at_most=door.settings.fed_park_at_most)
    await peers.count(tx, rules.counts(rulings))


def _waits(ruling: Ruling) -> bool:
    return ruling.verdict in (Verdict.GAP, Verdict.PARKED) and not ruling.moved and ruling.code != "frozen"


def announcement(ruling: Ruling) -> PeerFact | None:
    """What the local services hear of an accepted fact; None if it is not for them."""
    if ruling.verdict is not Verdict.ACCEPTED or ruling.fact is None or ruling.envelope is None:
        return None
    return peer_fact(ruling.envelope, ruling.fact)


def peer_fact(envelope: Envelope, fact: Fact) -> PeerFact | None:
    """A fact as the local services hear it; its id is made from its place, so that a copy is known as one."""
    header = envelope.header
    kind = IN_KINDS.get(header.stream)
    if kind is None or fact.event is None:
        return None
    return kind(
        id=f"{header.origin}/{header.stream}/{header.epoch}/{header.seq}",
        origin=header.origin,
        epoch=header.epoch,
        seq=header.seq,
        record_key=fact.key,
        fact=fact.type,
        fact_id=fact.id,
        fact_source=fact.source,
        fact_time=fact.time,
        retired=fact.retired,
        data=fact.event.model_dump_json(),
    )


async def _raise_for(
    tx: Transaction,
    door: Door,
    memory: BatchMemory,
    before: dict[tuple[str, str], tuple[bool, int]],
    rulings: Sequence[Ruling],
) -> None:
    """Alarms that follow from a batch alone, and the end of those that are over."""
    for key, chain in memory.chains.items():
        was_behind, old_epoch = before[key]
        if chain.behind and not was_behind:
            await sound(tx, door, _about(chain, "gap", f"we are at {chain.at}, its owner at {chain.seen}"))
        elif was_behind and not chain.behind:
            await peers.end_alarms(tx, *key, ["gap"], door.now())
        if 0 < old_epoch < chain.epoch:
            await sound(tx, door, _about(chain, "new_epoch", f"epoch {old_epoch} was followed by {chain.epoch}"))
    for one in rulings:
        if one.verdict is Verdict.EQUIVOCATION and one.envelope is not None:
            await _keep_proof(tx, door, one.envelope, one.code)
        elif one.fact is not None and one.fact.ahead:
            finding = Finding(one.arrival.origin, one.arrival.stream, "future", f"{one.fact.key} is of {one.fact.time}")
            await sound(tx, door, finding)
        elif one.code == "null_value":
            await sound(tx, door, Finding(one.arrival.origin, one.arrival.stream, "state_null", "a null came"))


def _about(chain: Chain, alarm: Alarm, detail: str) -> Finding:
    return Finding(chain.origin, chain.stream, alarm, detail)


async def _keep_proof(tx: Transaction, door: Door, theirs: Envelope, code: str) -> None:
    header = theirs.header
    seq = header.seq - 1 if code == "another_before" else header.seq
    ours = await journal.raw_at(tx, header.origin, header.stream, header.epoch, seq)
    await peers.add_evidence(
        tx,
        header.origin,
        header.stream,
        "equivocation",
        ours=ours,
        theirs=theirs.raw,
        directory_version=door.directory_version,
    )
    detail = f"two things are signed for {header.epoch}/{header.seq} ({code})"
    await sound(tx, door, Finding(header.origin, header.stream, "equivocation", detail))


async def sound(tx: Transaction, door: Door, finding: Finding) -> None:
    """Raise an alarm and tell the local services, unless that was done."""
    now = door.now()
    if not await peers.raise_alarm(tx, finding.origin, finding.stream, finding.alarm, finding.detail, now):
        return
    log.warning("%s/%s: %s: %s", finding.origin, finding.stream, finding.alarm, finding.detail)
    await outbox.announce(
        tx,
        FederationAlarmRaised(
            origin=finding.origin,
            stream=finding.stream,
            alarm=finding.alarm,
            detail=finding.detail,
            frozen=finding.alarm in FREEZING,
            raised_at=now,
        ),
    )


async def hear_head(tx: Transaction, door: Door, heads: HeadsSigned, envelope: Envelope | None) -> None:
    """Hold what we have of a member against what it says of itself."""
    origin = heads.member
    chains = await journal.lock_chains(tx, [(origin, stream) for stream in heads.streams])
    places = [(origin, stream, head.epoch, head.seq) for stream, head in heads.streams.items()]
    hashes = await journal.known_hashes(tx, places)
    found = compare_all(
        heads,
        lambda stream: chains[origin, stream],
        lambda stream, epoch, seq: hashes.get((origin, stream, epoch, seq)),
    )
    await journal.save_chains(tx, chains.values())
    wrong = {finding.stream for finding in found}
    for finding in found:
        if finding.alarm == "head_mismatch" and envelope is not None:
            head = heads.streams[finding.stream]
            ours = await journal.raw_at(tx, origin, finding.stream, head.epoch, head.seq)
            await peers.add_evidence(
                tx,
                origin,
                finding.stream,
                finding.alarm,
                ours=ours,
                theirs=envelope.raw,
                directory_version=door.directory_version,
            )
        await sound(tx, door, finding)
    for stream in heads.streams.keys() - wrong:
        if not chains[origin, stream].behind:
            await peers.end_alarms(tx, origin, stream, ["diverged", "gap"], door.now())
    await peers.heard_head(tx, origin, door.now(), envelope.raw if envelope else None)
    await peers.end_alarms(tx, origin, "", ["silence"], door.now())


async def take_head(db: Database, door: Door, origin: str, raw: bytes) -> HeadsSigned | None:
    """Hear a head that was asked for, whatever came before it in its stream; None if it is not believed."""
    gate = door.gate()
    arrival = Arrival(raw, origin, "head", via="https")
    envelope = rules.unpack(arrival)
    if gate is None or isinstance(envelope, Ruling):
        return None
    wrong = gate.check(arrival, envelope, door.now())
    heads = None if wrong else head_in(gate, envelope, door.now())
    async with door.lock, transaction(db) as tx:
        if heads is None:
            await peers.count(tx, {(origin, "head", Verdict.QUARANTINED.value): 1})
            return None
        chains = await journal.lock_chains(tx, [(origin, "head")])
        chains[origin, "head"].note((envelope.header.epoch, envelope.header.seq))
        await journal.save_chains(tx, chains.values())
        await hear_head(tx, door, heads, envelope)
    return heads


def head_in(gate: Gate, envelope: Envelope, now: datetime) -> HeadsSigned | None:
    """The head inside an authentic envelope; None if there is none."""
    try:
        fact = gate.fact_in(envelope, now)
    except (ValueError, UnknownFact):
        return None
    return fact.event if isinstance(fact.event, HeadsSigned) else None


async def drain(db: Database, door: Door, gate: Gate, origin: str, stream: str) -> list[Ruling]:
    """Take in what waited for the place that was just filled, or for one before; the door's lock is held."""
    rulings: list[Ruling] = []
    while True:
        async with transaction(db) as tx:
            chain = (await journal.lock_chains(tx, [(origin, stream)]))[origin, stream]
            raws = await peers.take_parked(tx, origin, stream, chain.at, DRAIN)
            # The rows are gone only if what follows is committed; it is one batch, in this transaction's place.
            waiting = [Arrival(raw, origin, stream, via="parked") for raw in raws]
            found = await _within(tx, door, gate, waiting) if waiting else []
        rulings += found
        # While our directory has expired all of them wait again, and would be taken for ever.
        if len(raws) < DRAIN or all(map(_waits, found)):
            return rulings


async def look_again(db: Database, door: Door) -> int:
    """Look again at what waited for a newer directory or a newer program; returns how many were accepted."""
    gate = door.gate()
    if gate is None or door.expired():
        return 0
    async with door.lock, transaction(db) as tx:
        rows = await peers.take_waiting(tx, ["directory_expired", "directory_behind"], DRAIN)
        again = [Arrival(row["raw"], row["origin"], row["stream"], via="parked") for row in rows]
        rulings = await _within(tx, door, gate, again) if again else []
        read = 0
        for row in await peers.unread(tx, door.me, DRAIN):
            read += await _read_again(tx, door, gate, row["raw"], row["origin"], row["stream"])
    outbox.nudge()
    return read + sum(one.verdict is Verdict.ACCEPTED for one in rulings)


async def _read_again(tx: Transaction, door: Door, gate: Gate, raw: bytes, origin: str, stream: str) -> int:
    envelope = rules.unpack(Arrival(raw, origin, stream))
    if isinstance(envelope, Ruling):
        return 0
    try:
        fact = gate.fact_in(envelope, door.now())
    except UnknownFact:
        return 0
    except ValueError as wrong:
        await peers.replayed(tx, envelope, Verdict.QUARANTINED.value, getattr(wrong, "code", "invalid_data"))
        return 0
    await peers.replayed(tx, envelope, Verdict.ACCEPTED.value, "read_later")
    event = peer_fact(envelope, fact)
    if event is not None:
        await outbox.announce(tx, event)
    return 1


async def _consider(db: Database, door: Door, carried: DirectoryCarried) -> None:
    try:
        if await door.consider(db, carried.roots, carried.directory):
            await look_again(db, door)
    except Distrusted as wrong:
        log.error("a carried directory is not believed: %s (%s)", wrong, wrong.code)
