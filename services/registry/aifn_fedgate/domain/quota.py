"""How much one member may say in how much time, so that a flood from one of them costs the others nothing.

A token bucket for each origin, filled by the clock of the facts themselves: what piled up while the receiver was away
was said in its own time and passes at once. A fact far ahead of time, which could fill it, raises an alarm of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

BURST_SECONDS = 60
"""After a quiet time a member may say at once what it may say in so long: a catalogue that is loaded, a new epoch."""
LONGEST_WAIT_SECONDS = 5.0


@dataclass
class _Bucket:
    left: float
    filled_at: datetime


@dataclass
class Quotas:
    """What each origin may still say. Lives in memory: a process that starts gives everybody a full bucket."""

    _buckets: dict[str, _Bucket] = field(default_factory=dict)

    def spend(self, origin: str, at: datetime, *, per_second: int) -> None:
        """Count a fact of an origin that was said at a moment."""
        most = float(per_second * BURST_SECONDS)
        bucket = self._buckets.setdefault(origin, _Bucket(most, at))
        if at > bucket.filled_at:
            bucket.left = min(most, bucket.left + (at - bucket.filled_at).total_seconds() * per_second)
            bucket.filled_at = at
        bucket.left -= 1

    def settle(self, allowed: Mapping[str, int]) -> dict[str, float]:
        """How many seconds the origins that said too much must wait; with that it is forgotten.

        Args:
            allowed: facts a second, by origin.
        """
        waits = {}
        for origin, bucket in self._buckets.items():
            if bucket.left < 0 and origin in allowed:
                waits[origin] = min(LONGEST_WAIT_SECONDS, -bucket.left / allowed[origin])
                bucket.left = 0.0
        return waits
