"""Speed and memory of a prediction, end to end, against the forward pass alone and the baseline of the report.

    python benchmarks/speed.py [SECTION ...]

Sections: models, precision, host, parts, scaling, memory, start (default: all, some minutes). Prints Markdown tables.
Slices are the real ones of $SENNET_DATA_DIR (default ../shared/data) again and again, or a phantom's. Contenders take
turns and the median of the rounds counts; all share a process but the baseline of the report (report_baseline.py) and
memory, which is measured in a process per contender. Where other work shares the machine, threads wait for one another
and the clock says little: run it with OMP_NUM_THREADS=1 and read the column "on the cores".
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from sennet_kaggle.config import Inference, Preprocessing  # noqa: E402
from sennet_kaggle.data.intensity import measure_intensity  # noqa: E402
from sennet_kaggle.data.phantom import Phantom, write_phantom  # noqa: E402
from sennet_kaggle.data.transforms import image_to_tensor  # noqa: E402
from sennet_kaggle.data.volume import Volume, find_volumes, open_volumes  # noqa: E402
from sennet_kaggle.files import shipped_checkpoints  # noqa: E402
from sennet_kaggle.inference.batching import compute_in_threads  # noqa: E402
from sennet_kaggle.inference.loading import create_predictor  # noqa: E402
from sennet_kaggle.inference.predict import predict_masks, predict_rows  # noqa: E402
from sennet_kaggle.inference.predictor import Predictor  # noqa: E402
from sennet_kaggle.models import create_model  # noqa: E402
from sennet_kaggle.models.checkpoint import load_checkpoint  # noqa: E402
from sennet_kaggle.scoring.metrics import dice_counts, dice_from_counts, surface_dice_of_slices  # noqa: E402
from sennet_kaggle.submission.rle import rle_encode  # noqa: E402
from sennet_kaggle.submission.submission import write_submission  # noqa: E402

DATA_DIR = Path(os.environ.get("SENNET_DATA_DIR", REPOSITORY.parent / "shared" / "data"))
WHOLE = Preprocessing()
# Name, arguments, preprocessing, slices per round: the report's U-Net takes seconds for one on a CPU.
MODELS = {
    "SegFormer-B0 at 512": ("segformer", {"variant": "b0"}, WHOLE, 32),
    "the report's U-Net at 512": ("unet", {}, WHOLE, 2),
    "the shipped model": (None, None, None, 8),
}
HAS_BFLOAT16 = torch.cpu._is_avx512_bf16_supported()
OPTIONS = {"ours": Inference()}
REDUCED = [Inference(precision="float16"), Inference(precision="bfloat16")]
if HAS_BFLOAT16 and not torch.cuda.is_available():
    OPTIONS["ours, in bfloat16"] = Inference(precision="bfloat16")
if find_spec("openvino"):
    OPTIONS["ours, OpenVINO"] = Inference(backend="openvino", device="cpu")
    REDUCED.append(Inference(precision="bfloat16", backend="openvino", device="cpu"))
    if HAS_BFLOAT16:
        OPTIONS["ours, OpenVINO in bfloat16"] = REDUCED[-1]
BARE = "forward pass alone"
ROUNDS = 3
CPU_SECONDS: dict[str, float] = {}
SCRATCH = tempfile.TemporaryDirectory(prefix="sennet-speed-")


def main() -> None:
    if sys.argv[1:2] == ["measure"]:
        print(measure_memory(*sys.argv[2:]))
        return
    sections = {section.__name__: section for section in (models, precision, host, parts, scaling, memory, start)}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{device}; bfloat16 in hardware: {HAS_BFLOAT16}; load {os.getloadavg()[0]:.1f}")
    for name in sys.argv[1:] or sections:
        print(f"\n## {name}\n", flush=True)
        sections[name]()


def models() -> None:
    """Slices per second of each model each way, and relative to the forward pass alone and to the baseline."""
    print("| | ms per slice | on the cores | slices per s | against the forward pass alone | against the baseline |")
    print("|---|---|---|---|---|---|")
    for name, (_, _, _, count) in MODELS.items():
        predictor = build(name, Inference())
        shown = shown_batches(predictor, slices(count))
        contenders = {
            BARE: partial(forward_alone, predictor, shown, 1),
            **{what: end_to_end(build(name, inference), count, inference) for what, inference in OPTIONS.items()},
        }
        if predictor.threads > 1:
            contenders[f"{BARE}, one input per core"] = partial(forward_alone, predictor, shown, predictor.threads)
        if predictor.preprocessing.region == "whole":
            contenders["the baseline of the report"] = ReportBaseline(name, count)
        times, cpu = rounds(contenders), CPU_SECONDS
        bare, report = times[BARE], times.get("the baseline of the report")
        for what, seconds in times.items():
            ratio = f"{report / seconds:.2f}" if report else ""
            print(
                f"| {name}, {what} | {1000 * seconds / count:.1f} | {1000 * cpu[what] / count:.1f} "
                f"| {count / seconds:.2f} | {bare / seconds:.1%} "
                f"| {ratio} |",
                flush=True,
            )


def precision() -> None:
    """The shipped checkpoint's masks in reduced precision against those in float32, on all slices, in one view."""

    def masks(inference: Inference) -> list[np.ndarray]:
        predictors = [build("the shipped model", inference)]
        return [mask for volume in volumes() for _, mask in predict_masks(volume, predictors, inference)]

    print("| | Dice, pooled | Dice, least of a slice |\n|---|---|---|")
    plain = masks(Inference(precision="float32"))
    for inference in REDUCED:
        counts = np.array([dice_counts(*pair) for pair in zip(plain, masks(inference), strict=True)])
        pooled, least = dice_from_counts(*counts.sum(0)), min(dice_from_counts(*row) for row in counts)
        print(f"| {inference.precision}, {inference.backend} | {pooled:.5f} | {least:.5f} |", flush=True)


def host() -> None:
    """Everything but the model: one that answers at once, with the vessels of a label, on 32 slices."""
    volume, inference = slices(32), Inference(device="cpu")

    class Known(torch.nn.Module):
        logits = torch.from_numpy(cv2.resize(volume_mask().astype(np.float32), (512, 512)))[None, None] * 20 - 10

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.logits

    predictor = create_predictor(Known(), WHOLE, 0.5, inference)
    run = run_prediction(volume, predictor, inference)
    seconds = rounds({"host": run}, 9)["host"]
    cpu = CPU_SECONDS["host"]
    print("| host work outside the model, 512 | ms per slice |\n|---|---|")
    print(f"| by the clock | {1000 * seconds / 32:.2f} |\n| on the cores | {1000 * cpu / 32:.2f} |")


def parts() -> None:
    """Single steps against the least that they could cost."""
    volume = slices(8)
    grey, mask = volume[0], volume_mask()
    probability = np.random.default_rng(0).random((512, 512), dtype=np.float32)
    times = rounds(
        {
            "raw read() of a slice": lambda: volume.image_paths[0].read_bytes(),
            "read_grey": lambda: volume[0],
            "one pass over a slice (sum)": lambda: grey.sum(),
            "slice → tensor 512 x 512": lambda: image_to_tensor(grey, WHOLE, intensity=measure_intensity_once()),
            "probability → the slice's size": lambda: cv2.resize(probability, grey.shape[::-1]),
            "one pass over a mask": lambda: np.count_nonzero(mask),
            "RLE": lambda: rle_encode(mask),
            "Surface Dice of two slices": lambda: surface_dice_of_slices([mask, mask], [mask, mask]),
        },
        count=9,
    )
    print("| step | ms |\n|---|---|")
    for what, seconds in times.items():
        print(f"| {what} | {1000 * seconds:.3f} |")


def scaling() -> None:
    """Ten times the slices, ten times the time."""
    name, inference = "SegFormer-B0 at 512", Inference()
    predictor = build(name, inference)
    few, many = (run_prediction(slices(count), predictor, inference) for count in (6, 60))
    times = rounds({"6 slices": few, "60 slices": many})
    print("| | seconds |\n|---|---|")
    print(*(f"| {what} | {seconds:.2f} |" for what, seconds in times.items()), sep="\n")
    print(f"| the second over the first | {times['60 slices'] / times['6 slices']:.2f} |")


def memory() -> None:
    """Peak memory of a process beyond one that has only loaded the model, by slices."""
    print("| | peak RSS, MiB | more than the model alone, MiB |\n|---|---|---|")
    alone = child("0", "ours")
    print(f"| SegFormer-B0 loaded | {alone:.0f} | |")
    for count in ("32", "253", "1012"):
        peak = child(count, "tiny" if count != "32" else "ours")
        what = "SegFormer-B0" if count == "32" else "a U-Net of 8 channels"
        print(f"| {what}, {count} slices at 512 | {peak:.0f} | {peak - alone:.0f} |", flush=True)


def start() -> None:
    """Seconds until a process has started."""
    programs = {
        "python": "pass",
        "import sennet_kaggle": "import sennet_kaggle",
        "--help": "import sys; from sennet_kaggle.__main__ import main; sys.argv[1:] = ['--help']\ntry: main()\n"
        "except SystemExit: pass",
        "import torch": "import torch",
        "import sennet_kaggle.kernel.submit": "import sennet_kaggle.kernel.submit",
    }

    def run(program: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, check=True)

    print("| start-up | seconds |\n|---|---|")
    for what, seconds in rounds({what: run(program) for what, program in programs.items()}, 1).items():
        print(f"| {what} | {seconds:.2f} |")


def build(name: str, inference: Inference) -> Predictor:
    model_name, arguments, preprocessing, _ = MODELS[name]
    if model_name is None:
        model, card = load_checkpoint(shipped_checkpoints()[0])
        return create_predictor(model, card.preprocessing, card.threshold, inference)
    torch.manual_seed(0)
    return create_predictor(create_model(model_name, **arguments), preprocessing, 0.5, inference)


@cache
def volumes() -> list[Volume]:
    if DATA_DIR.is_dir():
        return [*open_volumes(DATA_DIR, "train"), *open_volumes(DATA_DIR, "test")]
    folder = new_folder()
    write_phantom(folder, "phantom", Phantom((8, 1303, 912)), split="test", with_labels=False)
    return find_volumes(folder)


def new_folder() -> Path:
    return Path(tempfile.mkdtemp(dir=SCRATCH.name))


def slices(count: int) -> Volume:
    """A kidney of so many slices, of those that there are."""
    return repeated([path for volume in volumes() for path in volume.image_paths], count)


def repeated(sources: Sequence[Path], count: int) -> Volume:
    """A kidney of so many slices: these again and again, under names of their own."""
    folder, paths = new_folder(), []
    for z, path in enumerate(islice(cycle(sources), count)):
        paths.append(folder / f"{z:04d}.tif")
        paths[-1].symlink_to(path)
    return Volume("kidney", tuple(paths))


@cache
def measure_intensity_once():
    return measure_intensity(slices(1), WHOLE)


def volume_mask() -> np.ndarray:
    if DATA_DIR.is_dir():
        return open_volumes(DATA_DIR, "train")[0].label(5)
    return np.random.default_rng(0).random((1303, 912)) > 0.99


def run_prediction(volume: Volume, predictor: Predictor, inference: Inference) -> Callable[[], object]:
    """From the files of a kidney to submission.csv."""
    path = new_folder() / "submission.csv"
    return lambda: write_submission(path, predict_rows([volume], [predictor], inference))


def end_to_end(predictor: Predictor, count: int, inference: Inference) -> Callable[[], object]:
    return run_prediction(slices(count), predictor, inference)


def shown_batches(predictor: Predictor, volume: Volume) -> list[torch.Tensor]:
    """The very batches that the model is shown of a kidney."""
    shown = []
    hook = predictor.model.register_forward_pre_hook(lambda _, arguments: shown.append(arguments[0].clone()))
    list(predictor.score(volume, measure_intensity(volume, predictor.preprocessing), Inference()))
    hook.remove()
    return shown


def forward_alone(predictor: Predictor, batches: list[torch.Tensor], threads: int) -> None:
    """The model alone, on so many batches at once."""
    device = predictor.device.type

    def run(batch: torch.Tensor) -> None:
        with torch.inference_mode(), torch.autocast(device, predictor.dtype, predictor.dtype != torch.float32):
            predictor.model(batch)

    for _ in compute_in_threads(run, batches, threads):
        pass
    if device == "cuda":
        torch.cuda.synchronize()


class ReportBaseline:
    """Runs the baseline of the report once per call, in its own process."""

    seconds_elsewhere = 0.0
    """CPU time that the last call took there."""

    def __init__(self, name: str, count: int):
        model_name, arguments, _, _ = MODELS[name]
        program = Path(__file__).with_name("report_baseline.py")
        command = [sys.executable, program, model_name, json.dumps(arguments), *slices(count).image_paths]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self) -> None:
        print(file=self.process.stdin, flush=True)
        self.seconds_elsewhere = float(self.process.stdout.readline())


def rounds(contenders: dict[str, Callable[[], object]], count: int = ROUNDS) -> dict[str, float]:
    """Median seconds, taken in turns, after a round that is not counted. Those on the cores go to CPU_SECONDS."""
    seconds = {what: [] for what in contenders}
    for round_ in range(count + 1):
        for what, run in contenders.items():
            started = time.perf_counter(), time.process_time()
            run()
            clock = time.perf_counter() - started[0]
            if round_:
                cpu = time.process_time() - started[1] + getattr(run, "seconds_elsewhere", 0)
                seconds[what].append((clock, cpu))
    medians = {what: np.median(each, axis=0).tolist() for what, each in seconds.items()}
    CPU_SECONDS.update({what: cpu for what, (_, cpu) in medians.items()})
    return {what: clock for what, (clock, _) in medians.items()}


def child(*arguments: str) -> float:
    command = [sys.executable, __file__, "measure", *arguments]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure_memory(count: str, which: str) -> float:
    """Peak RSS in MiB of this process after so many slices."""
    predictor = build("SegFormer-B0 at 512", Inference())
    if which == "tiny":
        predictor = create_predictor(create_model("unet", widths=[8], bottleneck=8), WHOLE, 0.5, Inference())
    if int(count):
        end_to_end(predictor, int(count), Inference())()
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return next(int(words[1]) for words in lines if words and words[0] == "VmHWM:") / 1024  # ru_maxrss is the parent's


if __name__ == "__main__":
    main()
