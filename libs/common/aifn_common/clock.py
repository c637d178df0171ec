"""The one clock of a process: real time, or simulated time that every process of a run agrees on.

Business moments come from here. Tokens, time-outs and leases live in real time and never ask this clock. What one
transaction does happens at one moment: `held` lets the clock stand still for it, and the ids it gives follow from the
moment's seed, so that the same cause at the same moment has the same effect again.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256


@dataclass(frozen=True)
class SimulatedClock:
    """Simulated time runs `factor` times as fast as real time; at the real moment `started` it was `epoch`."""

    epoch: datetime
    started: datetime
    factor: int

    def at(self, real: datetime) -> datetime:
        """The simulated moment at a real one.

        >>> clock = SimulatedClock(datetime(2017, 10, 3, tzinfo=UTC), datetime(2026, 11, 21, tzinfo=UTC), 3600)
        >>> clock.at(datetime(2026, 11, 21, 0, 0, 2, tzinfo=UTC)).isoformat()
        '2017-10-03T02:00:00+00:00'
        """
        return self.epoch + (real - self.started) * self.factor


@dataclass
class Moment:
    """When one transaction happens, and what its ids are made from; `at` is None until somebody asks for the time."""

    at: datetime | None = None
    seed: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    ids: int = 0

    def short_id(self, prefix: str) -> str:
        """Name a new thing like `aifn_events.vocabulary.short_id`: the same ids in the same order for the same seed.

        >>> again = lambda: Moment(datetime(2026, 11, 21, tzinfo=UTC), b"16 bytes of seed").short_id("job")
        >>> again() == again(), again()[:16]
        (True, 'job-01a1fb671800')
        """
        self.ids += 1
        self.at = self.at or _present()
        milliseconds = int(self.at.timestamp() * 1000)
        last = sha256(self.seed + self.ids.to_bytes(8, "big")).hexdigest()[:6]
        return f"{prefix}-{milliseconds:012x}-{last}"


_simulated: SimulatedClock | None = None
_moment: ContextVar[Moment | None] = ContextVar("aifn_moment", default=None)


def use(simulated: SimulatedClock | None) -> None:
    """Set the clock of this process; None is real time. Called once, while a process is assembled."""
    global _simulated
    _simulated = simulated


def now() -> datetime:
    """The present moment, or the held one; aware, in UTC."""
    moment = _moment.get()
    if moment is None:
        return _present()
    moment.at = moment.at or _present()
    return moment.at


def _present() -> datetime:
    real = datetime.now(UTC)
    return _simulated.at(real) if _simulated else real


@contextmanager
def held(moment: Moment | None = None) -> Iterator[Moment]:
    """Let the clock of this task stand still: at a given moment, else at the one when it is first asked.

    The first question decides, and not the beginning, because a transaction may have waited for a lock before it.
    Inside of another one it is the other one's moment.
    """
    mine = moment or _moment.get() or Moment()
    token = _moment.set(mine)
    try:
        yield mine
    finally:
        _moment.reset(token)


def short_id(prefix: str) -> str:
    """Name a new thing; in a held moment the name follows from its seed."""
    return (_moment.get() or Moment()).short_id(prefix)


def seed() -> bytes | None:
    """What the ids of the held moment are made from; None outside of one."""
    moment = _moment.get()
    return moment.seed if moment else None
