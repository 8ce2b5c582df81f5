"""What the notebook's last cells call: find the inputs, segment every test kidney, write and show the submission."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..distributed import Shard
from ..errors import InputError, show_messages
from ..files import write_whole
from ..inference.predict import warn_of_unknown_scales
from ..inference.predictor import Predictor
from ..models.checkpoint import read_card
from ..progress import Bar
from ..submission.provenance import (
    Stopwatch,
    describe_checkpoint,
    describe_machine,
    format_provenance,
    hash_file,
    hash_package,
    to_json,
)
from ..submission.submission import validate_submission
from .budget import Budget
from .cost_probe import Costs, bound, probe_costs, unknown_costs
from .fault_tolerant_volume import open_fault_tolerant_volumes
from .faults import Faults
from .inputs import find_checkpoints, find_competition
from .journal import identify_file, stamp_file
from .memory import fit_inference, machine_memory, peak_ram
from .oom_fallback import load_with_fallback
from .partial_submission import PartialSubmission
from .scheduler import Scheduler
from .settings import KernelSettings, settle_scale
from .workers import Worker, find_devices, start_workers, wait_for_workers


def run_kernel(settings: KernelSettings) -> None:
    """Segments every slice of every test kidney and writes the submission, and `submission.json` beside it.

    From the first second the submission has a row for every slice. Killed and called again, it goes on from the
    finished slices.

    Raises:
        InputError: the competition or the models are not attached; in a strict run, any fault. A strict run then
            leaves no submission, any other the complete one it has.
    """
    show_messages(Bar.write)
    strict = settings.is_strict()
    with _none_left_by_failure(settings.submission_path) if strict else nullcontext():
        run = _Run(settings, Faults(strict))
        try:
            with run.faults.survived("the other GPUs", "this process does all the work"):
                run.start_others()
            run.work()
        finally:
            run.end_workers()
        with run.watch.stage("finish"), run.faults.survived("the last check", "the submission is left as it is"):
            run.finish()
        run.tell()


@contextmanager
def _none_left_by_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception:
        path.unlink(missing_ok=True)
        raise


def _segment_shard(go_on: Callable[[], None], settings: KernelSettings, shard: Shard, started: float) -> None:
    """What another process does of a run: it leaves a journal with the rows of its shard, and all that it survived."""
    show_messages(lambda _: None)  # the first process says the same
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        run = _Run(settings, Faults(strict=False, say=lambda _: None), shard, started, go_on)
        try:
            run.load()
            if not run.rows.has_journal:
                raise InputError("its rows would be lost, since there is no journal to leave them in")
            run.prepare()
            run.segment()
        finally:
            run.rows.tell()


class _Run:
    """The state of a run, and its steps in order.

    Args:
        settings: of the notebook.
        faults: gets a note of whatever goes wrong.
        shard: of all slices, where other processes do the rest.
        started: when the first process began, in `time.monotonic()`; None: this is the first, and begins now.
        go_on: called whenever the run has got further.
    """

    def __init__(
        self,
        settings: KernelSettings,
        faults: Faults,
        shard: Shard = Shard(),  # noqa: B008
        started: float | None = None,
        go_on: Callable[[], None] = lambda: None,
    ):
        self.settings, self.faults, self.inference, self.shard = settings, faults, settings.inference, shard
        self.go_on = go_on
        self.devices = [settings.inference.device]
        """Of all processes, in the order of their ranks."""
        self.workers: list[Worker] = []
        """The other processes, from rank 1 on."""
        self.scheduler: Scheduler | None = None
        self.budget = Budget(settings.seconds(), started)
        self.watch = Stopwatch()
        self.checkpoint_paths: list[Path] = []
        self.predictors: list[Predictor] = []
        self.provenance: dict[str, Any] = {
            "package_sha256": hash_package(),
            "settings": asdict(settings),
        }
        with self.watch.stage("rows"):
            data_dir = find_competition(settings.input_dir, settings.competition)
            self.volumes = open_fault_tolerant_volumes(data_dir, faults)
            slice_ids = [slice_id for volume in self.volumes for slice_id in volume.slice_ids]
            self.rows = PartialSubmission(settings.submission_path, slice_ids, faults, self.budget.dropped, shard.rank)
        warn_of_unknown_scales(self.volumes, self.inference)
        print(f"competition data: {data_dir}; {settings.submission_path} has a row for all {len(slice_ids)} slices")

    def work(self) -> None:
        """Does this process's shard and gathers those of the others; what they have not done is done here.

        Raises:
            InputError, or another error: no model can be loaded, and no other process has done anything, either.
        """
        failed: Exception | None = None
        try:
            self.load()
            self.prepare()
            self.segment()
        except Exception as error:
            if self.faults.strict:
                raise
            failed = error
        if self.workers:
            self.gather()
            self.segment()
        if failed:
            if not self.rows.done:
                raise failed
            self.faults.note("the first process", failed, "what the others have finished is kept")

    def start_others(self) -> None:
        """Starts a process for every GPU but the first."""
        devices = find_devices(self.inference.device)
        if len(devices) == 1:
            return
        works = []
        for rank, device in enumerate(devices[1:], 1):
            settings = replace(self.settings, inference=replace(self.inference, device=device))
            works.append((settings, Shard(rank, len(devices)), self.budget.started))
        self.workers = start_workers(_segment_shard, works, self.faults)
        if self.workers:
            self.devices, self.shard = devices, Shard(0, len(devices))
            self.inference = replace(self.inference, device=devices[0])
            print(f"the slices are distributed over {', '.join(devices)}", flush=True)

    def gather(self) -> None:
        """Waits for the other processes, and takes over what they have done."""
        parts = [{"device": self.devices[0], "rows": len(self.rows.done)}]
        with self.watch.stage("wait"):
            problems = wait_for_workers(self.workers, self.budget.last_call)
        for rank, problem in enumerate(problems, 1):
            parts.append({"device": self.devices[rank], "rows": self.rows.take_over(rank)})
            if problem:
                self.faults.note(f"worker {rank}", problem, "what it has not finished is done by the first process")
        self.provenance["processes"] = parts
        self.shard = Shard()

    def end_workers(self) -> None:
        """Ends the processes that are still at work, since the run has failed."""
        for worker in self.workers:
            if worker.is_running():
                worker.kill()

    def load(self) -> None:
        """Loads the models; on the CPU where the device takes none. What is only for the record may fail.

        Raises:
            InputError: there is none, or none that can be loaded.
        """
        with self.watch.stage("load"):
            paths = find_checkpoints(self.settings.input_dir, self.settings.checkpoint_source)
            with self.faults.survived("the journal", "a run that is killed would start from the beginning"):
                self.resume(paths)
            self._load(paths)
            if not self.predictors and self.inference.device != "cpu":
                self.faults.note(
                    "the models", f"none could be loaded on device {self.inference.device}", "tries the CPU"
                )
                self.inference = self.inference.on_cpu()
                self._load(paths)
            if not self.predictors:
                raise InputError(
                    "none of the attached checkpoints could be loaded: attach one that `train` or `pack` made"
                )
            self.inference = settle_scale(self.inference, self.volumes, self.checkpoint_paths, self.faults)
            self.provenance["settings"]["inference"] |= {k: getattr(self.inference, k) for k in ("scale", "scales")}
            with self.faults.survived("the record of models and machine", "it is left out"):
                self.describe()

    def _load(self, paths: Sequence[Path]) -> None:
        for path in paths:
            try:
                self.predictors += load_with_fallback([path], self.inference, self.faults)
                self.checkpoint_paths.append(path)
            except Exception as error:
                self.faults.note(path.name, error, "goes on without this model")

    def describe(self) -> None:
        """Says which models and machine the submission comes from."""
        self.provenance["checkpoints"] = [describe_checkpoint(path, read_card(path)) for path in self.checkpoint_paths]
        self.provenance |= describe_machine([predictor.device for predictor in self.predictors])
        print(format_provenance(self.provenance), flush=True)

    def resume(self, checkpoint_paths: Sequence[Path]) -> None:
        """Takes over what earlier processes finished that had the same models, settings and slices."""
        models = [(path.name, identify_file(path)) for path in checkpoint_paths]
        inputs = [(str(path), *stamp_file(path)) for volume in self.volumes for path in volume.image_paths]
        inference = asdict(replace(self.settings.inference, device="auto"))  # any device will do to go on
        self.rows.resume(json.dumps([self.provenance["package_sha256"], models, inference, inputs]))
        if self.rows.finished:
            print(f"{len(self.rows.finished)} slices were finished by a run that was stopped")

    def prepare(self) -> None:
        """Measures what a pass costs, in time and memory, as far as that can be measured."""
        pending = [volume for volume in self.volumes if not self.rows.done.issuperset(volume.slice_ids)]
        if not pending:
            return
        costs = unknown_costs(self.predictors, self.inference)
        with self.watch.stage("try_out"):
            with self.faults.survived("the cost probe", "goes on without having measured"):
                costs = probe_costs(pending, self.predictors, self.inference)
            with self.faults.survived("the look at the memory", "goes on without it"):
                self.check_memory(costs)

        def reload_on_cpu() -> list[Predictor]:
            return load_with_fallback(self.checkpoint_paths, self.inference.on_cpu(), self.faults)

        parts = (self.budget, self.rows, self.faults, reload_on_cpu, self.go_on)
        self.scheduler = Scheduler(self.predictors, self.inference, costs, *parts)

    def segment(self) -> None:
        """Segments the slices of the shard that have no row yet."""
        if self.scheduler is None:
            return
        with self.watch.stage("segment"), self.faults.survived("the run", "what was finished until then is kept"):
            if self.inference.axes == "z":
                self.scheduler.segment(self.volumes, self.shard)
            else:  # the axes of a kidney are not distributed here
                self.scheduler.segment(self.volumes[self.shard.rank :: self.shard.world])

    def check_memory(self, costs: Costs) -> None:
        """Looks whether the machine has the memory, and takes what needs less where it has not."""
        needed = bound(costs, self.volumes, self.inference)
        machine = machine_memory(self.predictors, self.inference, self.shard.world)
        self.provenance["memory"] = {"at_most": needed._asdict(), "machine": machine._asdict()}
        print(f"memory: at most {needed}; this machine has {machine}", flush=True)
        self.inference = fit_inference(self.inference, needed, machine, self.faults)

    def finish(self) -> None:
        """Writes the submission for the last time and checks it."""
        self.rows.save()
        for problem in validate_submission(self.settings.submission_path, self.volumes):
            self.faults.note(self.settings.submission_path.name, problem, "it is left so")
        self.rows.drop_journals()

    def tell(self) -> None:
        """Says what was lost and what the run took, here and in the JSON beside the submission."""
        self.provenance |= {
            "seconds": self.watch.seconds,
            "peak_ram": peak_ram(),
            "dropped": self.budget.dropped,
            "faults": [fault._asdict() for fault in self.faults.noted],
        }
        path = self.settings.submission_path
        record = path.with_suffix(".json")
        with self.faults.survived(record.name, "it lacks the submission's hash"):
            self.provenance["submission_sha256"] = hash_file(path)
        with self.faults.survived(record.name, "it is left out"):
            write_whole(record, to_json(self.provenance))
        timings = ", ".join(f"{stage} {seconds} s" for stage, seconds in self.watch.seconds.items())
        print(f"{timings}; peak RAM {peak_ram() / 1e9:.2f} GB")
        print(*(f"dropped for lack of time: {words}" for words in self.budget.dropped), self.faults, sep="\n")
        print(f"{path}: {len(self.rows.rles)} rows, one per test slice")
