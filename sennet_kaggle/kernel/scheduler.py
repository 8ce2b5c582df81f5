"""Every slice of every test kidney → a row, whatever happens: faults cost single slices, the clock costs passes."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import torch

from ..config import Inference
from ..data.bits import fetch_mask
from ..data.resizing import resize_map
from ..distributed import Shard
from ..errors import InputError
from ..inference.ensemble import mean_threshold
from ..inference.predict import predict_probabilities
from ..inference.predictor import Predictor
from ..progress import Bar, progress_bar
from ..submission.rle import rle_encode
from .budget import Budget, Pace, Plan, ladder
from .cost_probe import Costs, probe_costs, unknown_costs
from .fault_tolerant_volume import FaultTolerantVolume
from .faults import Faults
from .lap import Lap
from .oom_fallback import is_alive
from .partial_submission import PartialSubmission

# Of a kidney's share of the time; what is left writes the masks of three axes out.
_LAST_PLANE_AT = 0.9
# Slices that fail one after the other before the CPU takes over.
_FAILURES_IN_A_ROW = 3


@dataclass
class Scheduler:
    """Segments kidneys one after the other.

    Args:
        predictors: the ensemble; the last members are the first that are dropped for lack of time.
        inference: how they are run while there is time.
        costs: what a pass costs.
        budget: the clock.
        rows: gets the masks.
        faults: gets a note of whatever goes wrong.
        reload_on_cpu: loads the ensemble anew, should a GPU have failed for good.
        go_on: called whenever a slice or a plane is done.
    """

    predictors: Sequence[Predictor]
    inference: Inference
    costs: Costs
    budget: Budget
    rows: PartialSubmission
    faults: Faults
    reload_on_cpu: Callable[[], Sequence[Predictor]]
    go_on: Callable[[], None] = lambda: None
    correction: float = field(default=1.0, init=False)
    """Of the cost probe, by the pace of the kidneys so far."""
    failures: int = field(default=0, init=False)
    """Slices that have failed one after the other."""
    moved: bool = field(default=False, init=False)
    """Whether the CPU has taken over."""

    def segment(self, volumes: Sequence[FaultTolerantVolume], shard: Shard = Shard()) -> None:  # noqa: B008
        """Segments all slices that have no row yet; each kidney has its part of the remaining time.

        Args:
            volumes: the kidneys.
            shard: which part of the slices of each.
        """
        had_moved = self.moved
        self._segment_once(volumes, shard)
        if self.moved and not had_moved:  # what failed before the CPU took over
            self._segment_once(volumes, shard)

    def pending(self, volume: FaultTolerantVolume, shard: Shard) -> list[int]:
        """The slices of a shard that have no row."""
        return [z for z in shard.part(len(volume)) if volume.slice_ids[z] not in self.rows.done]

    def move_to_cpu(self, volume: FaultTolerantVolume, error: Exception, problem: str) -> None:
        """Loads the models anew, on the CPU in float32, and learns what a pass costs there."""
        self.moved = True
        self.faults.note(volume.name, error, f"{problem}: goes on on the CPU")
        try:
            self.predictors = self.reload_on_cpu()
        except Exception as failed:
            self.faults.note(
                volume.name, failed, "the models cannot be loaded again: goes on with those that there are"
            )
            return
        self.inference = self.inference.on_cpu()
        self.failures, self.correction = 0, 1.0
        try:
            self.costs = probe_costs([volume], self.predictors, self.inference)
        except Exception as failed:
            self.faults.note("the cost probe", failed, "goes on without having measured")
            self.costs = unknown_costs(self.predictors, self.inference)

    def _segment_once(self, volumes: Sequence[FaultTolerantVolume], shard: Shard) -> None:
        pending = [self.pending(volume, shard) for volume in volumes]
        work = [
            self.costs.seconds_to_start(volume) + self.costs.seconds(volume, self.predictors, self.inference, len(zs))
            if zs
            else 0.0
            for volume, zs in zip(volumes, pending, strict=True)
        ]
        with progress_bar("segmenting", sum(map(len, pending)), shown=shard.rank == 0) as progress:
            for index, volume in enumerate(volumes):
                if pending[index]:
                    progress.set_postfix_str(volume.name)
                    deadline = self.budget.share(work[index] / sum(work[index:]))
                    self._segment_kidney(volume, shard, deadline, progress)

    def _segment_kidney(self, volume: FaultTolerantVolume, shard: Shard, deadline: float, progress: Bar) -> None:
        kidney = _Kidney(self, volume, shard, deadline, progress)
        try:
            kidney.segment()
        except Exception as error:  # not in a slice, so it would come again
            self.faults.note(volume.name, error, "what was finished of it is kept")
        self.correction = kidney.pace.correction


class _Kidney:
    """What is left to do of one kidney."""

    def __init__(self, run: Scheduler, volume: FaultTolerantVolume, shard: Shard, deadline: float, progress: Bar):
        self.run, self.volume, self.shard, self.progress = run, volume, shard, progress
        self.pending = run.pending(volume, shard)
        self.started, self.deadline = time.monotonic(), deadline
        self.pace = Pace(self._expected_seconds, run.correction)
        self.longest = len(volume)
        """Slices that are tried in one go: one after a failure, then more and more again."""
        self._plan_anew(run.inference, len(run.predictors))

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

    def _plan_anew(self, inference: Inference, members: int) -> None:
        """Begins with the most thorough plan of these settings."""
        self.plans = ladder(inference, members)
        self.plan = self.plans[0]

    def _expected_seconds(self, plan: Plan, slices: int) -> float:
        return self.run.costs.seconds(self.volume, self._members(plan), plan.inference, slices)

    def _members(self, plan: Plan) -> Sequence[Predictor]:
        return self.run.predictors[: plan.members]

    def _segment_run(self, zs: range) -> int:
        """Segments consecutive slices until they are done or another plan is called for; returns how many."""
        members, inference = self._members(self.plan), self.plan.inference
        cut_short: list[bool] = []
        in_turn = self.run.budget and inference.axes == "z"
        if self.longest == 1:  # after a failure no batch is filled up with copies
            inference = replace(inference, batch_size=1, sw_batch_size=1)
        clock = Lap(self.run.costs.slices_at_once(self.volume, members, inference))

        def go_on() -> bool:
            self.run.go_on()
            late = time.monotonic() > self.started + _LAST_PLANE_AT * (self.deadline - self.started)
            cut_short[:] = [late]
            return not late

        done, started, threshold = 0, time.monotonic(), mean_threshold(members)
        with closing(predict_probabilities(self.volume, members, inference, zs, go_on)) as probabilities:
            for z, (_, probability) in zip(zs, probabilities, strict=False):
                done += 1
                lap = clock.tick()
                if z in self.pending:  # along three axes those between them come along
                    self._finish(z, probability, threshold, inference.hysteresis)
                if in_turn and clock.is_burst_over and (not self._in_time() or (lap and self._is_plan_wrong(*lap))):
                    break
        to_start = self.run.costs.seconds_to_start(self.volume)
        if in_turn and not clock.has_told and (took := time.monotonic() - started - to_start) > to_start:
            self.pace.learn(self.plan, done, took)  # of so few slices the whole run has to say it
        if any(cut_short):
            self.run.budget.drop(f"{self.volume.name}: the last planes along the axes; the mean is over what there is")
            self._leave_axes()
        return done

    def _finish(self, z: int, probability: torch.Tensor, threshold: float, hysteresis: float) -> None:
        slice_id = self.volume.slice_ids[z]
        lost = probability.isnan()
        if lost.any():
            self.volume.touched.add(z)
            problem = f"{lost.count_nonzero()} of {lost.numel()} probabilities are not a number"
            self.run.faults.note(slice_id, problem, "no vessel there")
            probability = probability.nan_to_num(0)
        mask = fetch_mask(resize_map(probability, *self.volume.slice_size(z)), threshold, hysteresis)
        self.run.rows.add(slice_id, rle_encode(mask), finished=z not in self.volume.touched)
        self.run.failures = 0
        self._remove(z)

    def _remove(self, z: int) -> None:
        self.pending.remove(z)
        self.progress.update()
        self.run.go_on()

    def _is_plan_wrong(self, slices: int, seconds: float) -> bool:
        """Whether, by what slices took, the plan does not fit the time, or a better one does."""
        self.pace.learn(self.plan, slices, seconds)
        if not self.pending:
            return False
        left = self.deadline - time.monotonic()
        late = self.plan != self.plans[-1] and self.pace.seconds(self.plan, len(self.pending)) > left
        return late or self.plans.index(self._best_plan()) < self.plans.index(self.plan)

    def _best_plan(self) -> Plan:
        return self.pace.choose(self.plans, len(self.pending), self._seconds_left(), self.plan)

    def _choose_plan(self) -> None:
        plan = self._best_plan() if self.run.budget else self.plans[0]
        if plan != self.plan:
            seconds, slices = self.pace.seconds(self.plan, len(self.pending)), len(self.pending)
            self.run.budget.drop(
                f"{self.volume.name} from {self.volume.slice_ids[self.pending[0]]} on: {plan} instead of {self.plan}, "
                f"which would take {seconds:.3g} s for {slices} slices where {self._seconds_left():.3g} s are left"
            )
        self.plan = plan

    def _step_back(self, error: Exception) -> None:
        """After a failure: along z alone, then slice by slice; a slice that fails by itself is left out."""
        if self.plan.inference.axes == "zyx":
            self.run.faults.note(self.volume.name, error, "goes on along z alone")
            self._leave_axes()
            return
        if self.longest > 1:
            self.run.faults.note(self.volume.name, error, "goes on slice by slice")
            self.longest = 1
            return
        self.run.failures += not isinstance(error, InputError)  # which is about the data
        if not self.run.moved and not all(is_alive(predictor.device) for predictor in self.run.predictors):
            self._move_to_cpu(error, "the GPU does not answer any more")
        elif not self.run.moved and self.run.failures >= _FAILURES_IN_A_ROW:
            self._move_to_cpu(error, f"{self.run.failures} slices have failed in a row")
        else:
            self.run.faults.note(self.volume.slice_ids[self.pending[0]], error, "its mask is left empty")
            self._remove(self.pending[0])

    def _move_to_cpu(self, error: Exception, problem: str) -> None:
        """Tries again there what has failed of this kidney."""
        self.run.move_to_cpu(self.volume, error, problem)
        failed = len(self.pending)
        self.pending = self.run.pending(self.volume, self.shard)
        self.progress.update(failed - len(self.pending))
        self.pace.correction = self.run.correction
        self._plan_anew(replace(self.run.inference, axes="z"), len(self.run.predictors))

    def _leave_axes(self) -> None:
        """Goes on along z alone, with the views and models that there are."""
        self._plan_anew(replace(self.plan.inference, axes="z"), self.plan.members)

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

    def _seconds_left(self) -> float:
        """For the slices of a run that is yet to start."""
        return self.deadline - time.monotonic() - self.run.costs.seconds_to_start(self.volume)

    def _note_unfinished(self) -> None:
        ids = self.volume.slice_ids
        problem = f"no time left for {len(self.pending)} slices, {ids[self.pending[0]]} to {ids[self.pending[-1]]}"
        self.run.faults.note(self.volume.name, problem, "their masks are left empty")
