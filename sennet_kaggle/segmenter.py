"""Every slice of every test kidney → a row, whatever happens: faults cost single slices, the clock costs passes."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from tqdm import tqdm

from .budget import Budget, Pace, ladder
from .config import Inference
from .distributed import Share
from .faults import Faults
from .guard import is_alive
from .predict import mean_threshold, predict_probabilities
from .predictor import Predictor
from .rle import rle_encode
from .rows import Rows
from .steady import SteadyVolume
from .transforms import fetch_mask, resize_map
from .trial import Trial, axes_factor

# Slices after which the pace is looked at again.
_LOOK_EVERY = 8
# Of a kidney's share of the time; what is left writes the masks of three axes out.
_LAST_PLANE_AT = 0.9


@dataclass
class Segmenter:
    """Segments kidneys one after the other.

    Args:
        predictors: the ensemble; the last members are the first that are dropped for lack of time.
        inference: how they are run while there is time.
        trial: what a pass costs.
        budget: the clock.
        rows: gets the masks.
        faults: hears what goes wrong.
        reload_on_cpu: loads the ensemble anew, should a GPU have failed for good.
    """

    predictors: Sequence[Predictor]
    inference: Inference
    trial: Trial
    budget: Budget
    rows: Rows
    faults: Faults
    reload_on_cpu: Callable[[], Sequence[Predictor]]

    def segment(self, volumes: Sequence[SteadyVolume], share: Share = Share()) -> None:  # noqa: B008
        """Segments all slices that have not been finished; each kidney has its part of the remaining time.

        Args:
            volumes: the kidneys.
            share: which part of the slices of each.
        """
        plain = replace(self.inference, axes="z")
        pending = [self._pending(volume, share) for volume in volumes]
        work = [
            len(zs) * sum(self.trial.seconds_per_pass(volume, self.predictors, plain))
            for volume, zs in zip(volumes, pending, strict=True)
        ]
        with tqdm(total=sum(map(len, pending)), unit="slice", desc="segmenting", mininterval=1.0) as progress:
            for index, volume in enumerate(volumes):
                if pending[index]:
                    progress.set_postfix_str(volume.name)
                    deadline = self.budget.share(work[index] / sum(work[index:]))
                    _Kidney(self, volume, pending[index], deadline, progress).segment()

    def _pending(self, volume: SteadyVolume, share: Share) -> list[int]:
        return [z for z in share.part(len(volume)) if volume.slice_ids[z] not in self.rows.finished]


class _Kidney:
    """What is left to do of one kidney."""

    def __init__(self, run: Segmenter, volume: SteadyVolume, pending: list[int], deadline: float, progress: tqdm):
        self.run, self.volume, self.pending, self.progress = run, volume, pending, progress
        self.started, self.deadline = time.monotonic(), deadline
        self.plans = ladder(run.inference, len(run.predictors))
        self.plan = self.plans[0]
        seconds = run.trial.seconds_per_pass(volume, run.predictors, run.inference)
        self.pace = Pace(seconds, axes_factor(volume, run.predictors, run.inference))
        self.longest = len(volume)
        """Slices that are tried in one go: one after a failure, then more and more again."""

    def segment(self) -> None:
        while self.pending and self._in_time():
            self._choose_plan()
            zs = self._next_run()
            try:
                done = self._segment_run(zs)
                if not done:
                    raise RuntimeError("the models gave no answer")
                self.longest *= 2
            except Exception as error:  # whatever it is, it must not cost more than its slice
                self._step_back(error)
        if self.pending:
            self._note_unfinished()

    def _segment_run(self, zs: range) -> int:
        """Segments consecutive slices until they are done or the plan no longer fits the time; returns how many."""
        started, done = time.monotonic(), 0
        members, cut_short = self.run.predictors[: self.plan.members], []

        def go_on() -> bool:
            late = time.monotonic() > self.started + _LAST_PLANE_AT * (self.deadline - self.started)
            cut_short[:] = [late]
            return not late

        threshold = mean_threshold(members)
        with closing(predict_probabilities(self.volume, members, self.plan.inference, zs, go_on)) as probabilities:
            for z, (_, probability) in zip(zs, probabilities, strict=False):
                done += 1
                if z in self.pending:  # along three axes those between them come along
                    self._finish(z, probability, threshold)
                if self.run.budget and self.plan.inference.axes == "z" and self._is_late(started, done):
                    break
        if any(cut_short):
            self.run.budget.drop(f"{self.volume.name}: the last planes along the axes; the mean is over what there is")
            self._leave_axes()
        return done

    def _finish(self, z: int, probability: torch.Tensor, threshold: float) -> None:
        slice_id = self.volume.slice_ids[z]
        lost = probability.isnan()
        if lost.any():
            self.volume.touched.add(z)
            problem = f"{lost.count_nonzero()} of {lost.numel()} probabilities are not a number"
            self.run.faults.note(slice_id, problem, "no vessel there")
            probability = probability.nan_to_num(0)
        mask = fetch_mask(resize_map(probability, *self.volume.slice_size(z)), threshold)
        self.run.rows.add(slice_id, rle_encode(mask), finished=z not in self.volume.touched)
        self.pending.remove(z)
        self.progress.update()

    def _is_late(self, started: float, done: int) -> bool:
        if not self._in_time():
            return True
        if done % _LOOK_EVERY:
            return False
        self.pace.learn(self.plan, (time.monotonic() - started) / done)
        return self.plan != self.plans[-1] and self.pace.seconds(self.plan) > self._allowance()

    def _choose_plan(self) -> None:
        plan = self.pace.choose(self.plans, self._allowance()) if self.run.budget else self.plans[0]
        if plan != self.plan:
            expected, allowed = self.pace.seconds(self.plan), self._allowance()
            self.run.budget.drop(
                f"{self.volume.name} from {self.volume.slice_ids[self.pending[0]]} on: {plan} instead of {self.plan}, "
                f"which would take {expected:.2g} s per slice where {allowed:.2g} s are left"
            )
        # Never back up: what was measured to be too slow would be tried again and again.
        self.plan, self.plans = plan, self.plans[self.plans.index(plan) :]

    def _step_back(self, error: Exception) -> None:
        """After a failure: along z alone, then slice by slice; a slice that fails by itself is left out."""
        if self.plan.inference.axes == "zyx":
            self.run.faults.note(self.volume.name, error, "goes on along z alone")
            self._leave_axes()
        elif self.longest > 1:
            self.run.faults.note(self.volume.name, error, "goes on slice by slice")
            self.longest = 1
        elif not all(is_alive(predictor.device) for predictor in self.run.predictors):
            self.run.faults.note(self.volume.name, error, "the GPU does not answer any more: goes on on the CPU")
            self.run.predictors = self.run.reload_on_cpu()
        else:
            slice_id = self.volume.slice_ids[self.pending[0]]
            self.run.faults.note(slice_id, error, "its mask is left empty")
            self.pending.pop(0)
            self.progress.update()

    def _leave_axes(self) -> None:
        """Goes on along z alone, with the views and models that there are."""
        self.plans = ladder(replace(self.plan.inference, axes="z"), self.plan.members)
        self.plan = self.plans[0]

    def _next_run(self) -> range:
        """The next slices to segment in one go."""
        if self.plan.inference.axes == "zyx":
            return range(self.pending[0], self.pending[-1] + 1)
        first = self.pending[0]
        last = next(
            (z for z, following in zip(self.pending, self.pending[1:], strict=False) if following != z + 1),
            self.pending[-1],
        )
        return range(first, min(last, first + self.longest - 1) + 1)

    def _in_time(self) -> bool:
        return time.monotonic() < self.deadline

    def _allowance(self) -> float:
        """Seconds per slice."""
        return (self.deadline - time.monotonic()) / len(self.pending)

    def _note_unfinished(self) -> None:
        ids = self.volume.slice_ids
        problem = f"no time left for {len(self.pending)} slices, {ids[self.pending[0]]} to {ids[self.pending[-1]]}"
        self.run.faults.note(self.volume.name, problem, "their masks are left empty")
