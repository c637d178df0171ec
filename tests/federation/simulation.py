"""A whole federation in virtual time: the gate's own state machine behind a clock, a bus, a store and a dice of ours.

`python -m tests.federation.simulation` runs an hour of the 19 factories and 13 antennas of the first data; a seed gives
the same run each time. Links drop, copy, shuffle, delay and alter; members are cut off, crash before they commit,
restore an old backup; one says two things.
After every tick the invariants are looked at from outside: what was believed was signed by its owner (I7), once (I4),
without a gap (I6); at the end every replica equals its owner's state (I5) and every chain hashes to its tip (I9).
"""

import argparse
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from typing import Any

from aifn_events.base import Event
from aifn_events.federation import Head, HeadsSigned, MemberKind
from aifn_events.registry import CapacityReported, FactoryDescribed
from aifn_fedgate.domain import gate as rules
from aifn_fedgate.domain.chain import Chain, Verdict, digest_text, weight
from aifn_fedgate.domain.directory import Directory, Member, Root, Trust, key_id, write_statement
from aifn_fedgate.domain.envelope import ZERO, Envelope, Header, hash_of, to_base64, write
from aifn_fedgate.domain.facts import Fact, read_fact, write_payload
from aifn_fedgate.domain.gate import Arrival, Gate, Ruling
from aifn_fedgate.domain.heads import ask_for, compare_all, heads_of
from aifn_fedgate.signing import SigningKey, verify
from aifn_registry.seed import load

BEGAN = datetime(2026, 11, 21, 9, tzinfo=UTC)
HEAD_SECONDS = 30
ASK_SECONDS = 2
PATIENCE = 120
"""Seconds within which something missing must be found, once its owner and the receiver can reach each other."""
PAGE = 500
KEYS = 40
StreamOf = tuple[str, str]


@dataclass(frozen=True)
class Faults:
    """How often what goes wrong, per message and link or per second."""

    drop: float = 0.01
    copy: float = 0.01
    alter: float = 0.0005
    late: float = 0.01
    crash: float = 0.0005
    cut: float = 0.0005
    cut_seconds: int = 90


@dataclass
class Store:
    """What one receiver keeps: a `Memory` for the gate, and envelopes that wait."""

    chains: dict[StreamOf, Chain] = field(default_factory=dict)
    hashes: dict[tuple[str, str, int], list[bytes]] = field(default_factory=lambda: defaultdict(list))
    states: dict[StreamOf, dict[bytes, bytes]] = field(default_factory=lambda: defaultdict(dict))
    waiting: dict[StreamOf, dict[tuple[int, int], Arrival]] = field(default_factory=lambda: defaultdict(dict))

    def chain(self, origin: str, stream: str) -> Chain:
        """The chain of a stream."""
        found = self.chains.get((origin, stream))
        if found is None:
            found = self.chains[origin, stream] = Chain(origin, stream)
        return found

    def hash_at(self, origin: str, stream: str, epoch: int, seq: int) -> bytes | None:
        """The hash held at a place."""
        held = self.hashes.get((origin, stream, epoch))
        return held[seq - 1] if held and seq <= len(held) else None

    def state_at(self, origin: str, stream: str, key_hash: bytes) -> bytes | None:
        """The hash of a key's newest envelope."""
        return self.states[origin, stream].get(key_hash)

    def add(self, envelope: Envelope) -> None:
        """An envelope has its place."""
        h = envelope.header
        self.hashes[h.origin, h.stream, h.epoch].append(envelope.hash)
        self.states[h.origin, h.stream][h.key_hash] = envelope.hash


@dataclass
class Owner:
    """One member as it speaks: its key, its logs and their state."""

    name: str
    key: SigningKey
    kind: MemberKind = "factory"
    store: Store = field(default_factory=Store)
    logs: dict[tuple[str, int], list[Envelope]] = field(default_factory=lambda: defaultdict(list))

    @property
    def stream(self) -> str:
        """What its kind has most to say on: a factory on its partitions, an antenna on what it offers."""
        return "capacity" if self.kind == "factory" else "knowledge"

    def news(self, thing: str, number: int, **about: Any) -> Event:
        """Something new about one of its things."""
        if self.kind == "factory":
            source = f"urn:aifn:{self.name}:siteagent"
            return CapacityReported.example(partition_id=thing, nodes_idle=number, source=source, **about)
        source = f"urn:aifn:{self.name}:registry"
        return FactoryDescribed.example(factory_id=self.name, revision=number, source=source, **about)

    def say(self, stream: str, event: Any, key: str) -> Envelope:
        """Sign the next envelope of a stream."""
        chain = self.store.chain(self.name, stream)
        epoch = max(chain.epoch, 1)
        made = self.sign(stream, event, key, epoch, chain.seq + 1, chain.tip if chain.seq else ZERO)
        rules.remember(chain, self.store, made)
        self.logs[stream, epoch].append(made)
        return made

    def sign(self, stream: str, event: Any, key: str, epoch: int, seq: int, prev: bytes) -> Envelope:
        """Sign anything."""
        header = Header(self.key.kid, self.name, stream, epoch, seq, prev, hash_of(key.encode()), 1)
        return write(header, write_payload(event, key=key, seq=seq), self.key.sign)

    def restore(self, lost: int) -> list[Envelope]:
        """Go back to a backup without the newest `lost` envelopes, begin a new epoch and sign the state again."""
        said = []
        for (stream, epoch), log in list(self.logs.items()):
            chain = self.store.chain(self.name, stream)
            if epoch != chain.epoch or stream == "head":
                continue
            kept = log[: max(len(log) - lost, 0)]
            newest = {envelope.header.key_hash: envelope for envelope in kept}
            fresh = Chain(self.name, stream, epoch + 1, 0, ZERO)
            self.store.chains[self.name, stream] = fresh
            self.store.states[self.name, stream] = {}
            for old in newest.values():
                fact = read_fact(old, self.name, now=BEGAN, open_sealed=_sealed)
                said.append(self.say(stream, fact.event, fact.key))
        return said


@dataclass
class Report:
    """What a run came to."""

    seed: int
    seconds: int
    events: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    alarms: Counter[str] = field(default_factory=Counter)
    verified: int = 0
    crashes: int = 0
    asked: int = 0
    longest_gap: int = 0
    violations: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The report in words."""
        yield f"seed {self.seed}: {self.seconds} virtual seconds, {self.events} events signed"
        yield f"verdicts {dict(sorted(self.verdicts.items()))}"
        yield f"findings {dict(sorted(self.alarms.items()))}"
        yield f"{self.verified} signatures verified with Ed25519, {self.crashes} crashes before a commit"
        yield f"asked over HTTPS {self.asked} times; longest gap {self.longest_gap} s"
        yield f"{len(self.violations)} violations"
        yield from self.violations[:20]


class Simulation:
    """All members, their links and the time."""

    def __init__(self, *, members: int, per_second: int, seed: int, share: float, faults: Faults | None = None) -> None:
        self.dice = random.Random(seed)
        self.faults = faults or Faults()
        self.per_second, self.share = per_second, share
        self.now = 0
        self.report = Report(seed, 0)
        chosen = _everybody()[:members]
        names = [name for name, _ in chosen]
        self.owners = {name: Owner(name, SigningKey.of_seed(self.dice.randbytes(32)), kind) for name, kind in chosen}
        self.trust = _trust(self.owners)
        self.stores = {name: Store() for name in names}
        self.gates = {name: Gate(name, self.trust, self._verify, _sealed, read=self._read) for name in names}
        self.signed: dict[bytes, bytes] = {}
        self.opened: dict[bytes, Envelope | Ruling] = {}
        self.read: dict[bytes, Fact] = {}
        self.links: dict[tuple[str, str], list[tuple[int, Arrival]]] = {
            (relay, name): [] for relay in ("a", "b") for name in names
        }
        self.cut: dict[tuple[str, str], int] = {}
        self.last: dict[tuple[str, str, str], tuple[int, int]] = {}
        self.behind_since: dict[tuple[str, str, str], int] = {}
        self.rogue = names[-1]
        self.restorer = names[-2]

    def run(self, seconds: int) -> Report:
        """So many virtual seconds, then peace until everybody has caught up."""
        for self.now in range(seconds):
            self._speak()
            if self.now == seconds // 3:
                for envelope in self.owners[self.restorer].restore(lost=25):
                    self._send(envelope)
            if self.now == seconds // 2:
                self._say_two_things()
            self._tick(heads=self.now % HEAD_SECONDS == 0)
            if self.now % 300 == 0:
                self.opened.clear()
                self.read.clear()
        self.faults = Faults(0, 0, 0, 0, 0, 0)
        self.cut.clear()
        for self.now in range(seconds, seconds + PATIENCE):
            self._tick(heads=self.now % HEAD_SECONDS == 0)
        self.report.seconds = seconds
        self._look_at_the_end()
        return self.report

    # The world

    def _speak(self) -> None:
        names = list(self.owners)
        for _ in range(self.per_second):
            owner = self.owners[self.dice.choice(names)]
            partition = f"p{self.dice.randrange(KEYS)}"
            about = {"id": f"{self.now}-{self.report.events}", "time": BEGAN + timedelta(seconds=self.now)}
            event = owner.news(partition, self.dice.randrange(1000), **about)
            self._send(owner.say(owner.stream, event, f"{owner.name}/{partition}"))
            self.report.events += 1

    def _send(self, envelope: Envelope, only: frozenset[str] | None = None) -> None:
        self.signed[envelope.hash] = envelope.signature
        arrival = Arrival(envelope.raw, envelope.header.origin, envelope.header.stream)
        dice, faults = self.dice.random, self.faults
        for (relay, name), queue in self.links.items():
            if name == arrival.origin or (only is not None and name not in only):
                continue
            if (cut := self.cut.get((relay, name), 0)) > self.now and dice() < 0.5:
                continue  # beyond retention; the other half waits for the link
            chance = dice()
            if chance < faults.drop:
                continue
            due = max(self.now, cut) + (self.dice.randrange(1, 20) if dice() < faults.late else 0)
            queue.append((due, self._altered(arrival) if dice() < faults.alter else arrival))
            if chance > 1 - faults.copy:
                queue.append((due, arrival))

    def _altered(self, arrival: Arrival) -> Arrival:
        raw = bytearray(arrival.raw or b"")
        raw[self.dice.randrange(len(raw))] ^= 1 << self.dice.randrange(8)
        return Arrival(bytes(raw), arrival.origin, arrival.stream)

    def _say_two_things(self) -> None:
        """One member signs two bodies for one place, and shows each to one half of the others."""
        owner = self.owners[self.rogue]
        chain = owner.store.chain(owner.name, owner.stream)
        if not chain.seq:
            return
        half = frozenset(list(self.owners)[::2])
        place = (chain.epoch, chain.seq + 1, chain.tip)
        one, other = (owner.news("p0", number, time=BEGAN) for number in (6, 7))
        self._send(owner.sign(owner.stream, one, f"{owner.name}/p0", *place), only=half)
        self._send(owner.say(owner.stream, other, f"{owner.name}/p0"), only=frozenset(self.owners) - half)

    def _tick(self, *, heads: bool) -> None:
        if heads:
            for owner in self.owners.values():
                chains = [one for (_, stream), one in owner.store.chains.items() if stream != "head"]
                said = heads_of(owner.name, chains, directory_version=1, now=BEGAN + timedelta(seconds=self.now))
                self._send(owner.say("head", said.model_copy(update={"id": f"h{self.now}"}), f"{owner.name}/streams"))
        for key in self.links:
            if self.dice.random() < self.faults.cut:
                self.cut[key] = self.now + self.faults.cut_seconds
        for name, store in self.stores.items():
            self._hear(name, store)
            if self.now % ASK_SECONDS == 0:
                self._ask(name, store)

    # One receiver

    def _hear(self, name: str, store: Store) -> None:
        arrivals = []
        for relay in ("a", "b"):
            queue = self.links[relay, name]
            if self.cut.get((relay, name), 0) > self.now or not queue:
                continue
            due = [one for at, one in queue if at <= self.now]
            self.links[relay, name] = [(at, one) for at, one in queue if at > self.now]
            self.dice.shuffle(due)
            arrivals += due
        if arrivals and self.dice.random() < self.faults.crash:
            self.report.crashes += 1  # before its commit: nothing is known of the batch, and it comes again
            self.links["a", name] += [(self.now + 1, one) for one in arrivals]
            return
        self._take_in(name, store, arrivals)

    def _take_in(self, name: str, store: Store, arrivals: list[Arrival]) -> None:
        gate, now = self.gates[name], BEGAN + timedelta(seconds=self.now)
        while arrivals:
            moved: set[StreamOf] = set()
            for ruling in rules.look_at_all(gate, ((one, self._open(one)) for one in arrivals), store, now):
                self.report.verdicts[ruling.verdict.value] += 1
                if ruling.moved and ruling.envelope is not None:
                    moved.add((ruling.arrival.origin, ruling.arrival.stream))
                    self._check(name, ruling.envelope)
                    if ruling.fact is not None and isinstance(ruling.fact.event, HeadsSigned):
                        self._compare(store, ruling.fact.event)
                elif ruling.verdict is Verdict.GAP and ruling.envelope is not None:
                    h = ruling.envelope.header
                    store.waiting[h.origin, h.stream][h.epoch, h.seq] = ruling.arrival
            arrivals = [arrival for one in moved for arrival in self._drained(store, one)]

    def _drained(self, store: Store, one: StreamOf) -> list[Arrival]:
        waiting, chain = store.waiting.get(one), store.chains[one]
        if not waiting:
            return []
        found = []
        epoch, seq = chain.at
        while (arrival := waiting.pop((epoch, seq + 1), None)) is not None:
            found.append(arrival)
            seq += 1
        for place in [place for place in waiting if place <= chain.at]:
            del waiting[place]
        return found

    def _compare(self, store: Store, heads: HeadsSigned) -> None:
        origin = heads.member
        for finding in compare_all(
            heads,
            lambda stream: store.chain(origin, stream),
            lambda stream, epoch, seq: store.hash_at(origin, stream, epoch, seq),
        ):
            self.report.alarms[finding.alarm] += 1
            if finding.alarm == "diverged":
                self._rebuild(store, origin, finding.stream, heads.streams[finding.stream])

    def _rebuild(self, store: Store, origin: str, stream: str, head: Head) -> None:
        """Read a state again, as its owner's log has it at a head: what a restored backup lost is swept."""
        state: dict[bytes, bytes] = {}
        for envelope in self.owners[origin].logs[stream, head.epoch][: head.seq]:
            state[envelope.header.key_hash] = envelope.hash
        digest = sum(weight(key, envelope_hash) for key, envelope_hash in state.items()) % 2**256
        if (len(state), digest_text(digest)) != (head.keys, head.digest):
            self.report.violations.append(f"I5 {self.now}: the log of {origin}/{stream} is not what its head says")
            return
        chain = store.chain(origin, stream)
        chain.keys, chain.digest = len(state), digest
        store.states[origin, stream] = state

    def _ask(self, name: str, store: Store) -> None:
        for (origin, stream), chain in list(store.chains.items()):
            link = (name, origin, stream)
            if not chain.behind or chain.frozen:
                if (since := self.behind_since.pop(link, None)) is not None:
                    self.report.longest_gap = max(self.report.longest_gap, self.now - since)
                continue
            if self.now - self.behind_since.setdefault(link, self.now) > PATIENCE:
                self.report.violations.append(f"{self.now}: {name} is behind {origin}/{stream} for too long")
                self.behind_since[link] = self.now
            ask = ask_for(chain, most_from_journal=2**53)
            if ask is None or self.dice.random() < 0.1:  # nobody answers
                continue
            self.report.asked += 1
            log = self.owners[origin].logs[stream, ask.epoch]
            self._take_in(name, store, [Arrival(one.raw, origin, stream) for one in log[ask.after : ask.after + PAGE]])

    # The ports

    def _open(self, arrival: Arrival) -> Envelope | Ruling:
        assert arrival.raw is not None
        found = self.opened.get(arrival.raw)
        if found is None:
            found = self.opened[arrival.raw] = rules.unpack(arrival)
        return Ruling(arrival, found.verdict, found.code) if isinstance(found, Ruling) else found

    def _verify(self, public: bytes, signature: bytes, signed: bytes) -> bool:
        """Ed25519 itself for a share of all; for the rest, whether this very signature was made."""
        if self.share >= 1 or self.dice.random() < self.share:
            self.report.verified += 1
            return verify(public, signature, signed)
        envelope_hash = hash_of(signed + b"." + _text(signature))
        return self.signed.get(envelope_hash) == signature

    def _read(self, envelope: Envelope, *rest: Any, **more: Any) -> Fact:
        found = self.read.get(envelope.hash)
        if found is None:
            found = self.read[envelope.hash] = read_fact(envelope, *rest, **more)
        return found

    # What must hold

    def _check(self, name: str, envelope: Envelope) -> None:
        h = envelope.header
        if self.signed.get(envelope.hash) != envelope.signature:
            self.report.violations.append(f"I7 {self.now}: {name} believes {h.origin}/{h.stream} {h.epoch}/{h.seq}")
        before = self.last.get((name, h.origin, h.stream), (0, 0))
        if (h.epoch, h.seq) not in ((before[0], before[1] + 1), (before[0] + 1, 1)):
            self.report.violations.append(f"I4/I6 {self.now}: {name}: {before} was followed by {h.epoch}/{h.seq}")
        self.last[name, h.origin, h.stream] = (h.epoch, h.seq)

    def _look_at_the_end(self) -> None:
        for name, store in self.stores.items():
            for origin, owner in self.owners.items():
                if origin == name:
                    continue
                ours, theirs = store.chain(origin, owner.stream), owner.store.chain(origin, owner.stream)
                if origin == self.rogue:
                    continue
                state = owner.store.states[origin, owner.stream]
                if (ours.at, ours.tip) != (theirs.at, theirs.tip) or ours.frozen:
                    self.report.violations.append(f"I5/I9 {name}: {origin} is at {theirs.at}, known to {ours.at}")
                elif state != store.states[origin, owner.stream] or ours.digest != theirs.digest:
                    self.report.violations.append(f"I5 {name}: the state of {origin} differs")
        rogue = self.owners[self.rogue]
        doubters = [name for name, store in self.stores.items() if store.chain(rogue.name, rogue.stream).frozen]
        self.report.alarms["frozen by two words"] = len(doubters)
        if rogue.store.chain(rogue.name, rogue.stream).seq and len(doubters) < len(self.stores) // 2 - 1:
            self.report.violations.append(f"only {len(doubters)} members noticed that {self.rogue} says two things")


def _everybody() -> list[tuple[str, MemberKind]]:
    """Every factory and antenna of the first data, by turns, so that a part of them has both kinds."""
    data = load()
    factories: list[tuple[str, MemberKind]] = [(one.factory_id, "factory") for one in data.factories]
    antennas: list[tuple[str, MemberKind]] = [(one.antenna_id, "antenna") for one in data.antennas]
    turns = zip_longest(factories, antennas)
    return [one for turn in turns for one in turn if one is not None]


def _sealed(_: str) -> bytes:
    raise ValueError("nothing is sealed here")


def _text(raw: bytes) -> bytes:
    return to_base64(raw).encode()


def _trust(owners: dict[str, Owner]) -> Trust:
    members = {}
    for name, owner in owners.items():
        identity = SigningKey.of_seed(hash_of(name.encode()))
        key = write_statement(
            name, identity.public, identity.sign, sign_key=owner.key.public, encrypt_key=identity.public
        )
        members[name] = Member(
            kind=owner.kind, identity=identity.public, endpoints=(), streams=(owner.stream,), keys=(key,)
        )
    directory = Directory(
        type="directory",
        version=1,
        root_version=1,
        issued_at=BEGAN,
        expires_at=BEGAN + timedelta(days=7),
        members=members,
    )
    public = SigningKey.of_seed(bytes(32)).public
    return Trust.of(Root(type="root", version=1, threshold=1, keys={key_id(public): public}), directory)


def main(arguments: list[str] | None = None) -> int:
    """Run, print, and end with 1 if an invariant was violated."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.federation.simulation", description="A federation, simulated."
    )
    parser.add_argument("--members", type=int, default=32, help="of the 32 there are")
    parser.add_argument("--per-second", type=int, default=200, help="events of all members together")
    parser.add_argument("--seconds", type=int, default=3600, help="of virtual time")
    parser.add_argument("--share", type=float, default=0.05, help="of signatures verified with Ed25519 itself")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args(arguments)
    began = time.perf_counter()
    world = Simulation(members=chosen.members, per_second=chosen.per_second, seed=chosen.seed, share=chosen.share)
    report = world.run(chosen.seconds)
    print("\n".join(report.lines()))
    print(f"{time.perf_counter() - began:.0f} real seconds")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
