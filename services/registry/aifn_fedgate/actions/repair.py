"""Close gaps over HTTPS, ask silent peers, and read a state again that has diverged or was never here.

A state comes from its owner or another member over HTTPS, or, if nobody answers, from the topics the relays carried.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from aifn_common import outbox
from aifn_common.database import Database, Transaction, transaction
from aifn_events.federation import STREAMS, Head, HeadsSigned

from aifn_fedgate.actions.receive import drain, head_in, peer_fact, sound, take_head, take_in
from aifn_fedgate.domain import gate as rules
from aifn_fedgate.domain.chain import Chain, digest_text, weight
from aifn_fedgate.domain.directory import Distrusted
from aifn_fedgate.domain.envelope import Envelope, from_base64, read
from aifn_fedgate.domain.facts import UnknownFact, key_of
from aifn_fedgate.domain.gate import Arrival, Gate
from aifn_fedgate.domain.heads import Ask, Finding, ask_for, silent
from aifn_fedgate.door import Door
from aifn_fedgate.members import Members, NoAnswer, Pruned
from aifn_fedgate.store import journal, peers, rebuild
from aifn_fedgate.store.rebuild import Staged

log = logging.getLogger(__name__)
MOST_PAGES = 20
HOLDERS = 3
AT_ONCE = 200
ReadState = Callable[[str, str], AsyncIterator[list[bytes]]]
"""Envelopes of the state of an origin's stream, as the relays carried them."""


@dataclass
class Repair:
    """What one gate does about what is missing."""

    db: Database
    door: Door
    members: Members
    carried: ReadState | None = None

    async def close_gaps(self) -> int:
        """Ask for whatever is known to be missing; returns how many envelopes were asked for and came."""
        async with transaction(self.db) as tx:
            asks = [
                ask
                for chain in await journal.all_chains(tx)
                if chain.origin != self.door.me and (ask := ask_for(chain))
            ]
        others = set(self.door.others())
        came = 0
        for ask in asks:
            if ask.origin in others:
                came += await self.close(ask)
        return came

    async def close(self, ask: Ask) -> int:
        """Close one gap as far as its owner, or else others, have the pages."""
        if ask.whole_state:
            return await self.rebuild(ask.origin, ask.stream)
        for asked in self._holders(ask.origin):
            try:
                came = await self._pages(asked, ask)
            except Pruned:
                if asked == ask.origin:
                    return await self.rebuild(ask.origin, ask.stream)
                continue
            except NoAnswer as fault:
                log.info("%s/%s stays open: %s", ask.origin, ask.stream, fault)
                continue
            if came:
                return came
        # Of a stream that was here before, what is missing is waited for; its history would be lost with a state.
        return 0 if ask.after else await self._rebuild_from_topics(ask.origin, ask.stream)

    def _holders(self, origin: str) -> list[str]:
        """Whom to ask: the owner, then a few others, for bytes are signed whoever holds them."""
        return [origin, *[one for one in self.door.others() if one != origin][:HOLDERS]]

    async def _pages(self, asked: str, ask: Ask) -> int:
        came, after = 0, ask.after
        for _ in range(MOST_PAGES):
            raws = await self.members.journal(asked, ask.origin, ask.stream, epoch=ask.epoch, after=after)
            for start in range(0, len(raws), AT_ONCE):
                part = [Arrival(raw, ask.origin, ask.stream, via="https") for raw in raws[start : start + AT_ONCE]]
                await take_in(self.db, self.door, part)
                await asyncio.sleep(0)
            came += len(raws)
            async with transaction(self.db) as tx:
                chain = (await journal.lock_chains(tx, [(ask.origin, ask.stream)]))[ask.origin, ask.stream]
            if not raws or not chain.behind or chain.frozen or chain.at <= (ask.epoch, after):
                break
            after = chain.seq
        return came

    async def ask_heads(self, origins: list[str]) -> None:
        """Ask members how far they are."""
        for origin in origins:
            await self.peek(origin)

    async def peek(self, origin: str) -> HeadsSigned | None:
        """Ask a member, or else others, for its newest head, and hold it against what we have."""
        for asked in self._holders(origin):
            try:
                raw = await self.members.head(asked, origin)
            except (NoAnswer, Pruned):
                continue
            heads = await take_head(self.db, self.door, origin, raw) if raw else None
            if heads is not None:
                return heads
        return None

    async def watch_silence(self) -> list[str]:
        """Raise the alarm for members that have been silent, and ask them over HTTPS. Returns who is silent."""
        now = self.door.now()
        patience = timedelta(seconds=self.door.settings.fed_silence_seconds)
        async with transaction(self.db) as tx:
            await peers.meet(tx, self.door.others(), now)
            heard = {name: at for name, at in (await peers.last_heard(tx)).items() if name in set(self.door.others())}
            quiet = sorted(silent(heard, now, patience))
            for origin in quiet:
                await sound(tx, self.door, Finding(origin, "", "silence", f"no head since {heard[origin].isoformat()}"))
        outbox.nudge()
        await self.ask_heads(quiet)
        return quiet

    async def mend_diverged(self) -> int:
        """Read again every state that an open alarm calls diverged."""
        async with transaction(self.db) as tx:
            rows = await peers.alarms(tx)
        wrong = {
            (row["origin"], row["stream"]) for row in rows if row["alarm"] == "diverged" and row["ended_at"] is None
        }
        return sum([await self.rebuild(*one) for one in sorted(wrong)])

    async def refresh_directory(self) -> bool:
        """Ask the others for a newer directory when ours will not do much longer. Whether one came."""
        soon = self.door.now() + timedelta(days=1)
        if self.door.trust is not None and not self.door.trust.expired(soon):
            return False
        for asked in self.door.others():
            try:
                if await self.door.consider(self.db, *await self.members.directory(asked)):
                    return True
            except (NoAnswer, Pruned, Distrusted) as fault:
                log.info("no newer directory from %s: %s", asked, fault)
        return False

    async def rebuild(self, origin: str, stream: str) -> int:
        """Take over the whole state of a stream against a signed head; returns how many keys it has, 0 if it failed.

        The state is read between two heads, then the journal from the first to the second on top of it: whatever
        changed meanwhile is in the journal, so that the result is the state at the second head, whose digest must fit.
        """
        gate = self.door.gate()
        if gate is None:
            return 0
        for asked in self._holders(origin):
            try:
                if stream == "head":
                    return await self._jump(asked, origin, gate)
                return await self._rebuild_from(asked, origin, stream, gate)
            except (NoAnswer, Pruned) as fault:
                log.info("the state of %s/%s is not had from %s: %s", origin, stream, asked, fault)
        return await self._rebuild_from_topics(origin, stream)

    async def _rebuild_from_topics(self, origin: str, stream: str) -> int:
        """Take over a state as the relays carried it; 0 if there is none, or it does not fit a signed head yet."""
        gate = self.door.gate()
        if gate is None or self.carried is None or not STREAMS[stream].state:
            return 0
        try:
            head = await self._carried_head(gate, origin, self.carried)
            if stream == "head":
                return await self._jump_to(head.raw, origin, gate)
            heads = await take_head(self.db, self.door, origin, head.raw)
            if heads is None or stream not in heads.streams:
                raise NoAnswer(f"the newest head of {origin} does not name {stream}")
            return await self._rebuild_at(heads.streams[stream], origin, stream, gate, self.carried)
        except NoAnswer as fault:
            log.info("the state of %s/%s is not had from the relays: %s", origin, stream, fault)
            return 0

    async def _carried_head(self, gate: Gate, origin: str, carried: ReadState) -> Envelope:
        found: Envelope | None = None
        async for raws in carried(origin, "head"):
            for one in await self._believed(gate, origin, "head", raws):
                if found is None or one.header.at > found.header.at:
                    found = one
        if found is None:
            raise NoAnswer(f"the relays carried no head of {origin} that is believed")
        return found

    async def _rebuild_at(self, target: Head, origin: str, stream: str, gate: Gate, carried: ReadState) -> int:
        """What is newer than the head is left to the journal.

        A key that has changed since, and whose older word is compacted away, makes the digest differ: the next head
        will fit.
        """
        async with transaction(self.db) as tx:
            await rebuild.clear(tx, origin, stream)
        async for raws in carried(origin, stream):
            believed = await self._believed(gate, origin, stream, raws)
            await self._put(
                gate, [one for one in believed if (target.epoch, 0) < one.header.at <= (target.epoch, target.seq)]
            )
        async with self.door.lock:
            async with transaction(self.db) as tx:
                keys = await self._take_over(tx, origin, stream, target, sure=False)
            if keys:
                await drain(self.db, self.door, gate, origin, stream)
        return keys

    async def _head(self, asked: str, origin: str, stream: str) -> Head:
        raw = await self.members.head(asked, origin)
        heads = await take_head(self.db, self.door, origin, raw) if raw else None
        if heads is None or stream not in heads.streams:
            raise NoAnswer(f"{asked} has no head of {origin}/{stream} that is believed")
        return heads.streams[stream]

    async def _rebuild_from(self, asked: str, origin: str, stream: str, gate: Gate) -> int:
        start = await self._head(asked, origin, stream)
        async with transaction(self.db) as tx:
            await rebuild.clear(tx, origin, stream)
        after: str | None = ""
        while after is not None:
            raws, after = await self.members.state(asked, origin, stream, after=after)
            await self._stage(gate, origin, stream, raws)
        target = await self._head(asked, origin, stream)
        if target.epoch != start.epoch:
            raise NoAnswer("the epoch changed while the state was read")
        tip, seq = from_base64(start.hash.encode()), start.seq
        while seq < target.seq:
            raws = await self.members.journal(asked, origin, stream, epoch=start.epoch, after=seq)
            staged = await self._stage(gate, origin, stream, raws, up_to=target.seq)
            for one in staged:
                if one.seq != seq + 1 or one.envelope.header.prev != tip:
                    raise NoAnswer(f"the journal of {asked} is broken after {seq}")
                tip, seq = one.envelope.hash, one.seq
            if not staged:
                raise NoAnswer(f"the journal of {asked} ends at {seq}, its head at {target.seq}")
        if tip != from_base64(target.hash.encode()):
            raise NoAnswer("journal and head do not agree")
        async with self.door.lock, transaction(self.db) as tx:
            return await self._take_over(tx, origin, stream, target)

    async def _stage(
        self, gate: Gate, origin: str, stream: str, raws: list[bytes], *, up_to: int | None = None
    ) -> list[Staged]:
        envelopes = await self._believed(gate, origin, stream, raws)
        if len(envelopes) < len(raws):
            raise NoAnswer("a state with an envelope that is not believed")
        return await self._put(gate, [one for one in envelopes if up_to is None or one.header.seq <= up_to])

    async def _believed(self, gate: Gate, origin: str, stream: str, raws: list[bytes]) -> list[Envelope]:
        """Those that are authentic."""
        found: list[Envelope] = []
        now = self.door.now()
        for number, raw in enumerate(raws):
            arrival = Arrival(raw, origin, stream)
            envelope = rules.unpack(arrival)
            if isinstance(envelope, Envelope) and gate.check(arrival, envelope, now) is None:
                found.append(envelope)
            if number % 100 == 99:
                await asyncio.sleep(0)
        return found

    async def _put(self, gate: Gate, envelopes: list[Envelope]) -> list[Staged]:
        staged = [_staged(gate, one, self.door.now()) for one in envelopes]
        async with transaction(self.db) as tx:
            await rebuild.stage(tx, staged)
        return staged

    async def _take_over(self, tx: Transaction, origin: str, stream: str, target: Head, *, sure: bool = True) -> int:
        """Put the staged state in the place of what is here, if the head's digest fits. Returns the number of keys.

        `sure`: the state is its owner's at that head, so that another digest means that somebody has diverged.
        """
        chain = (await journal.lock_chains(tx, [(origin, stream)]))[origin, stream]
        if chain.frozen or chain.at > (target.epoch, target.seq):
            return 0
        if await rebuild.newest(tx, origin, stream) > (target.epoch, target.seq):
            raise NoAnswer("the head is older than the state that was read")
        digest, keys = 0, 0
        async for key_hash, envelope_hash in rebuild.hashes(tx, origin, stream):
            digest, keys = (digest + weight(key_hash, envelope_hash)) % 2**256, keys + 1
        if (keys, digest_text(digest)) != (target.keys, target.digest):
            detail = f"the state that was read has {keys} keys, the head {target.keys}, or another digest"
            if not sure:
                log.info("%s/%s: %s", origin, stream, detail)
                return 0
            await sound(tx, self.door, Finding(origin, stream, "diverged", detail))
            return 0
        ghosts = await rebuild.ghosts(tx, origin, stream)
        for raw in ghosts:
            envelope = read(raw)
            kind = rebuild.gone(envelope, key_of(envelope.payload), target, self.door.now())
            if kind is not None:
                await outbox.announce(tx, kind)
        await rebuild.take_over(tx, origin, stream)
        fresh = Chain(
            origin, stream, target.epoch, target.seq, from_base64(target.hash.encode()), keys, digest, chain.seen
        )
        fresh.note(fresh.at)
        await journal.save_chains(tx, [fresh])
        await rebuild.set_base(tx, origin, stream, target.epoch, target.seq)
        await peers.end_alarms(tx, origin, stream, ["diverged", *(() if fresh.behind else ("gap",))], self.door.now())
        log.warning("%s/%s was read again: %s keys at %s, %s ghosts", origin, stream, keys, fresh.at, len(ghosts))
        return max(keys, 1)

    async def _jump(self, asked: str, origin: str, gate: Gate) -> int:
        raw = await self.members.head(asked, origin)
        if raw is None:
            raise NoAnswer(f"{asked} has no head of {origin}")
        return await self._jump_to(raw, origin, gate)

    async def _jump_to(self, raw: bytes, origin: str, gate: Gate) -> int:
        """The stream of heads has one key, and its newest envelope is its whole state."""
        envelope = next(iter(await self._believed(gate, origin, "head", [raw])), None)
        if envelope is None or not head_in(gate, envelope, self.door.now()):
            raise NoAnswer(f"no head of {origin} that is believed")
        async with self.door.lock, transaction(self.db) as tx:
            chain = (await journal.lock_chains(tx, [(origin, "head")]))[origin, "head"]
            here = (envelope.header.epoch, envelope.header.seq)
            if chain.frozen or here <= chain.at:
                return 0
            digest = weight(envelope.header.key_hash, envelope.hash)
            fresh = Chain(origin, "head", *here, envelope.hash, 1, digest, max(chain.seen, here))
            await rebuild.clear(tx, origin, "head")
            await rebuild.stage(tx, [_staged(gate, envelope, self.door.now())])
            await rebuild.take_over(tx, origin, "head")
            await journal.save_chains(tx, [fresh])
            await rebuild.set_base(tx, origin, "head", *here)
        return 1


def _staged(gate: Gate, envelope: Envelope, now: datetime) -> Staged:
    """An envelope of a state with what the local services will hear of it, if they will."""
    try:
        fact = gate.fact_in(envelope, now)
    except (UnknownFact, ValueError):
        return Staged(envelope, None)
    return Staged(envelope, peer_fact(envelope, fact))
