"""Every fault that the kernel is to survive, injected: python tests/fault_table.py writes docs/faults.md.

tests/kernel/test_faults.py runs the same injections and compares each with its line there.
"""

import io
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import tifffile
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from sennet_kaggle.config import Inference, Preprocessing  # noqa: E402
from sennet_kaggle.data.intensity import IntensityRange  # noqa: E402
from sennet_kaggle.data.phantom import Phantom, write_phantom  # noqa: E402
from sennet_kaggle.inference import loading, predict  # noqa: E402
from sennet_kaggle.kernel import journal, memory, partial_submission, scheduler, submit, workers  # noqa: E402
from sennet_kaggle.kernel.result import count_vessels, picture_of_submission  # noqa: E402
from sennet_kaggle.kernel.settings import KernelSettings  # noqa: E402
from sennet_kaggle.kernel.submit import run_kernel  # noqa: E402
from sennet_kaggle.models import create_model  # noqa: E402
from sennet_kaggle.models.checkpoint import Card, save_checkpoint  # noqa: E402
from sennet_kaggle.models.unet import UNet  # noqa: E402
from sennet_kaggle.submission.submission import read_submission, validate_submission  # noqa: E402

TABLE_PATH = REPOSITORY / "docs" / "faults.md"
UNET = {"in_channels": 1, "widths": [4, 8], "bottleneck": 8}
BATCH_SIZE = 4
HEADER = """\
# What the kernel survives

Written by `python tests/fault_table.py`; `tests/kernel/test_faults.py` injects the same faults and compares each with
its line. The test set has kidney_5 (12 slices, 0000 to 0011) and kidney_6 (5 slices, 0005 to 0009). Two small models
are attached, each shown four slices at once; their range of grey values is fixed, for with a volume's percentiles a
damaged slice among the sixteen that are sampled moves the range a little for all. "Locally" is the run with `strict`,
which stops; "on Kaggle" is the run without, whose submission is validated. A killed run is started again, and the
line is about both.

| injected | locally | on Kaggle | rows | masks unlike those of an undisturbed run |
|---|---|---|---|---|
"""


@dataclass
class Bench:
    """A Kaggle-like tree."""

    root: Path
    settings: KernelSettings

    @property
    def test_dir(self) -> Path:
        return self.settings.input_dir / "competitions" / "blood-vessel-segmentation" / "test"

    @property
    def checkpoints_dir(self) -> Path:
        return self.settings.input_dir / "datasets" / "alice" / "sennet-kaggle-checkpoints"

    def slice_path(self, z: int) -> Path:
        return self.test_dir / "kidney_5" / "images" / f"{z:04d}.tif"

    def rewrite(self, z: int, change: Callable[[np.ndarray], np.ndarray], compression: int = 1) -> None:
        """Replaces a slice of kidney_5 by what a function makes of it."""
        slice_ = cv2.imread(str(self.slice_path(z)), cv2.IMREAD_UNCHANGED)
        assert cv2.imwrite(str(self.slice_path(z)), change(slice_), [cv2.IMWRITE_TIFF_COMPRESSION, compression])


Inject = Callable[[Bench, pytest.MonkeyPatch], None]


class Scenario(NamedTuple):
    """A fault and what must come of it."""

    injected: str
    inject: Inject
    unlike: tuple[str, ...] | None = ()
    """Ids of the masks that are to be others than without the fault; None where all may be."""
    rows: int = 17
    stops: str = ""
    """What a run on Kaggle ends with, where it ends with an error."""
    survives_at_home: bool = False
    kills: bool = False


class Outcome(NamedTuple):
    """What came of it."""

    at_home: str
    on_kaggle: str
    rows: int
    unlike: tuple[str, ...]
    error: str


def build_bench(root: Path) -> Bench:
    """Makes the undisturbed tree: two kidneys, two models."""
    bench = Bench(
        root,
        KernelSettings(
            root / "input",
            root / "working" / "submission.csv",
            inference=Inference(batch_size=BATCH_SIZE, device="cpu"),
        ),
    )
    for name, depth, first in (("kidney_5", 12, 0), ("kidney_6", 5, 5)):
        write_phantom(bench.test_dir.parent, name, Phantom((depth, 96, 64)), split="test", with_labels=False)
        for path in sorted((bench.test_dir / name / "images").iterdir(), reverse=True):
            path.rename(path.with_name(f"{int(path.stem) + first:04d}.tif"))
    bench.checkpoints_dir.mkdir(parents=True)
    bench.rewrite(3, _marked)
    slices = [cv2.imread(str(bench.slice_path(z)), cv2.IMREAD_UNCHANGED) for z in range(12)]
    preprocessing = Preprocessing(intensity="eight_bit", roi_size=64, mean=(0.0,), std=(1.0,))
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        model = create_model("unet", **UNET)
        predictor = loading.create_predictor(model, preprocessing, 0.5, bench.settings.inference)
        # Untrained models; at such a threshold a tenth of all pixels is vessel, and every change shows.
        threshold = np.quantile(predictor(slices, IntensityRange(0, 255)), 0.9).item()
        save_checkpoint(
            bench.checkpoints_dir / f"{name}.safetensors", model, Card("unet", UNET, preprocessing, threshold)
        )
    bench.settings.submission_path.parent.mkdir()
    return bench


def _marked(slice_: np.ndarray) -> np.ndarray:
    """With a nearly black corner, no padding, by which a disturbed model knows slice 3."""
    slice_[:12, :8] = 0
    slice_[:12:2, :8:2] = 256
    return slice_


def copy_bench(bench: Bench, root: Path) -> Bench:
    shutil.copytree(bench.settings.input_dir, root / "input")
    (root / "working").mkdir()
    settings = replace(bench.settings, input_dir=root / "input", submission_path=root / "working" / "submission.csv")
    return Bench(root, settings)


def run(bench: Bench, strict: bool) -> tuple[str, str]:
    """Runs the kernel and its result cell; returns the error's text ("" where there is none) and all that it said."""
    said = io.StringIO()
    settings = replace(bench.settings, strict=strict)
    with redirect_stdout(said), redirect_stderr(io.StringIO()):
        try:
            run_kernel(settings)
            if not strict:
                count_vessels(settings)
                assert picture_of_submission(settings, 1).startswith(b"\x89PNG")
        except Exception as error:
            return tidy(bench, f"{type(error).__name__}: {error}"), said.getvalue()
    return "", said.getvalue()


def run_killed(bench: Bench) -> None:
    """Runs the kernel in a process that is to be killed by what was injected."""
    process_id = os.fork()
    if process_id == 0:
        try:
            run(bench, strict=False)
        finally:
            os._exit(0)  # reached only where nothing killed it
    assert os.waitpid(process_id, 0)[1] == signal.SIGKILL


def play(scenario: Scenario, undisturbed: Bench, root: Path) -> Outcome:
    """Injects a fault into copies of the undisturbed tree, locally and on Kaggle."""
    torch.set_num_threads(1)
    at_home, disturbed = "", copy_bench(undisturbed, root / "kaggle")
    if not scenario.kills:
        home = copy_bench(undisturbed, root / "home")
        with pytest.MonkeyPatch.context() as patch:
            scenario.inject(home, patch)
            at_home, _ = run(home, strict=True)
        assert not at_home or not home.settings.submission_path.exists()
    with pytest.MonkeyPatch.context() as patch:
        scenario.inject(disturbed, patch)
        if scenario.kills:
            run_killed(disturbed)
            assert len(read_rows(disturbed)) == scenario.rows
        else:
            error, log = run(disturbed, strict=False)
    if scenario.kills:
        error, log = run(disturbed, strict=False)
    found = read_rows(disturbed)
    if found and not error:
        check_valid(disturbed)
    expected = read_rows(undisturbed)
    unlike = tuple(slice_id for slice_id in found if found[slice_id] != expected.get(slice_id))
    return Outcome(at_home, tidy(disturbed, error or summary(log)), len(found), unlike, error)


def check_valid(bench: Bench) -> None:
    """As Kaggle would, by each slice's own size; where its header is damaged, by that of its neighbours."""
    volumes = submit.open_fault_tolerant_volumes(bench.test_dir.parent, submit.Faults(strict=False))
    assert validate_submission(bench.settings.submission_path, volumes) == []


def read_rows(bench: Bench) -> dict[str, str]:
    path = bench.settings.submission_path
    return dict(read_submission(path)) if path.exists() else {}


def summary(log: str) -> str:
    """What the run said it survived, dropped or took over."""
    log = log.replace(" (more of this kind are counted at the end)", " …")
    wanted = re.findall(r"^(?:FAULT|CLOCK:) (.*)|^(\d+ slices were finished by .*)$", log, re.MULTILINE)
    return "<br>".join(a or b for a, b in wanted) or "nothing to survive"


def tidy(bench: Bench, text: str) -> str:
    """Without what differs from run to run."""
    text = text.replace(str(bench.root) + "/", "").replace("InputError: ", "").replace("OutputError: ", "")
    text = text.replace("input/competitions/blood-vessel-segmentation/", "").replace("\n", " ")
    return re.sub(r"\d+\.\d+ GB|\d\.?\d*(e-\d+)? s\b|(?<=csv\.)\d+(?=\.tmp)", "…", text)


def line(scenario: Scenario, outcome: Outcome) -> str:
    """A row of the table."""
    at_home = "killed" if scenario.kills else outcome.at_home and f"stops: {outcome.at_home}" or "as on Kaggle"
    cells = (
        scenario.injected,
        at_home,
        ("stops: " if scenario.stops else "") + outcome.on_kaggle,
        f"{outcome.rows} of {scenario.rows}",
        "may be all" if scenario.unlike is None else ", ".join(outcome.unlike) or "none",
    )
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


# What is injected, one function each.


def nothing(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    """The undisturbed run."""


def truncated(bench, patch):
    path = bench.slice_path(3)
    path.write_bytes(path.read_bytes()[:-100])


def corrupt(bench, patch):
    bench.slice_path(3).write_bytes(bytes(range(256)) * 10)


def corrupt_pixels(bench, patch):
    """A sound header, damaged deflate data."""
    bench.rewrite(3, lambda slice_: slice_, compression=8)
    content = bytearray(bench.slice_path(3).read_bytes())
    content[200:400] = bytes(200)
    bench.slice_path(3).write_bytes(content)


def empty_strip(bench, patch):
    """A sparse file: its decoder would leave those rows black."""
    with tifffile.TiffFile(bench.slice_path(3), mode="r+b") as tiff:
        tag = tiff.pages[0].tags["StripByteCounts"]
        tag.overwrite((0, *tag.value[1:]))


def stack(bench, patch):
    """All of ImageJ's hyperstack in one page."""
    slice_ = cv2.imread(str(bench.slice_path(3)), cv2.IMREAD_UNCHANGED)
    tifffile.imwrite(bench.slice_path(3), slice_, photometric=1, metadata=None, description="ImageJ=1\nimages=3\n")
    with open(bench.slice_path(3), "ab") as file:
        file.write(2 * slice_.tobytes())


def hidden(bench, patch):
    """What systems, archives and notebooks leave behind."""
    bench.slice_path(3).with_name("._0003.tif").write_bytes(b"\0\5\x16\7")
    bench.slice_path(3).with_name("0012.tif").mkdir()
    for name in (".ipynb_checkpoints", "__MACOSX"):
        shutil.copytree(bench.test_dir / "kidney_6", bench.test_dir / name)


def all_corrupt(bench, patch):
    for path in (bench.test_dir / "kidney_6" / "images").iterdir():
        path.write_bytes(b"II*\0")


def another_size(bench, patch):
    bench.rewrite(3, lambda slice_: np.ascontiguousarray(slice_[:80, :50]))


def another_depth(bench, patch):
    bench.rewrite(3, lambda slice_: (slice_ >> 8).astype(np.uint8))


def coloured(bench, patch):
    bench.rewrite(3, lambda slice_: np.stack([slice_, slice_ // 2, slice_], axis=-1))


def _on_slice_3(bench: Bench, patch: pytest.MonkeyPatch, happen: Callable) -> None:
    """Lets something happen whenever a model is shown slice 3."""
    forward = UNet.forward

    def disturbed(self, tensor):
        marked = tensor[..., :4, :4].amax((1, 2, 3)) < 0.01
        return happen(forward(self, tensor), marked) if marked.any() else forward(self, tensor)

    patch.setattr(UNet, "forward", disturbed)


def nan_logits(bench, patch):
    _on_slice_3(bench, patch, lambda logits, marked: torch.where(marked.view(-1, 1, 1, 1), torch.nan, logits))


def nan_in_half_precision(bench, patch):
    forward = UNet.forward

    def disturbed(self, tensor):
        logits = forward(self, tensor)
        return logits * torch.nan if torch.is_autocast_enabled("cpu") else logits

    patch.setattr(UNet, "forward", disturbed)
    bench.settings = replace(bench.settings, inference=replace(bench.settings.inference, precision="bfloat16"))


def raises(bench, patch):
    def happen(logits, marked):
        raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")

    _on_slice_3(bench, patch, happen)


def no_memory_for_four(bench, patch):
    forward = UNet.forward

    def disturbed(self, tensor):
        if len(tensor) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return forward(self, tensor)

    patch.setattr(UNet, "forward", disturbed)


def no_memory_on_the_gpu(bench, patch):
    """The tensors say that they lie on a GPU, which has no memory; the CPU has."""
    forward, on_cpu = UNet.forward, set()

    def disturbed(self, tensor):
        if id(self) not in on_cpu:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return forward(self, tensor)

    patch.setattr(UNet, "forward", disturbed)
    patch.setattr(UNet, "cpu", lambda self: on_cpu.add(id(self)))
    patch.setattr(torch.Tensor, "is_cuda", property(lambda self: True))
    patch.setattr(torch.cuda, "empty_cache", lambda: None)


def no_memory_at_all(bench, patch):
    def happen(logits, marked):
        raise MemoryError

    _on_slice_3(bench, patch, happen)


def _broken_until_reloaded(patch: pytest.MonkeyPatch, words: str) -> list[bool]:
    """Lets every model raise once it is loaded, except in float32; returns whether they do, as a list's one item."""
    forward, load, broken = UNet.forward, submit.load_with_fallback, [False]

    def disturbed(self, tensor):
        if broken[0]:
            raise RuntimeError(words)
        return forward(self, tensor)

    def reload(paths, inference, faults):
        broken[0] = inference.precision != "float32"
        return load(paths, inference, faults)

    patch.setattr(UNet, "forward", disturbed)
    patch.setattr(submit, "load_with_fallback", reload)
    return broken


def dead_gpu(bench, patch):
    """Nothing works on the device until the models are loaded again."""
    dead = _broken_until_reloaded(patch, "CUDA error: an illegal memory access was encountered")
    patch.setattr(scheduler, "is_alive", lambda device: not dead[0])


def broken_library(bench, patch):
    """Whatever is shown to a model raises, though the device still adds 1 + 1; in float32 on the CPU nothing does."""
    _broken_until_reloaded(patch, "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")


def broken_library_everywhere(bench, patch):
    def fail(self, tensor):
        raise RuntimeError("a bug")

    patch.setattr(UNet, "forward", fail)


def no_model_on_the_gpu(bench, patch):
    load = submit.load_with_fallback

    def disturbed(paths, inference, faults):
        if inference.device != "cpu":
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
        return load(paths, inference, faults)

    patch.setattr(submit, "load_with_fallback", disturbed)
    bench.settings = replace(bench.settings, inference=replace(bench.settings.inference, device="auto"))


def two_processes(bench, patch):
    """Two on the CPU in the place of two GPUs, and forked, so that what is injected is injected into both."""
    patch.setattr(submit, "find_devices", lambda device: ["cpu", "cpu:0"])
    patch.setattr(workers, "_START_METHOD", "fork")


def _in_one_of_two(patch: pytest.MonkeyPatch, owner: object, name: str, is_first: bool, happen: Callable) -> None:
    """Lets something happen before each call of a function, in the first of two processes or in the other."""
    original, first = getattr(owner, name), os.getpid()

    def disturbed(*arguments, **keywords):
        if (os.getpid() == first) == is_first:
            happen()
        return original(*arguments, **keywords)

    patch.setattr(owner, name, disturbed)


def _fail() -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def fault_in_the_second(bench, patch):
    two_processes(bench, patch)
    path = bench.slice_path(10)
    path.write_bytes(path.read_bytes()[:-100])


def first_without_models(bench, patch):
    two_processes(bench, patch)
    _in_one_of_two(patch, submit, "load_with_fallback", True, _fail)


def second_without_models(bench, patch):
    two_processes(bench, patch)
    _in_one_of_two(patch, submit, "load_with_fallback", False, _fail)


def second_without_cost_probe(bench, patch):
    two_processes(bench, patch)
    _in_one_of_two(patch, submit, "probe_costs", False, _fail)


def second_killed(bench, patch):
    two_processes(bench, patch)
    done = []

    def happen():
        done.append(1)
        if len(done) == 4:
            _kill()

    _in_one_of_two(patch, partial_submission.PartialSubmission, "add", False, happen)


def second_without_room(bench, patch):
    """The second one's journal is on a full disk: what it does would be lost."""
    two_processes(bench, patch)
    journal_path = bench.settings.submission_path.with_name("submission.csv.1.journal")
    _in_one_of_two(
        patch, partial_submission.PartialSubmission, "resume", False, lambda: journal_path.symlink_to("/dev/full")
    )


def third_cannot_start(bench, patch):
    patch.setattr(submit, "find_devices", lambda device: ["cpu"] * 3)
    patch.setattr(workers, "_START_METHOD", "fork")

    def fail():
        raise OSError(11, "Resource temporarily unavailable")

    _at(patch, workers, "Worker", 2, fail)


def killed_between_two(bench, patch):
    """The first of two processes, once the second has done its shard; then started on a machine of one GPU."""
    first = os.getpid()

    def find(device):
        return [device] if os.getpid() == first else ["cpu", "cpu:0"]  # the run that is killed is a fork

    patch.setattr(submit, "find_devices", find)
    patch.setattr(workers, "_START_METHOD", "fork")
    _at(patch, partial_submission.PartialSubmission, "take_over", 1, _kill)


def no_optional_model(bench, patch):
    path = bench.checkpoints_dir / "b.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def no_model(bench, patch):
    shutil.rmtree(bench.checkpoints_dir)


def no_competition(bench, patch):
    shutil.rmtree(bench.test_dir.parent)


def empty_volume(bench, patch):
    (bench.test_dir / "kidney_7" / "images").mkdir(parents=True)


def one_slice(bench, patch):
    for path in sorted((bench.test_dir / "kidney_5" / "images").iterdir())[1:]:
        path.unlink()


def eight_bit(bench, patch):
    for z in range(12):
        bench.rewrite(z, lambda slice_: (slice_ >> 8).astype(np.uint8))


def rgb(bench, patch):
    for z in range(12):
        bench.rewrite(z, lambda slice_: np.repeat(slice_[..., None], 3, axis=-1))


def lzw(bench, patch):
    for z in range(12):
        bench.rewrite(z, lambda slice_: slice_, compression=5)


def twins(bench, patch):
    shutil.copy(bench.slice_path(4), bench.slice_path(3).with_suffix(".tiff"))


def words(bench, patch):
    bench.slice_path(3).rename(bench.slice_path(3).with_stem("left, upper half"))


def _at(patch: pytest.MonkeyPatch, owner: object, name: str, call: int, happen: Callable[[], None]) -> None:
    """Lets something happen just before the n-th call of a function."""
    original, calls = getattr(owner, name), [0]

    def disturbed(*arguments, **keywords):
        calls[0] += 1
        if calls[0] == call:
            happen()
        return original(*arguments, **keywords)

    patch.setattr(owner, name, disturbed)


def full_disk_in_the_middle(bench, patch):
    """A journal whose disk is full, truly: /dev/full takes no byte."""
    journal_path = bench.settings.submission_path.with_name("submission.csv.journal")
    _at(patch, partial_submission.PartialSubmission, "resume", 1, lambda: journal_path.symlink_to("/dev/full"))


def full_disk_at_the_end(bench, patch):
    """No room for the last submission until the journal is gone."""
    path = bench.settings.submission_path
    temporary_path = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _at(patch, partial_submission, "write_submission", 2, lambda: temporary_path.symlink_to("/dev/full"))


def full_disk_for_good(bench, patch):
    path = bench.settings.submission_path
    temporary_path = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    for call in (2, 3):
        _at(patch, partial_submission, "write_submission", call, lambda: temporary_path.symlink_to("/dev/full"))


def no_scratch(bench, patch):
    full = shutil.disk_usage("/")._replace(free=1000)
    patch.setattr(memory.shutil, "disk_usage", lambda path: full)
    bench.settings = replace(bench.settings, inference=replace(bench.settings.inference, axes="zyx"))


def scratch_fills_up(bench, patch):
    """Room at the start, none when the kidney's turn comes."""

    def happen():
        raise OSError(28, "No space left on device")

    _at(patch, predict, "mean_over_axes", 1, happen)
    bench.settings = replace(bench.settings, inference=replace(bench.settings.inference, axes="zyx"))


def no_folder(bench, patch):
    shutil.rmtree(bench.settings.submission_path.parent)


def read_only(bench, patch):
    """A folder in which no file can be made, even by root."""
    bench.settings = replace(bench.settings, submission_path=Path("/proc/submission.csv"))


def no_time(bench, patch):
    bench.settings = replace(bench.settings, time_budget_hours=1e-9)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at_the_start(bench, patch):
    _at(patch, submit, "load_with_fallback", 1, _kill)


def no_scratch_folder(bench, patch):
    inference = replace(bench.settings.inference, axes="zyx", scratch_dir=str(bench.root / "missing"))
    bench.settings = replace(bench.settings, inference=inference)


def no_hash(bench, patch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    patch.setattr(submit, "describe_checkpoint", fail)
    patch.setattr(submit, "hash_file", fail)
    patch.setattr(journal, "hash_file", fail)


def no_memory_to_be_told(bench, patch):
    """As a GPU that dies in the cost probe: the next question about it raises the probe's error."""

    def fail(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    patch.setattr(submit, "machine_memory", fail)


def no_processes(bench, patch):
    def fail(*_):
        raise RuntimeError("can't start new process")

    patch.setattr(submit, "find_devices", fail)


def no_check(bench, patch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    patch.setattr(submit, "validate_submission", fail)


def killed_in_the_middle(bench, patch):
    _at(patch, partial_submission.PartialSubmission, "add", 8, _kill)


def killed_while_writing(bench, patch):
    """Between the last submission's last row and its taking the place of the first."""
    _at(patch, os, "replace", 2, _kill)


def killed_half_a_line(bench, patch):
    """In the middle of a line of the journal."""
    journal_path = bench.settings.submission_path.with_name("submission.csv.journal")

    def happen():
        journal_path.write_bytes(journal_path.read_bytes()[:-20])
        _kill()

    _at(patch, partial_submission.PartialSubmission, "add", 8, happen)


_THREE = ("kidney_5_0003",)
SCENARIOS = {
    "nothing": Scenario("nothing; kidney_6's ids do not start at 0000", nothing, survives_at_home=True),
    "truncated": Scenario("a truncated slice", truncated, _THREE),
    "corrupt": Scenario("a slice that is no TIFF", corrupt, _THREE),
    "corrupt-pixels": Scenario("a slice whose pixels cannot be unpacked", corrupt_pixels, _THREE),
    "empty-strip": Scenario("a slice with a strip of no length", empty_strip, _THREE),
    "stack": Scenario("a stack of ImageJ in place of a slice", stack, _THREE),
    "hidden": Scenario("hidden files and folders beside slices and kidneys", hidden, survives_at_home=True),
    "all-corrupt": Scenario("a kidney of which no slice can be read", all_corrupt, unlike=None),
    "another-size": Scenario("a slice of another size", another_size, _THREE),
    "another-depth": Scenario("an 8-bit slice among 16-bit ones", another_depth),
    "coloured": Scenario("a coloured slice", coloured, _THREE),
    "nan": Scenario("a NaN in the logits of one slice", nan_logits, _THREE),
    "nan-half": Scenario("a NaN in all logits of half precision", nan_in_half_precision),
    "raises": Scenario("an error of the GPU's library at one slice", raises, _THREE),
    "memory-batch": Scenario("no memory for more than one slice at once", no_memory_for_four),
    "memory-gpu": Scenario("no memory on the GPU, not even for one slice", no_memory_on_the_gpu),
    "memory-none": Scenario("no memory at all for one slice", no_memory_at_all, _THREE),
    "dead-gpu": Scenario("a GPU that stops answering", dead_gpu),
    "broken-library": Scenario("an error of the GPU's library at every slice", broken_library),
    "broken-everywhere": Scenario("an error at every slice, on the CPU too", broken_library_everywhere, unlike=None),
    "no-model-on-gpu": Scenario("no model that can be loaded on the GPU", no_model_on_the_gpu),
    "optional-model": Scenario("a truncated checkpoint beside a sound one", no_optional_model, unlike=None),
    "no-model": Scenario("no checkpoint attached", no_model, unlike=None, stops="no *.safetensors"),
    "no-competition": Scenario("competition not attached", no_competition, rows=0, stops="is not attached"),
    "empty": Scenario("a further kidney without slices", empty_volume),
    "one-slice": Scenario("a kidney of one slice", one_slice, rows=6, unlike=None, survives_at_home=True),
    "8-bit": Scenario("a kidney of 8-bit slices", eight_bit, survives_at_home=True),
    "rgb": Scenario("a kidney of RGB slices, red = green = blue", rgb, survives_at_home=True),
    "lzw": Scenario("a kidney of LZW-compressed slices", lzw, survives_at_home=True),
    "twins": Scenario("two slices of one stem, 0003.tif and 0003.tiff", twins),
    "words": Scenario(
        "a stem that is no number: `left, upper half`", words, unlike=None, survives_at_home=True
    ),
    "disk-journal": Scenario("a full disk from the middle on", full_disk_in_the_middle),
    "disk-end": Scenario("a full disk at the last write", full_disk_at_the_end),
    "disk-for-good": Scenario("a full disk at the last write, the journal gone too", full_disk_for_good, unlike=None),
    "scratch": Scenario("too little scratch disk for three axes", no_scratch),
    "scratch-later": Scenario("a scratch disk that fills up before kidney_5", scratch_fills_up, unlike=None),
    "scratch-missing": Scenario("a scratch folder that does not exist, for three axes", no_scratch_folder),
    "no-hash": Scenario("a checkpoint that cannot be read a second time, for its hash", no_hash),
    "no-memory-info": Scenario("an error where the memory is measured", no_memory_to_be_told),
    "no-processes": Scenario("an error where the work is distributed over GPUs", no_processes),
    "no-check": Scenario("an error where the finished submission is checked", no_check),
    "two": Scenario("nothing, in two processes", two_processes, survives_at_home=True),
    "two-fault": Scenario(
        "two processes: a truncated slice in the second's shard", fault_in_the_second, ("kidney_5_0010",)
    ),
    "two-first": Scenario("two processes: the first can load no model", first_without_models, unlike=None),
    "two-second": Scenario("two processes: the second can load no model", second_without_models),
    "two-probe": Scenario("two processes: an error in the second's cost probe", second_without_cost_probe),
    "two-killed": Scenario("two processes: the second is killed at its fourth slice", second_killed),
    "two-room": Scenario("two processes: no room for the second's journal", second_without_room),
    "three": Scenario("three processes, the third of which cannot be started", third_cannot_start),
    "no-folder": Scenario("no working folder", no_folder, rows=0, stops="there is no folder working"),
    "read-only": Scenario("a read-only working folder", read_only, rows=0, stops="cannot write /proc/submission.csv"),
    "no-time": Scenario("a time budget of no time at all", no_time, unlike=None),
    "killed-start": Scenario("`kill -9` before the models are loaded", killed_at_the_start, kills=True),
    "killed-middle": Scenario("`kill -9` at the eighth slice", killed_in_the_middle, kills=True),
    "killed-line": Scenario("`kill -9` within a line of the journal", killed_half_a_line, kills=True),
    "killed-two": Scenario(
        "`kill -9` of the first of two processes, both done; started again as one", killed_between_two, kills=True
    ),
    "killed-end": Scenario("`kill -9` while the submission is replaced", killed_while_writing, kills=True),
}  # fmt: skip


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = build_bench(Path(folder) / "undisturbed")
        error, log = run(undisturbed, strict=False)
        assert not error, error + log
        lines = []
        for name, scenario in SCENARIOS.items():
            if names and name not in names:
                continue
            lines.append(line(scenario, play(scenario, undisturbed, Path(folder) / name)))
            print(lines[-1], flush=True)
    if not names:
        TABLE_PATH.write_text(HEADER + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
