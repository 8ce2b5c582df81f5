"""The clock: how much may still be done, measured against the pace of the run, and what is dropped when it is less."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .config import Inference

# Kept back for writing and checking the submission.
_RESERVED_SHARE, _MAX_RESERVED_SECONDS = 0.05, 120.0
# A plan is begun only with this much to spare, for a pace that is measured on a few slices.
_CAUTION = 1.15
_VIEWS = {"none": 1, "flips": 4, "d4": 8}


class Budget:
    """Seconds that a run may take, from now on.

    Args:
        seconds: None for no limit.
    """

    def __init__(self, seconds: float | None):
        self.started = time.monotonic()
        self.seconds = math.inf if seconds is None else seconds
        reserved = min(_RESERVED_SHARE * self.seconds, _MAX_RESERVED_SECONDS)
        self._deadline = self.started + self.seconds - reserved
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
        """Says that something is left out for lack of time, and remembers it."""
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

    def passes(self, along_all: float) -> float:
        """Work per slice and model, in passes over it along z; `along_all` is that of all three axes without tta."""
        return _VIEWS[self.inference.tta] * (along_all if self.inference.axes == "zyx" else 1)


def ladder(inference: Inference, members: int) -> list[Plan]:
    """What is dropped for lack of time, one rung after the other.

    First views (d4, flips, none), then the axes (zyx, z), then models, the last first.

    Returns:
        From the settings themselves to a single pass of a single model.
    """
    views = list(_VIEWS)[: list(_VIEWS).index(inference.tta) + 1][::-1]
    plans = [Plan(replace(inference, tta=tta), members) for tta in views]
    if inference.axes == "zyx":
        plans.append(Plan(replace(plans[-1].inference, axes="z"), members))
    return plans + [Plan(plans[-1].inference, fewer) for fewer in range(members - 1, 0, -1)]


class Pace:
    """Seconds per slice of one kidney under each plan, from a trial and then from the run itself.

    Args:
        seconds_per_pass: of a slice through each model.
        along_all: see `Plan.passes`.
    """

    def __init__(self, seconds_per_pass: Sequence[float], along_all: float):
        self._seconds_per_pass, self._along_all = seconds_per_pass, along_all
        self._correction = 1.0

    def seconds(self, plan: Plan) -> float:
        """Expected seconds per slice."""
        return self._correction * plan.passes(self._along_all) * sum(self._seconds_per_pass[: plan.members])

    def learn(self, plan: Plan, seconds: float) -> None:
        """Corrects the expectation by seconds per slice that a plan really took."""
        self._correction *= seconds / max(self.seconds(plan), 1e-9)

    def choose(self, plans: Sequence[Plan], seconds_per_slice: float) -> Plan:
        """The most thorough plan that fits, or the last where none does."""
        return next((plan for plan in plans if _CAUTION * self.seconds(plan) <= seconds_per_slice), plans[-1])
