"""Every check of an incoming envelope, cheapest first, and what follows from them for a whole batch.

Nothing here waits or writes: what must be known is in a `Memory`, which also notes what must be kept. The simulator and
the database run the same lines.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from aifn_events.federation import FACTS, may_tell

from aifn_fedgate.domain.chain import Chain, Verdict, place
from aifn_fedgate.domain.directory import Trust
from aifn_fedgate.domain.envelope import Envelope, Malformed, Verify, hash_of, read
from aifn_fedgate.domain.facts import Fact, Kinds, OpenSealed, UnknownFact, read_fact


@dataclass(frozen=True, slots=True)
class Arrival:
    """Bytes as they came. `origin` and `stream` are those of the topic or address they came by; `key` of a record."""

    raw: bytes | None
    origin: str
    stream: str
    key: bytes | None = None
    via: str = ""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What became of an arrival, and why. `envelope` and `fact` are there as far as it was read."""

    arrival: Arrival
    verdict: Verdict
    code: str
    reason: str = ""
    envelope: Envelope | None = None
    fact: Fact | None = None
    moved: bool = False


class Memory(Protocol):
    """What is known already about the streams of a batch."""

    def chain(self, origin: str, stream: str) -> Chain:
        """The chain of a stream; a new one if nothing is known."""

    def hash_at(self, origin: str, stream: str, epoch: int, seq: int) -> bytes | None:
        """The hash of the envelope held at a place."""

    def state_at(self, origin: str, stream: str, key_hash: bytes) -> bytes | None:
        """The hash of a key's newest envelope; None if there is none or the thing is retired."""

    def add(self, envelope: Envelope) -> None:
        """An envelope has its place, and is its key's newest."""


@dataclass(frozen=True)
class Gate:
    """Who looks, whom they trust, and how they verify and read; a simulation may remember what it has read before."""

    me: str
    trust: Trust
    verify: Verify
    open_sealed: OpenSealed
    kinds: Kinds = field(default_factory=lambda: FACTS)
    read: Callable[..., Fact] = read_fact

    def look(self, arrival: Arrival, envelope: Envelope, memory: Memory, now: datetime) -> Ruling:
        """Judge one arrival that `unpack` could read, and move its chain on. Raises nothing that bytes can cause."""
        header = envelope.header
        if memory.hash_at(header.origin, header.stream, header.epoch, header.seq) == envelope.hash:
            # The very bytes that were verified before: the second relay brings everything once more.
            return Ruling(arrival, Verdict.DUPLICATE, "known", envelope=envelope)
        return self.check(arrival, envelope, now) or self._settle(arrival, envelope, memory, now)

    def check(self, arrival: Arrival, envelope: Envelope, now: datetime) -> Ruling | None:
        """What is wrong with an envelope whatever the state of its chain; None if nothing is."""

        def wrong(code: str, reason: str, verdict: Verdict = Verdict.QUARANTINED) -> Ruling:
            return Ruling(arrival, verdict, code, reason, envelope)

        header = envelope.header
        if (header.origin, header.stream) != (arrival.origin, arrival.stream):
            return wrong("wrong_topic", f"{header.origin}/{header.stream} came as {arrival.origin}/{arrival.stream}")
        if header.origin == self.me:
            return wrong("own_echo", "our own facts come from nobody else")
        if arrival.key is not None and hash_of(arrival.key) != header.key_hash:
            return wrong("wrong_key", "the record's key is not the one whose hash was signed")
        if self.trust.expired(now):
            return wrong("directory_expired", "no newer directory is here", Verdict.PARKED)
        known = self.trust.by_kid.get(header.kid)
        if known is None:
            if header.directory_version > self.trust.directory.version:
                return wrong("directory_behind", "it was signed under a newer directory", Verdict.PARKED)
            return wrong("unknown_key", "no member has this key")
        owner, member, key, public = known
        if owner != header.origin:
            return wrong("foreign_key_id", f"the key is of {owner}")
        if not key.covers(header.stream, (header.epoch, header.seq)):
            return wrong("key_closed", "the key ended before this place")
        if not self.verify(public, envelope.signature, envelope.signed):
            return wrong("wrong_signature", "the signature does not hold")
        if member.left or not member.may_write(header.stream):
            return wrong("stream_not_allowed", f"a {member.kind} like {owner} does not write {header.stream}")
        return None

    def fact_in(self, envelope: Envelope, now: datetime) -> Fact:
        """What an authentic envelope says, if that is its owner's to say. Raises Malformed, UnknownFact."""
        origin = envelope.header.origin
        fact = self.read(envelope, self.me, self.kinds, now=now, open_sealed=self.open_sealed)
        kind = self.trust.directory.members[origin].kind
        if fact.event is not None and not may_tell(fact.event, origin, kind):
            raise Malformed("foreign_fact", f"{fact.key[:80]} is not {origin}'s to tell, a {kind}")
        return fact

    def _settle(self, arrival: Arrival, envelope: Envelope, memory: Memory, now: datetime) -> Ruling:
        header = envelope.header
        chain = memory.chain(header.origin, header.stream)

        def hash_at(epoch: int, seq: int) -> bytes | None:
            return memory.hash_at(header.origin, header.stream, epoch, seq)

        verdict, code = place(chain, header, envelope.hash, hash_at)
        if verdict is Verdict.EQUIVOCATION:
            chain.frozen = True
        elif verdict is Verdict.GAP:
            chain.note((header.epoch, header.seq))
        if verdict is not Verdict.ACCEPTED:
            return Ruling(arrival, verdict, code, "", envelope)
        remember(chain, memory, envelope)
        try:
            fact = self.fact_in(envelope, now)
        except Malformed as wrong:
            return Ruling(arrival, Verdict.QUARANTINED, wrong.code, str(wrong), envelope, moved=True)
        except UnknownFact as unknown:
            return Ruling(arrival, Verdict.PARKED, "unknown_fact", str(unknown), envelope, moved=True)
        return Ruling(arrival, Verdict.ACCEPTED, "next", "", envelope, fact, moved=True)


def remember(chain: Chain, memory: Memory, envelope: Envelope) -> None:
    """Move a chain on to the envelope that follows. What it says does not matter: the state is one of envelopes."""
    header = envelope.header
    before = memory.state_at(chain.origin, chain.stream, header.key_hash)
    chain.follow(header, envelope.hash)
    chain.replace(header.key_hash, before, None if header.retired else envelope.hash)
    memory.add(envelope)


def unpack(arrival: Arrival) -> Envelope | Ruling:
    """Take an arrival apart, and no more."""
    if arrival.raw is None:
        return Ruling(arrival, Verdict.QUARANTINED, "null_value", "a deletion is a signed event, never a null")
    try:
        return read(arrival.raw)
    except Malformed as wrong:
        return Ruling(arrival, Verdict.QUARANTINED, wrong.code, str(wrong))


def look_at_all(
    gate: Gate, opened: Iterable[tuple[Arrival, Envelope | Ruling]], memory: Memory, now: datetime
) -> list[Ruling]:
    """Judge a batch in its order."""
    return [one if isinstance(one, Ruling) else gate.look(arrival, one, memory, now) for arrival, one in opened]


def counts(rulings: Iterable[Ruling]) -> Mapping[tuple[str, str, str], int]:
    """How many of each verdict, by origin and stream of the way they came."""
    return Counter((one.arrival.origin, one.arrival.stream, one.verdict.value) for one in rulings)
