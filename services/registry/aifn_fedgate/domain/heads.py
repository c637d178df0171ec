"""Signed heads against what we hold: is anything missing, changed or silent, and what to do about it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from aifn_events.federation import STREAMS, Head, HeadsSigned

from aifn_fedgate.domain.chain import Chain, digest_text
from aifn_fedgate.domain.envelope import from_base64, to_base64

Alarm = Literal["silence", "gap", "head_mismatch", "equivocation", "diverged", "new_epoch", "future", "state_null"]
REBUILD_FROM = 1_000
"""A stream of which nothing is known and that is this long is read from its state, not from its beginning."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with a stream of another member."""

    origin: str
    stream: str
    alarm: Alarm
    detail: str


def heads_of(member: str, chains: Iterable[Chain], *, directory_version: int, now: datetime) -> HeadsSigned:
    """What a member says of its own streams; the stream of heads itself is left out."""
    streams = {
        chain.stream: Head(
            epoch=chain.epoch,
            seq=chain.seq,
            hash=to_base64(chain.tip),
            keys=chain.keys,
            digest=digest_text(chain.digest),
        )
        for chain in chains
        if chain.stream != "head" and chain.seq
    }
    return HeadsSigned(
        member=member,
        streams=streams,
        directory_version=directory_version,
        signed_at=now,
        source=f"urn:aifn:{member}:fedgate",
        time=now,
    )


def compare(head: Head, chain: Chain, hash_at: Callable[[int, int], bytes | None]) -> Finding | None:
    """Hold one stream against its owner's head; moves `seen`, and freezes the chain if the owner said two things."""
    here = (head.epoch, head.seq)

    def found(alarm: Alarm, detail: str) -> Finding:
        return Finding(chain.origin, chain.stream, alarm, detail)

    if here > chain.at:
        late = not chain.behind
        chain.note(here)
        if head.epoch > chain.epoch > 0:
            return found("new_epoch", f"epoch {chain.epoch} was followed by {head.epoch}") if late else None
        return (
            found("gap", f"we are at {chain.epoch}/{chain.seq}, its owner at {head.epoch}/{head.seq}") if late else None
        )
    ours = hash_at(*here) if here != chain.at else chain.tip
    if ours is not None and ours != from_base64(head.hash.encode()):
        chain.frozen = True
        return found("head_mismatch", f"at {head.epoch}/{head.seq} its owner has signed something else")
    if here == chain.at and (head.keys, head.digest) != (chain.keys, digest_text(chain.digest)):
        return found("diverged", f"at {head.epoch}/{head.seq} its owner has {head.keys} keys, we have {chain.keys}")
    return None


def compare_all(
    heads: HeadsSigned, chain_of: Callable[[str], Chain], hash_at: Callable[[str, int, int], bytes | None]
) -> list[Finding]:
    """The same for every stream a head names and that is known here."""
    found = []
    for name, head in heads.streams.items():
        if name not in STREAMS:
            continue
        finding = compare(head, chain_of(name), lambda epoch, seq, name=name: hash_at(name, epoch, seq))  # type: ignore[misc]
        if finding is not None:
            found.append(finding)
    return found


@dataclass(frozen=True, slots=True)
class Ask:
    """What to ask over HTTPS for one stream: the journal after a place, or the whole state."""

    origin: str
    stream: str
    epoch: int
    after: int
    whole_state: bool = False


def ask_for(chain: Chain, *, most_from_journal: int = REBUILD_FROM) -> Ask | None:
    """What would close the gap of a chain; None if there is none, or it is frozen."""
    if chain.frozen or not chain.behind:
        return None
    epoch, seq = chain.seen
    if epoch == chain.epoch:
        return Ask(chain.origin, chain.stream, epoch, chain.seq)
    if chain.epoch == 0 and seq > most_from_journal:
        return Ask(chain.origin, chain.stream, epoch, 0, whole_state=True)
    return Ask(chain.origin, chain.stream, epoch, 0)


def silent(last_heard: Mapping[str, datetime], now: datetime, patience: timedelta) -> frozenset[str]:
    """Members whose newest head came too long ago, by the receiver's own clock."""
    return frozenset(member for member, moment in last_heard.items() if now - moment > patience)
