"""One owner's stream as somebody holds it: where it is, what is true in it, and where an envelope belongs."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from aifn_fedgate.domain.envelope import ZERO, Header

_MODULUS = 2**256
HashAt = Callable[[int, int], bytes | None]
"""The hash of the envelope held at (epoch, seq), if any."""


class Verdict(StrEnum):
    """What became of an envelope."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    GAP = "gap"
    PARKED = "parked"
    QUARANTINED = "quarantined"
    EQUIVOCATION = "equivocation"


@dataclass(slots=True)
class Chain:
    """How far an owner's stream is known: the newest envelope that follows without a gap, and the state there.

    `seen` is the highest (epoch, seq) that its owner has signed for, whether we have it or not. `keys` and `digest`
    describe the state: how many things are not retired, and the sum over them. Mutable, for one batch at a time.
    """

    origin: str
    stream: str
    epoch: int = 0
    seq: int = 0
    tip: bytes = ZERO
    keys: int = 0
    digest: int = 0
    seen: tuple[int, int] = (0, 0)
    frozen: bool = False

    @property
    def at(self) -> tuple[int, int]:
        """Epoch and sequence number."""
        return self.epoch, self.seq

    @property
    def behind(self) -> bool:
        """Whether something is known to be missing."""
        return self.seen > self.at

    def note(self, place: tuple[int, int]) -> None:
        """The owner has signed for this place."""
        self.seen = max(self.seen, place)

    def follow(self, header: Header, envelope_hash: bytes) -> None:
        """Move on to this envelope, which `place` has found to be the next."""
        self.epoch, self.seq, self.tip = header.epoch, header.seq, envelope_hash
        self.note(self.at)

    def replace(self, key: bytes, before: bytes | None, after: bytes | None) -> None:
        """A key's newest envelope has changed. Both are given as hashes; None is a thing that is not there."""
        self.digest = (self.digest - weight(key, before) + weight(key, after)) % _MODULUS
        self.keys += (after is not None) - (before is not None)


def weight(key: bytes, envelope_hash: bytes | None) -> int:
    """What a key adds to a digest: SHA-256 of the hashes of the key and of its newest envelope, as a number.

    >>> weight(bytes(32), None)
    0
    """
    if envelope_hash is None:
        return 0
    return int.from_bytes(hashlib.sha256(key + envelope_hash).digest(), "big")


def digest_text(digest: int) -> str:
    """A digest as it is written."""
    return f"{digest:064x}"


def place(chain: Chain, header: Header, envelope_hash: bytes, hash_at: HashAt) -> tuple[Verdict, str]:
    """Where an authentic envelope belongs in its chain.

    Returns: the verdict and a code. ACCEPTED is the next one; nothing has been changed yet.
    """
    here = (header.epoch, header.seq)
    if here <= chain.at:
        known = hash_at(*here)
        if known == envelope_hash:
            return Verdict.DUPLICATE, "known"
        if known is not None:
            return Verdict.EQUIVOCATION, "two_at_one_place"
        if header.epoch < chain.epoch:
            return Verdict.QUARANTINED, "epoch_over"
        return Verdict.DUPLICATE, "before_snapshot"
    if chain.frozen:
        return Verdict.PARKED, "frozen"
    first = header.epoch > chain.epoch
    if header.seq != (1 if first else chain.seq + 1):
        return Verdict.GAP, "missing_before"
    if header.prev != (ZERO if first else chain.tip):
        return Verdict.EQUIVOCATION, "another_before"
    return Verdict.ACCEPTED, "next"
