"""Does a GPU give the CPU's masks, survive a lack of memory, share the work and keep up with the forward pass alone?

    python benchmarks/gpu_check.py

Made to take less than five minutes, with the shipped checkpoint on a phantom, and on slices of each kidney of
$SENNET_DATA_DIR where that is set. Prints a line per check: its name, what was expected, what was found, and ok, FAILED
or skipped. Ends with status 1 where a check has failed, with 2 where there is no GPU. `--device cpu` runs what has a
meaning there, so that the command itself can be tried.
"""

import argparse
import gc
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(Path(__file__).parent)]

from speed import forward_alone, repeated, rounds, run_prediction, shown_batches  # noqa: E402

from sennet_kaggle.config import DEFAULT_INFERENCE, Inference, Preprocessing  # noqa: E402
from sennet_kaggle.data.bits import fetch_mask  # noqa: E402
from sennet_kaggle.data.intensity import measure_intensity  # noqa: E402
from sennet_kaggle.data.phantom import Phantom, write_phantom  # noqa: E402
from sennet_kaggle.data.resizing import resize_map  # noqa: E402
from sennet_kaggle.data.transforms import image_to_tensor  # noqa: E402
from sennet_kaggle.data.volume import Volume, open_volume, open_volumes  # noqa: E402
from sennet_kaggle.errors import InputError, one_line  # noqa: E402
from sennet_kaggle.files import shipped_checkpoints  # noqa: E402
from sennet_kaggle.inference.loading import create_predictor, load_predictors, pick_device  # noqa: E402
from sennet_kaggle.inference.predict import predict_probabilities, predict_rows  # noqa: E402
from sennet_kaggle.inference.predictor import Predictor  # noqa: E402
from sennet_kaggle.kernel.dry_run import lay_out_kaggle  # noqa: E402
from sennet_kaggle.kernel.faults import Faults  # noqa: E402
from sennet_kaggle.kernel.oom_fallback import OutOfMemoryFallback, is_alive  # noqa: E402
from sennet_kaggle.kernel.settings import KernelSettings  # noqa: E402
from sennet_kaggle.kernel.submit import run_kernel  # noqa: E402
from sennet_kaggle.models import create_model  # noqa: E402
from sennet_kaggle.scoring.metrics import dice_counts, dice_from_counts  # noqa: E402
from sennet_kaggle.submission.submission import read_submission  # noqa: E402

# Least pooled Dice of the masks, and largest difference of a probability, from the CPU in float32. Of a CPU in float16
# they are 0.9997 and 0.02 at the default sizes, and less good where the masks are small.
TOLERANCES = {"float32": (0.9999, 1e-3), "float16": (0.998, 0.05)}
SPEED_BAR = 0.95
REAL_SLICES = 12  # of each kidney, at most
SMALL_ENCODER = {"image_size": 128, "embed_dim": 32, "depth": 1, "num_heads": 2, "global_attn_indexes": [0]}


class Line(NamedTuple):
    """What a check says."""

    name: str
    expected: str
    found: str
    verdict: bool | str
    """Whether it is as expected, or why it was skipped."""

    def __str__(self) -> str:
        verdict = {True: "ok", False: "FAILED"}.get(self.verdict, f"skipped ({self.verdict})")
        return f"{self.name:<38} | {self.expected:<46} | {self.found:<58} | {verdict}"


@dataclass(frozen=True)
class Bench:
    """What the checks run on."""

    device: torch.device
    folder: Path
    phantom: Volume
    count: int
    """Slices that the speed is measured on."""

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    def inference(self, precision: str = "auto", **settings) -> Inference:
        return Inference(device=str(self.device), precision=precision, **settings)

    def predictor(self, inference: Inference, region: str = "windows") -> Predictor:
        """The shipped model, over windows at full size, or over whole slices that are reduced to squares."""
        (predictor,) = load_predictors(shipped_checkpoints()[:1], inference)
        side = max(self.phantom[0].shape) * 3 // 4 // 32 * 32 if region == "whole" else predictor.preprocessing.roi_size
        return replace(predictor, preprocessing=replace(predictor.preprocessing, region=region, roi_size=side))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="cuda:N or cpu")
    parser.add_argument("--shape", type=int, nargs=3, default=(8, 1303, 912), help="D, H, W of the phantom")
    parser.add_argument("--count", type=int, default=256, help="slices that the speed is measured on")
    options = parser.parse_args(arguments)
    try:
        device = pick_device(options.device)
    except InputError as error:
        print(f"{error}: run this where there is a GPU, or try the command itself with --device cpu", file=sys.stderr)
        return 2
    torch.backends.cudnn.allow_tf32 = False  # float32 is to mean float32
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="sennet-gpu-") as folder, redirect_stderr(io.StringIO()):
        kidney_dir = write_phantom(folder, "phantom", Phantom(tuple(options.shape)), split="test", with_labels=False)
        bench = Bench(device, Path(folder), open_volume(kidney_dir), options.count)
        for line in chain.from_iterable(lines_of(check, bench) for check in CHECKS):
            print(line, flush=True)
            verdicts.append(line.verdict)
    return int(False in verdicts)


def lines_of(check: Callable[[Bench], Iterator[Line]], bench: Bench) -> Iterator[Line]:
    """What a check says; an error in it is a failure, and the other checks go on."""
    gc.collect()  # else the models of the check before may still be on the GPU
    try:
        yield from check(bench)
    except Exception as error:
        yield Line(check.__name__, "no error", f"{type(error).__name__}: {one_line(error)}", False)


def machine(bench: Bench) -> Iterator[Line]:
    name = torch.cuda.get_device_name(bench.device) if bench.is_gpu else "a CPU"
    found = f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}"
    yield Line("machine", "a device that computes with this torch", found, is_alive(bench.device))


def steps(bench: Bench) -> Iterator[Line]:
    """What is done around the model."""
    slice_, preprocessing = bench.phantom[0], Preprocessing()
    intensity = measure_intensity(bench.phantom, preprocessing)
    tensors = [image_to_tensor(slice_, preprocessing, device, intensity) for device in ("cpu", bench.device)]
    map_ = tensors[0][0].sigmoid()
    maps = [resize_map(each, *slice_.shape) for each in (map_, map_.to(bench.device))]
    for name, pair in {"slice to tensor at 512": tensors, "map to the slice's size": maps}.items():
        difference = (pair[0] - pair[1].cpu()).abs().max().item()
        yield Line(name, "the CPU's to 1e-04", f"the CPU's to {difference:.0e}", difference <= 1e-4)
    wrong = np.count_nonzero(fetch_mask(maps[1], 0.5) != (maps[1].cpu().numpy() > 0.5))
    yield Line("mask in bits", "0 pixels differ", f"{wrong} pixels differ", wrong == 0)


def masks(bench: Bench) -> Iterator[Line]:
    """Both precisions against float32 on the CPU; three axes at half size, which is an eighth of the work."""
    sources = {"phantom": [bench.phantom]}
    if data_dir := os.environ.get("SENNET_DATA_DIR"):
        real = [*open_volumes(data_dir, "train"), *open_volumes(data_dir, "test")]
        sources["real slices"] = [Volume(v.name, v.image_paths[:: -(-len(v) // REAL_SLICES)]) for v in real]
    cases = [(f"{source}, {region}", source, region, {}) for source in sources for region in ("windows", "whole")]
    cases.append(("phantom, windows, three axes", "phantom", "windows", {"axes": "zyx", "scale": 0.5}))
    for name, source, region, settings in cases:
        on_cpu = replace(bench.inference("float32", **settings), device="cpu")
        expected = probabilities(bench, on_cpu, sources[source], region)
        for precision in TOLERANCES:
            found = probabilities(bench, bench.inference(precision, **settings), sources[source], region)
            yield alike(f"{name}, {precision}", expected, found, precision)


def probabilities(bench: Bench, inference: Inference, volumes: Sequence[Volume], region: str) -> list[torch.Tensor]:
    predictors = [bench.predictor(inference, region)]
    return [map_.cpu() for volume in volumes for _, map_ in predict_probabilities(volume, predictors, inference)]


def alike(name: str, expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor], precision: str) -> Line:
    """Compares probabilities, and the masks that a threshold of 1/2 makes of them."""
    least, tolerance = TOLERANCES[precision]
    pairs = list(zip(expected, found, strict=True))
    counts = np.sum([dice_counts(*(each.numpy() > 0.5 for each in pair)) for pair in pairs], axis=0)
    dice, difference = dice_from_counts(*counts.tolist()), max((a - b).abs().max().item() for a, b in pairs)
    verdict = bool(dice >= least and difference <= tolerance and counts[0] > 0)
    wanted = f"Dice {least} or more, probability to {tolerance:g}"
    return Line(name, wanted, f"Dice {dice:.5f} of {counts[0]} pixels, probability to {difference:.1g}", verdict)


def ensemble(bench: Bench) -> Iterator[Line]:
    """Segment Anything, whose masks lie on the CPU, beside a model whose logits lie where it is."""
    inference = bench.inference()
    sam = create_predictor(create_model("sam", **SMALL_ENCODER, points_per_side=2), Preprocessing(), 0.5, inference)
    found = list(predict_probabilities(bench.phantom, [sam, bench.predictor(inference)], inference))
    places = [map_.device.type for _, map_ in found]
    expected = [bench.device.type] * len(bench.phantom)
    said = (f"{len(each)} slices on {', '.join({*each})}" for each in (expected, places))
    yield Line("Segment Anything beside another model", *said, places == expected)


class Nothing(torch.nn.Module):
    """A model that takes no memory."""

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(tensor[:, :1])


def memory(bench: Bench) -> Iterator[Line]:
    """Takes memory away until a batch does not fit, then until one input does not; the masks stay."""
    # The share of what the model takes for a batch that is left to it, and where it ends up.
    cases = {"too little for a batch": (0.4, bench.device.type), "too little for one input": (0.05, "cpu")}
    if not bench.is_gpu:
        yield from (Line(name, "the masks as before", "", "a CPU's memory is not taken away") for name in cases)
        return
    total = torch.cuda.get_device_properties(bench.device).total_memory
    inference = bench.inference("float32", sw_batch_size=4)
    predictor = bench.predictor(inference)

    def run(model: torch.nn.Module) -> tuple[list[torch.Tensor], int]:
        """The probabilities, and the most memory."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bench.device)
        maps = predict_probabilities(bench.phantom, [replace(predictor, model=model)], inference)
        return [map_.cpu() for _, map_ in maps], torch.cuda.max_memory_reserved(bench.device)

    (_, least), (expected, most) = run(Nothing()), run(predictor.model)
    for name, (share, place) in cases.items():
        faults = Faults(strict=False, say=lambda _: None)
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((least + share * (most - least)) / total, bench.device)
        try:
            found, _ = run(OutOfMemoryFallback(predictor.model, faults))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, bench.device)
        line, now = alike(name, expected, found, "float32"), next(predictor.model.parameters()).device.type
        verdict = bool(line.verdict and faults.noted and now == place)
        said = f"{line.found}, {len(faults.noted)} steps down to {now}"
        yield Line(name, f"the masks as before, steps down to {place}", said, verdict)


def notebook(bench: Bench) -> Iterator[Line]:
    """The notebook's whole run, strict: any fault is a failure."""
    lay_out_kaggle(bench.folder / "kaggle", [bench.phantom], "new", shipped_checkpoints()[:1])

    def rows(device: str) -> dict[str, str]:
        path, inference = bench.folder / "kaggle/working/submission.csv", replace(DEFAULT_INFERENCE, device=device)
        with redirect_stdout(io.StringIO()):
            run_kernel(KernelSettings(bench.folder / "kaggle/input", path, inference=inference, strict=True))
        return dict(read_submission(path))

    inference, gpus = replace(DEFAULT_INFERENCE, device=str(bench.device)), torch.cuda.device_count()
    expected = dict(predict_rows([bench.phantom], [bench.predictor(inference)], inference))
    alone = rows(inference.device)
    yield same_rows("the notebook on one device", expected, alone)
    if bench.is_gpu and gpus > 1:
        yield same_rows(f"the notebook on {gpus} GPUs", alone, rows("auto"))
    else:
        yield Line("the notebook on every GPU", "the rows of one device", "", f"{gpus} GPU(s) here, two are needed")


def same_rows(name: str, expected: dict[str, str], found: dict[str, str]) -> Line:
    same = sum(found.get(slice_id) == rle for slice_id, rle in expected.items())
    return Line(name, f"the same {len(expected)} rows", f"{same} of {len(found)} the same", expected == found)


def speed(bench: Bench) -> Iterator[Line]:
    """From files to submission.csv, against the model alone on the same batches, in turn in one process."""
    inference = bench.inference()
    predictor, volume = bench.predictor(inference), repeated(bench.phantom.image_paths, bench.count)
    run = run_prediction(volume, predictor, inference)
    run()
    batch = max(predictor.batch_sizes.values())
    yield Line("batch size", "a power of two, 16 at most", str(batch), batch in (1, 2, 4, 8, 16))
    if bench.is_gpu:
        total = torch.cuda.get_device_properties(bench.device).total_memory
        peak = torch.cuda.max_memory_allocated(bench.device)
        found = f"{peak / 1e9:.2f} of {total / 1e9:.1f} GB"
        yield Line("GPU memory at its peak", "at most three quarters", found, peak <= 0.75 * total)
    shown = shown_batches(predictor, volume)
    times = rounds({"bare": lambda: forward_alone(predictor, shown, predictor.threads), "whole": run})
    ratio = times["bare"] / times["whole"]
    bare, whole = (bench.count / seconds for seconds in times.values())
    expected = f"{SPEED_BAR:.0%} of the forward pass alone or more" if bench.is_gpu else "no bar on a CPU: see speed.py"
    found = f"{ratio:.1%}: {whole:.1f} slices/s, the forward pass alone {bare:.1f}"
    yield Line("file to csv", expected, found, not bench.is_gpu or ratio >= SPEED_BAR)


CHECKS = (machine, steps, masks, ensemble, memory, notebook, speed)

if __name__ == "__main__":
    sys.exit(main())
