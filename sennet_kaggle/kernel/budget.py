"""The clock: how much may still be done, measured against the pace of the run, and what is dropped when it is less."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..config import Inference

# Kept back for writing and checking the submission.
_RESERVED_SHARE, _MAX_RESERVED_SECONDS = 0.05, 120.0
# A plan is begun only with this much to spare, for a pace that is measured on a few slices.
_CAUTION = 1.1
# One that was left for lack of time only with this much: changing the plan costs the batches that are under way.
_ROOM_TO_GO_BACK = 1.3
_VIEWS: dict[Literal["none", "flips", "d4"], int] = {"none": 1, "flips": 4, "d4": 8}


class Budget:
    """Seconds that a run may take.

    Args:
        seconds: None for no limit.
        started: when they began, in `time.monotonic()`, which is the same for all processes of a machine. None: now.
    """

    def __init__(self, seconds: float | None, started: float | None = None):
        self.started = time.monotonic() if started is None else started
        self.seconds = math.inf if seconds is None else seconds
        reserved = min(_RESERVED_SHARE * self.seconds, _MAX_RESERVED_SECONDS)
        self._deadline = self.started + self.seconds - reserved
        self.last_call = self._deadline + reserved / 2
        """When to stop waiting for other processes, which stop by themselves before it, in `time.monotonic()`."""
        self.dropped: list[str] = []
        """What there was no time for, in words."""

    def __bool__(self) -> bool:
        """Whether there is a limit."""
        return math.isfinite(self.seconds)

    def share(self, part: float) -> float:
        """When to stop, in `time.monotonic()`, if a part (0..1) of all remaining time is to be used."""
        now = time.monotonic()
        return now + part * (self._deadline - now) if self else math.inf

    def drop(self, words: str) -> None:
        """Says that something is left out for lack of time, or taken up again, and remembers it."""
        self.dropped.append(words)
        print(f"\nCLOCK: {words}", flush=True)


@dataclass(frozen=True)
class Plan:
    """How thoroughly slices are segmented."""

    inference: Inference
    members: int
    """How many of the ensemble, from its first on."""

    def __str__(self) -> str:
        return f"tta {self.inference.tta}, axes {self.inference.axes}, {self.members} model(s)"


def count_views(inference: Inference) -> int:
    """How often each model is shown everything."""
    return _VIEWS[inference.tta]


def ladder(inference: Inference, members: int) -> list[Plan]:
    """What is dropped for lack of time, one rung after the other.

    First views (d4, flips, none), then the extra scales, then the axes (zyx, z), then models, the last first.

    Returns:
        From the settings themselves to a single pass of a single model.
    """
    views = list(_VIEWS)[: list(_VIEWS).index(inference.tta) + 1][::-1]
    plans = [Plan(replace(inference, tta=tta), members) for tta in views]
    if inference.extra_scales:
        plans.append(Plan(replace(plans[-1].inference, extra_scales=()), members))
    if inference.axes == "zyx":
        plans.append(Plan(replace(plans[-1].inference, axes="z"), members))
    return plans + [Plan(plans[-1].inference, fewer) for fewer in range(members - 1, 0, -1)]


class Pace:
    """Seconds that plans take, expected from the cost probe and corrected by the run itself.

    Args:
        expected: seconds for a plan and a number of slices.
        correction: by which they are multiplied at first.
    """

    def __init__(self, expected: Callable[[Plan, int], float], correction: float = 1.0):
        self._expected, self.correction = expected, correction

    def seconds(self, plan: Plan, slices: int) -> float:
        """Expected seconds."""
        return self.correction * self._expected(plan, slices)

    def learn(self, plan: Plan, slices: int, seconds: float) -> None:
        """Corrects the expectation by what slices really took."""
        if expected := self._expected(plan, slices):
            self.correction = seconds / expected

    def choose(self, plans: Sequence[Plan], slices: int, seconds: float, current: Plan | None = None) -> Plan:
        """The most thorough plan that fits, or the last where none does.

        Args:
            plans: in the order of the ladder.
            slices: that are left.
            seconds: that are left.
            current: one that is better than this has to fit with room to spare.
        """
        first = plans.index(current) if current in plans else 0
        fitting = (
            plan
            for place, plan in enumerate(plans)
            if (_ROOM_TO_GO_BACK if place < first else _CAUTION) * self.seconds(plan, slices) <= seconds
        )
        return next(fitting, plans[-1])
