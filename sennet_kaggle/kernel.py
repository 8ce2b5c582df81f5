"""What the notebook's last cells call: find the inputs, segment every test kidney, write and show the submission."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from .budget import Budget
from .checkpoint import read_card
from .config import DEFAULT_INFERENCE, Inference
from .distributed import Share
from .errors import InputError, show_messages
from .faults import Faults, on_kaggle
from .files import write_whole
from .guard import GuardedModel
from .helpers import Helper, find_devices, start_helpers, wait_for_helpers
from .inputs import find_checkpoints, find_competition
from .predict import load_predictors, warn_of_unknown_scales
from .predictor import Predictor
from .provenance import (
    Stopwatch,
    describe_checkpoint,
    describe_machine,
    format_provenance,
    hash_file,
    hash_package,
    to_json,
)
from .rle import parse_runs
from .rows import Rows
from .segmenter import Segmenter
from .steady import SteadyVolume, open_steady_volumes
from .submission import read_submission, validate_submission
from .trial import Trial, bound, machine_memory, no_trial, peak_ram, run_trial

if TYPE_CHECKING:
    import pandas as pd

# Kaggle ends a notebook after 9 hours; the cells before and after the run need some of the rest.
_KAGGLE_HOURS = 8.5


@dataclass(frozen=True)
class KernelSettings:
    """What the notebook's settings cell says."""

    input_dir: Path = Path("/kaggle/input")
    submission_path: Path = Path("/kaggle/working/submission.csv")
    competition: str = "blood-vessel-segmentation"
    """Slug of the competition."""
    checkpoint_source: str = "sennet-kaggle-checkpoints"
    """Slug of the dataset or model that holds the *.safetensors files at any depth; all of them are used, averaged.
    owner/slug where inputs of several owners have that slug."""
    inference: Inference = DEFAULT_INFERENCE
    strict: bool | None = None
    """Whether a fault, such as a damaged slice, ends the run; else it costs what it touches and is listed at the
    end. None: yes at home, no on Kaggle."""
    time_budget_hours: float | None = None
    """When less is left than all that the settings ask for would take, passes are dropped. None: 8.5 on Kaggle, no
    limit at home."""


def run_kernel(settings: KernelSettings) -> None:
    """Segments every slice of every test kidney and writes the submission, and `submission.json` beside it.

    From the first second the submission has a row for every slice. Killed and called again, it goes on from the
    finished slices.

    Raises:
        InputError: the competition or the models are not attached; in a strict run, any fault. A strict run then
            leaves no submission, any other the complete one it has.
    """
    show_messages(tqdm.write)
    strict = not on_kaggle() if settings.strict is None else settings.strict
    with _none_left_by_failure(settings.submission_path) if strict else nullcontext():
        run = _Run(settings, Faults(strict))
        try:
            with run.attempt("the other GPUs", "this process does all the work"):
                run.share_out()
            run.work()
        finally:
            run.end_helpers()
        with run.watch.stage("finish"), run.attempt("the last check", "the submission is left as it is"):
            run.finish()
        run.tell()


@contextmanager
def _none_left_by_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception:
        path.unlink(missing_ok=True)
        raise


def _help(go_on: Callable[[], None], settings: KernelSettings, share: Share, started: float) -> None:
    """What another process does of a run: it leaves a journal with the rows of its share, and all that it survived."""
    show_messages(lambda _: None)  # the first process says the same
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        run = _Run(settings, Faults(strict=False, say=lambda _: None), share, started, go_on)
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
        faults: hears what goes wrong.
        share: of all slices, where other processes do the rest.
        started: when the first process began, in `time.monotonic()`; None: this is the first, and begins now.
        go_on: called whenever the run has got further.
    """

    def __init__(
        self,
        settings: KernelSettings,
        faults: Faults,
        share: Share = Share(),  # noqa: B008
        started: float | None = None,
        go_on: Callable[[], None] = lambda: None,
    ):
        self.settings, self.faults, self.inference, self.share = settings, faults, settings.inference, share
        self.go_on = go_on
        self.devices = [settings.inference.device]
        """Of all processes, in the order of their ranks."""
        self.helpers: list[Helper] = []
        """The other processes, from rank 1 on."""
        self.segmenter: Segmenter | None = None
        hours = settings.time_budget_hours
        if hours is None and on_kaggle():
            hours = _KAGGLE_HOURS
        self.budget = Budget(None if hours is None else 3600 * hours, started)
        self.watch = Stopwatch()
        self.checkpoint_paths: list[Path] = []
        self.predictors: list[Predictor] = []
        self.provenance: dict[str, Any] = {
            "package_sha256": hash_package(Path(__file__).parent),
            "settings": asdict(settings),
        }
        with self.watch.stage("rows"):
            data_dir = find_competition(settings.input_dir, settings.competition)
            self.volumes = open_steady_volumes(data_dir, faults)
            slice_ids = [slice_id for volume in self.volumes for slice_id in volume.slice_ids]
            self.rows = Rows(settings.submission_path, slice_ids, faults, self.budget.dropped, share.rank)
        warn_of_unknown_scales(self.volumes, self.inference)
        print(f"competition data: {data_dir}; {settings.submission_path} has its {len(slice_ids)} rows, all empty yet")

    @contextmanager
    def attempt(self, what: str, remedy: str) -> Iterator[None]:
        """Survives whatever fails in the block: nothing but the pixels decides how good the submission is.

        Raises:
            InputError, or the error itself: the run is strict.
        """
        try:
            yield
        except Exception as error:
            self.faults.note(what, error, remedy)

    def work(self) -> None:
        """Does this process's share and gathers those of the others; what they have not done is done here.

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
        if self.helpers:
            self.gather()
            self.segment()
        if failed:
            if not self.rows.done:
                raise failed
            self.faults.note("the first process", failed, "what the others have finished is kept")

    def share_out(self) -> None:
        """Starts a process for every GPU but the first."""
        devices = find_devices(self.inference.device)
        if len(devices) == 1:
            return
        works = []
        for rank, device in enumerate(devices[1:], 1):
            settings = replace(self.settings, inference=replace(self.inference, device=device))
            works.append((settings, Share(rank, len(devices)), self.budget.started))
        self.helpers = start_helpers(_help, works, self.faults)
        if self.helpers:
            self.devices, self.share = devices, Share(0, len(devices))
            self.inference = replace(self.inference, device=devices[0])
            print(f"the slices are shared out on {', '.join(devices)}", flush=True)

    def gather(self) -> None:
        """Waits for the other processes, and takes over what they have done."""
        shares = [{"device": self.devices[0], "rows": len(self.rows.done)}]
        with self.watch.stage("wait"):
            problems = wait_for_helpers(self.helpers, self.budget.last_call)
        for rank, problem in enumerate(problems, 1):
            shares.append({"device": self.devices[rank], "rows": self.rows.take_over(rank)})
            if problem:
                self.faults.note(f"helper {rank}", problem, "what it has not finished is done by the first process")
        self.provenance["processes"] = shares
        self.share = Share()

    def end_helpers(self) -> None:
        """Ends the processes that are still at work, since the run has failed."""
        for helper in self.helpers:
            if helper.is_running():
                helper.kill()

    def load(self) -> None:
        """Loads the models; on the CPU where the device takes none. What is only for the record may fail.

        Raises:
            InputError: there is none, or none that can be loaded.
        """
        with self.watch.stage("load"):
            paths = find_checkpoints(self.settings.input_dir, self.settings.checkpoint_source)
            with self.attempt("the journal", "a run that is killed would start from the beginning"):
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
            with self.attempt("the record of models and machine", "it is left out"):
                self.describe()

    def _load(self, paths: Sequence[Path]) -> None:
        for path in paths:
            try:
                self.predictors += load_guarded([path], self.inference, self.faults)
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
        models = [(path.name, _identify(path)) for path in checkpoint_paths]
        inputs = [(str(path), *_stamp(path)) for volume in self.volumes for path in volume.image_paths]
        inference = asdict(replace(self.settings.inference, device="auto"))  # any device will do to go on
        self.rows.resume(json.dumps([self.provenance["package_sha256"], models, inference, inputs]))
        if self.rows.finished:
            print(f"{len(self.rows.finished)} slices were finished by a run that was stopped")

    def prepare(self) -> None:
        """Measures what a pass costs, in time and memory, as far as that can be measured."""
        pending = [volume for volume in self.volumes if not self.rows.done.issuperset(volume.slice_ids)]
        if not pending:
            return
        trial = no_trial(self.predictors, self.inference)
        with self.watch.stage("try_out"):
            with self.attempt("the trial", "goes on without having measured"):
                trial = run_trial(pending, self.predictors, self.inference)
            with self.attempt("the look at the memory", "goes on without it"):
                self.check_memory(trial)

        def reload_on_cpu() -> list[Predictor]:
            return load_guarded(self.checkpoint_paths, self.inference.on_cpu(), self.faults)

        parts = (self.budget, self.rows, self.faults, reload_on_cpu, self.go_on)
        self.segmenter = Segmenter(self.predictors, self.inference, trial, *parts)

    def segment(self) -> None:
        """Segments the slices of the share that have no row yet."""
        if self.segmenter is None:
            return
        with self.watch.stage("segment"), self.attempt("the run", "what was finished until then is kept"):
            if self.inference.axes == "z":
                self.segmenter.segment(self.volumes, self.share)
            else:  # the axes of a kidney are not shared out here
                self.segmenter.segment(self.volumes[self.share.rank :: self.share.world])

    def check_memory(self, trial: Trial) -> None:
        """Looks whether the machine has the memory, and takes what needs less where it has not."""
        needed = bound(trial, self.volumes, self.inference)
        machine = machine_memory(self.predictors, self.inference, self.share.world)
        self.provenance["memory"] = {"at_most": needed._asdict(), "machine": machine._asdict()}
        print(f"memory: at most {needed}; this machine has {machine}", flush=True)
        for kind in needed.lacking(machine):
            problem = f"{kind} needs {getattr(needed, kind) / 1e9:.1f} GB, has {getattr(machine, kind) / 1e9:.1f} GB"
            if kind == "scratch":
                self.faults.note("memory", f"{problem}: choose axes z or a scratch_dir with room", "axes z instead")
                self.inference = replace(self.inference, axes="z")
            else:
                self.faults.note("memory", f"{problem}: choose a smaller batch_size", "one input at a time, axes z")
                self.inference = replace(self.inference, axes="z", batch_size=1, sw_batch_size=1)

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
        with self.attempt(record.name, "it lacks the submission's hash"):
            self.provenance["submission_sha256"] = hash_file(path)
        with self.attempt(record.name, "it is left out"):
            write_whole(record, to_json(self.provenance))
        timings = ", ".join(f"{stage} {seconds} s" for stage, seconds in self.watch.seconds.items())
        print(f"{timings}; peak RAM {peak_ram() / 1e9:.2f} GB")
        for words in self.budget.dropped:
            print(f"dropped for lack of time: {words}")
        print(self.faults)
        print(f"{path}: {len(self.rows.rles)} rows, one per test slice")


def _identify(path: Path) -> str | tuple[int, ...]:
    """The hash of a checkpoint, or what else there is to know it by."""
    try:
        return hash_file(path)
    except OSError:
        return _stamp(path)


def _stamp(path: Path) -> tuple[int, ...]:
    """By which a file is known to be the same; of one that is not there, nothing."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_size, stat.st_mtime_ns


def load_guarded(paths: Sequence[Path], inference: Inference, faults: Faults) -> list[Predictor]:
    """Loads checkpoints as `load_predictors` does; models of logits then outlive a lack of memory."""
    predictors = load_predictors(paths, inference)
    return [
        predictor
        if hasattr(predictor.model, "segment")
        else replace(predictor, model=GuardedModel(predictor.model, faults))
        for predictor in predictors
    ]


def count_vessels(settings: KernelSettings) -> "pd.DataFrame":
    """Counts what the submission says.

    Returns:
        A row per kidney: its slices, those with vessels, vessel pixels, and their share of all pixels in percent.
    """
    import pandas as pd  # the submission does not wait for it

    rles = dict(read_submission(settings.submission_path))
    rows = []
    for volume in _open(settings):
        pixels = [_count_pixels(rles[slice_id]) for slice_id in volume.slice_ids]
        area = sum(int(np.prod(volume.slice_size(z))) for z in range(len(volume)))
        rows.append((volume.name, len(volume), np.count_nonzero(pixels), sum(pixels), 100 * sum(pixels) / area))
    return pd.DataFrame(rows, columns=["kidney", "slices", "with_vessels", "vessel_px", "vessel_percent"])


def picture_of_submission(settings: KernelSettings, rows: int = 4) -> bytes:
    """Draws masks of the submission as outlines on their slices, from every kidney those with the most runs.

    Args:
        rows: how many slices, shared out among the kidneys.

    Returns:
        A PNG file's bytes.
    """
    from .report import figure_of_outlines, figure_to_png, segmented_slice  # nor for matplotlib

    rles = dict(read_submission(settings.submission_path))
    volumes = _open(settings)
    per_kidney = -(-rows // len(volumes))
    slices = []
    for volume in volumes:
        # A long text is a mask with many vessels, and need not be decoded to be found.
        fitting = [z for z in range(len(volume)) if volume.slice_size(z) == volume.size]
        busiest = sorted(fitting, key=lambda z: -len(rles[volume.slice_ids[z]]))
        for z in sorted(busiest[:per_kidney]):
            with suppress(InputError):  # a kidney without any sound slice, of which the run has spoken
                slices.append(segmented_slice(volume, z, rles))
    if not slices:
        raise InputError("no slice can be read: there is nothing to draw")
    return figure_to_png(figure_of_outlines(slices[:rows]))


def _open(settings: KernelSettings) -> list[SteadyVolume]:
    """The kidneys once more, without saying again what the run has said of them."""
    return open_steady_volumes(
        find_competition(settings.input_dir, settings.competition), Faults(strict=False, say=lambda _: None)
    )


def _count_pixels(rle: str) -> int:
    starts, ends = parse_runs(rle)
    return int((ends - starts).sum())
