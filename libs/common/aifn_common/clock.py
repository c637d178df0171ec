"""The one clock of a process: real time, or simulated time that every process of a run agrees on.

Business moments come from here. Tokens, time-outs and leases live in real time and never ask this clock.
"""

from dataclasses import dataclass
from datetime import UTC, datetime


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


_simulated: SimulatedClock | None = None


def use(simulated: SimulatedClock | None) -> None:
    """Set the clock of this process; None is real time. Called once, while a process is assembled."""
    global _simulated
    _simulated = simulated


def now() -> datetime:
    """The present moment, aware, in UTC."""
    real = datetime.now(UTC)
    return _simulated.at(real) if _simulated else real
