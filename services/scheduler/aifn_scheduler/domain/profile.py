"""Free slices of a partition over time: when would so many be free for so long?"""

from bisect import bisect_left, bisect_right


class Overbooked(ValueError):
    """More slices were to be reserved than are free: a fault of the planner, never of a request."""


class Profile:
    """Free slices of one partition from now on, as steps: `free[i]` holds from `times[i]` to `times[i + 1]`."""

    def __init__(self, now: int, slices: int) -> None:
        self.times: list[int] = [now]
        self.free: list[int] = [slices]

    def earliest_start(self, slices: int, seconds: int, not_before: int) -> int | None:
        """The first moment from which `slices` are free for `seconds` on end; None if that never comes.

        >>> profile = Profile(0, 10)
        >>> profile.reserve(0, 100, 8)
        >>> profile.earliest_start(4, 60, 0), profile.earliest_start(2, 60, 0), profile.earliest_start(11, 1, 0)
        (100, 0, None)
        """
        times, free = self.times, self.free
        last = len(times) - 1
        start = max(not_before, times[0])
        index = first = bisect_right(times, start) - 1
        while True:
            if free[index] < slices:
                if index == last:
                    return None
                index = first = index + 1
                start = times[first]
                continue
            if index == last or times[index + 1] - start >= seconds:
                return start
            index += 1

    def reserve(self, start: int, seconds: int, slices: int) -> None:
        """Take slices out for a stretch of time. Raises Overbooked, and changes nothing, if they are not all free."""
        begin, end = self._step_at(start), self._step_at(start + seconds)
        free = self.free
        if min(free[begin:end]) < slices:
            raise Overbooked(f"{slices} slices from {start} for {seconds} s")
        for index in range(begin, end):
            free[index] -= slices

    def occupy(self, start: int, end: int, slices: int) -> None:
        """Note what is taken already, whether or not there is room: nodes may have gone out of service since."""
        first, after = self._step_at(start), self._step_at(end)
        for index in range(first, after):
            self.free[index] -= slices

    def free_now(self) -> int:
        """Slices free at the beginning, never below zero."""
        return max(self.free[0], 0)

    def _step_at(self, moment: int) -> int:
        """The index of the step that begins at `moment`, made if missing; one before the first is the first."""
        index = bisect_left(self.times, moment)
        if index < len(self.times) and self.times[index] == moment:
            return index
        if index == 0:
            return 0
        self.times.insert(index, moment)
        self.free.insert(index, self.free[index - 1])
        return index
