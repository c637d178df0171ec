"""How long a budget may last: a forecast of daily use with a band.

Floats are allowed here: no amount is made from them. The method is simple exponential smoothing, as a model ETS(A,N,N):
a level that moves, with additive errors. The weight a of the newest day is the one of `WEIGHTS` with the
smallest squared one-day errors so far. Of the sum over h coming days the mean is h times the level, and the variance is
s^2 * sum((1 + (h - j) * a)^2 for j in 1..h), where s^2 is the mean squared one-day error. The band takes errors as
normal, and is cut where less than nothing would be used. It knows no weekdays and no deadlines.

Source: Hyndman, Koehler, Ord and Snyder, "Forecasting with Exponential Smoothing", Springer 2008, chapters 2 and 6.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

METHOD = "simple exponential smoothing, ETS(A,N,N), 80 % band"
LEAST_DAYS = 7
"""Fewer whole days than this say nothing."""
LONGEST_HORIZON = 400
WEIGHTS = tuple(step / 20 for step in range(1, 20))
_Z = 1.2815515655446004
"""Of a normal distribution, 80 % lie within so many standard deviations."""


@dataclass(frozen=True)
class Ahead:
    """What may be left after so many further days: the mean, and the band."""

    days: int
    expected: int
    low: int
    high: int


@dataclass(frozen=True)
class Forecast:
    """What the days so far suggest; the last three: after how many days nothing is left, None: not within the time."""

    level: float
    weight: float
    deviation: float
    ahead: list[Ahead]
    exhausted: int | None
    exhausted_earliest: int | None
    exhausted_latest: int | None


def smooth(daily: Sequence[float], weight: float) -> tuple[float, float]:
    """The level after the last day, and the mean squared error of each day's guess made the day before.

    >>> smooth([4.0, 4.0, 4.0], 0.3)
    (4.0, 0.0)
    """
    begin = min(len(daily), LEAST_DAYS)
    level = sum(daily[:begin]) / begin
    squares = 0.0
    for used in daily:
        error = used - level
        squares += error * error
        level += weight * error
    return level, squares / len(daily)


def foresee(daily: Sequence[int], left: int, horizon: int) -> Forecast | None:
    """Forecast what is left of a budget.

    Args:
        daily: what was used on each whole day so far, oldest first, in the resource's own unit.
        left: what is left now, in the same unit; below zero if more was used than granted.
        horizon: how many days to look ahead; at most LONGEST_HORIZON are.
    Returns: None if there are too few days. What is left is never below zero and never above `left`.

    >>> found = foresee([10] * 14, left=35, horizon=5)
    >>> found.exhausted, [one.expected for one in found.ahead]
    (4, [25, 15, 5, 0, 0])
    """
    if len(daily) < LEAST_DAYS:
        return None
    values = [float(used) for used in daily]
    weight = min(WEIGHTS, key=lambda candidate: smooth(values, candidate)[1])
    level, square = smooth(values, weight)
    level, left = max(level, 0.0), max(left, 0)
    ahead = []
    spread = 0.0
    exhausted: int | None = None
    earliest: int | None = None
    latest: int | None = None
    for day in range(1, min(horizon, LONGEST_HORIZON) + 1):
        # The sum over j of (1 + (h - j) a)^2 grows by its j = 1 term with each day.
        spread += (1 + (day - 1) * weight) ** 2
        mean, half = day * level, _Z * math.sqrt(square * spread)
        one = Ahead(day, _left(left, mean), _left(left, mean + half), _left(left, mean - half))
        ahead.append(one)
        exhausted = day if exhausted is None and one.expected == 0 else exhausted
        earliest = day if earliest is None and one.low == 0 else earliest
        latest = day if latest is None and one.high == 0 else latest
    return Forecast(level, weight, math.sqrt(square), ahead, exhausted, earliest, latest)


def _left(left: int, used: float) -> int:
    return max(left - round(max(used, 0.0)), 0)
