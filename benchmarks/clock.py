"""The kernel against the clock, in real time: with a third more than it needs nothing is dropped, with a third less all
slices are segmented in time.

    python benchmarks/clock.py [--processes 1 2] [--batch-sizes 1 4 16] [--log]

Two phantom kidneys (48 and 24 slices of 384x320) go through the kernel with a small U-Net and four views, first without
a limit, then with 1.3 and 0.7 times the seconds that this took, for models of whole slices and of windows. Prints a
Markdown table; with --log also what each run said. Two processes stand for two GPUs, on the CPU.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import torch  # noqa: E402

from sennet_kaggle.config import Inference, Preprocessing  # noqa: E402
from sennet_kaggle.data.phantom import Phantom, write_phantom  # noqa: E402
from sennet_kaggle.kernel import submit  # noqa: E402
from sennet_kaggle.kernel.settings import KernelSettings  # noqa: E402
from sennet_kaggle.kernel.submit import run_kernel  # noqa: E402
from sennet_kaggle.models import create_model  # noqa: E402
from sennet_kaggle.models.checkpoint import Card, save_checkpoint  # noqa: E402

UNET = {"in_channels": 1, "widths": [8, 16], "bottleneck": 32}
ROI_SIZES = {"whole": 256, "windows": 128}
COLUMNS = (
    "processes", "model of", "batch", "needed, s", "1.3 times, s", "dropped", "0.7 times, s", "dropped", "left empty"
)  # fmt: skip
DEPTHS = {"kidney_5": 48, "kidney_6": 24}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--log", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        test_dir = Path(folder, "input", "competitions", KernelSettings().competition)
        for name, depth in DEPTHS.items():
            write_phantom(test_dir, name, Phantom((depth, 384, 320)), split="test", with_labels=False)
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        for processes in arguments.processes:
            submit.find_devices = lambda _, count=processes: [f"cpu:{rank}" if rank else "cpu" for rank in range(count)]
            for region, roi_size in ROI_SIZES.items():
                attach_model(Path(folder), region, roi_size)
                for batch_size in arguments.batch_sizes:
                    row = [processes, region, batch_size, *measure(Path(folder), batch_size, arguments.log)]
                    print(f"| {' | '.join(map(str, row))} |", flush=True)


def attach_model(folder: Path, region: str, roi_size: int) -> None:
    path = folder / "input" / KernelSettings().checkpoint_source / "small.safetensors"
    path.parent.mkdir(exist_ok=True)
    torch.manual_seed(0)
    preprocessing = Preprocessing(region=region, roi_size=roi_size, mean=(0.0,), std=(1.0,))
    save_checkpoint(path, create_model("unet", **UNET), Card("unet", UNET, preprocessing, 0.5))


def measure(folder: Path, batch_size: int, log: bool) -> list[str]:
    needed, _, _ = run(folder, batch_size, None, log)
    more, more_dropped, _ = run(folder, batch_size, 1.3 * needed, log)
    less, less_dropped, unfinished = run(folder, batch_size, 0.7 * needed, log)
    return [
        f"{needed:.1f}", f"{more:.1f} of {1.3 * needed:.1f}", more_dropped, f"{less:.1f} of {0.7 * needed:.1f}",
        less_dropped, unfinished,
    ]  # fmt: skip


def run(folder: Path, batch_size: int, seconds: float | None, log: bool) -> tuple[float, str, str]:
    """Returns the seconds that a run took, what it dropped, and how many slices got no mask for lack of time."""
    inference = Inference(device="auto", tta="flips", batch_size=batch_size, sw_batch_size=batch_size)
    hours = None if seconds is None else seconds / 3600
    submission_path = folder / "submission.csv"
    settings = KernelSettings(folder / "input", submission_path, inference=inference, strict=False)
    said, started = io.StringIO(), time.monotonic()
    with contextlib.redirect_stdout(said), open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        run_kernel(replace(settings, time_budget_hours=hours))
    took = time.monotonic() - started
    if log:
        limit = "no limit" if seconds is None else f"a limit of {seconds:.1f} s"
        print(f"\n{limit}:\n{said.getvalue()}", file=sys.stderr)
    record = json.loads(submission_path.with_suffix(".json").read_text())
    unfinished = sum(
        int(fault["problem"].split()[4]) for fault in record["faults"] if "no time left" in fault["problem"]
    )
    return took, str(len(record["dropped"])) or "nothing", f"{unfinished} of {sum(DEPTHS.values())}"


if __name__ == "__main__":
    main()
