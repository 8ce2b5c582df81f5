"""Time of the data path per slice, with and without the cache, against reading the files and against the models.

    python benchmarks/data_path.py

Prints a Markdown table over the labelled slices of kidney_1_dense from $SENNET_DATA_DIR (default ../shared/data)
at 512 x 512. Contenders take turns and the median counts. "From disk": the files are dropped from memory before.
torch has one thread throughout, as in a loader's worker, so that data and models compare core for core; where other
work shares the machine, its time on the core (CPU) says more than the clock.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from sennet_kaggle.config import Preprocessing  # noqa: E402
from sennet_kaggle.data.cache import CachedSlices, open_cache  # noqa: E402
from sennet_kaggle.data.dataset import SliceDataset  # noqa: E402
from sennet_kaggle.data.volume import Volume, open_volume  # noqa: E402
from sennet_kaggle.models import create_model  # noqa: E402

DATA_DIR = Path(os.environ.get("SENNET_DATA_DIR", REPOSITORY.parent / "shared" / "data"))
BATCH_SIZE = 4
Seconds = tuple[float, float]  # by the clock, and on the processor
MODELS = {
    "the small U-Net": ("unet", {"widths": [8, 16, 32, 64, 128], "bottleneck": 256}),
    "SegFormer-B0": ("segformer", {"variant": "b0"}),
}


def main() -> None:
    kidney_dir = DATA_DIR / "train" / "kidney_1_dense"
    if not kidney_dir.is_dir():
        sys.exit(f"No slices in {kidney_dir}: set SENNET_DATA_DIR.")
    volume, preprocessing = open_volume(kidney_dir), Preprocessing()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache_dir:
        rows = data_path(volume, preprocessing, Path(cache_dir))
    for name, (model, arguments) in MODELS.items():
        rows |= passes(name, create_model(model, **arguments), preprocessing)
    _, reference = rows["an epoch without cache, varied"]
    size = f"{preprocessing.roi_size} x {preprocessing.roi_size}"
    print(f"| ms per slice, {len(volume)} slices at {size} | clock | CPU | CPU against no cache |\n|---|---|---|---|")
    for what, (clock, cpu) in rows.items():
        print(f"| {what} | {1000 * clock:.3g} | {1000 * cpu:.3g} | {cpu / reference:.3g} |")


def data_path(volume: Volume, preprocessing: Preprocessing, cache_dir: Path) -> dict[str, Seconds]:
    paths = [*volume.image_paths, *volume.label_paths.values()]
    zs = range(len(volume))
    cached = open_cache(cache_dir, volume, zs, preprocessing)

    def epoch(**arguments) -> Callable[[], object]:
        dataset = SliceDataset([volume], preprocessing, **arguments)
        return lambda: [None for _ in DataLoader(dataset, BATCH_SIZE)]

    def build() -> None:
        with tempfile.TemporaryDirectory(dir=cache_dir) as empty_dir:
            open_cache(empty_dir, volume, zs, preprocessing)

    contenders = {
        "an epoch without cache, varied": epoch(augment=True),
        "an epoch without cache, varied, from disk": epoch(augment=True),
        "an epoch with cache, varied": epoch(augment=True, cache_dir=cache_dir),
        "an epoch without cache": epoch(),
        "an epoch with cache": epoch(cache_dir=cache_dir),
        "building the cache, once": build,
        "opening it again (reads every file for the key)": lambda: open_cache(cache_dir, volume, zs, preprocessing),
        "read() of the same files": lambda: [path.read_bytes() for path in paths],
        "read() of the same files, from disk": lambda: [path.read_bytes() for path in paths],
        "one pass over the cache's bytes": lambda: pass_over(cached),
    }
    return median_seconds(contenders, len(volume), paths)


def pass_over(cached: CachedSlices) -> float:
    return cached.images.sum() + np.count_nonzero(cached.masks)


def passes(name: str, model: nn.Module, preprocessing: Preprocessing) -> dict[str, Seconds]:
    """Forward and backward in either precision."""
    size = (BATCH_SIZE, preprocessing.in_channels, preprocessing.roi_size, preprocessing.roi_size)
    images = torch.randn(size).contiguous(memory_format=torch.channels_last)
    model = model.train().to(memory_format=torch.channels_last)

    def run(dtype: torch.dtype) -> None:
        with torch.autocast("cpu", dtype, dtype != torch.float32):
            loss = model(images).float().mean()
        loss.backward()
        model.zero_grad()

    contenders = {
        f"forward and backward of {name}, batch {BATCH_SIZE}, {dtype}": partial(run, getattr(torch, dtype))
        for dtype in ("float32", "bfloat16")
    }
    return median_seconds(contenders, BATCH_SIZE, rounds=3)


def median_seconds(
    contenders: dict[str, Callable[[], object]], slices: int, dropped: Iterable[Path] = (), rounds: int = 9
) -> dict[str, Seconds]:
    """Medians per slice over several rounds, taken in turns, after an extra round that is not counted."""
    seconds = {what: [] for what in contenders}
    for round_ in range(rounds + 1):
        for what, run in contenders.items():
            if what.endswith("from disk"):
                drop_from_memory(dropped)
            started = time.perf_counter(), time.process_time()
            run()
            if round_:
                seconds[what].append((time.perf_counter() - started[0], time.process_time() - started[1]))
    return {what: tuple(np.median(each, axis=0) / slices) for what, each in seconds.items()}


def drop_from_memory(paths: Iterable[Path]) -> None:
    for path in paths:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
