"""Slices that become ready in bursts → how long one of them took."""

import time

# Slices after which the pace is looked at again, or as many as become ready together.
_LOOK_EVERY = 8


class Lap:
    """Times slices that become ready in bursts, from the first of a burst to the first of a later one.

    Args:
        burst: how many become ready together.
    """

    def __init__(self, burst: int):
        self._burst, self._every = burst, burst * -(-_LOOK_EVERY // burst)
        self._seen, self._is_new, self.has_told = 0, False, False
        self._marks: list[float] = []

    @property
    def is_burst_over(self) -> bool:
        """Whether the next slice has to be waited for."""
        return self._seen % self._burst == 0

    def tick(self) -> tuple[int, float] | None:
        """Counts a slice; at the end of some bursts returns (slices, seconds) of the run's later half, else None."""
        self._seen += 1
        if (self._seen - 1) % self._every == 0:
            self._marks.append(time.monotonic())
            self._is_new = True
        laps = len(self._marks) // 2
        if not (laps and self._is_new and self.is_burst_over):
            return None
        self._is_new, self.has_told = False, True
        return laps * self._every, self._marks[-1] - self._marks[-1 - laps]
