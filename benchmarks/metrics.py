"""Surface Dice against the `surface-distance` reference and against one pass over the bytes.

    python benchmarks/metrics.py

Prints a Markdown table. The second half needs the prediction files of kidney_3_dense, from
$SENNET_DATA_DIR (default ../shared/data), and is left out where they are not.
"""

import os
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from sennet_kaggle.scoring.metrics import surface_dice, surface_dice_of_slices  # noqa: E402
from sennet_kaggle.submission.rle import rle_decode  # noqa: E402
from sennet_kaggle.submission.submission import read_submission  # noqa: E402

DATA_DIR = Path(os.environ.get("SENNET_DATA_DIR", REPOSITORY.parent / "shared" / "data"))
KIDNEY_3_SIZE = (1706, 1510)


def main() -> None:
    print("| | seconds | against the reference | extra memory, MiB | score |\n|---|---|---|---|---|")
    mask_gt, mask_pred = tubes(seed=0), tubes(seed=0, shift=0.4)
    tubes_rows(mask_gt, mask_pred)
    paths = [DATA_DIR / "predictions" / f"kidney_3_dense_{name}.csv" for name in "ab"]
    if all(path.is_file() for path in paths):
        stream_rows(paths)
    else:
        print(f"\nNo prediction files in {paths[0].parent}: set SENNET_DATA_DIR.")


def tubes_rows(mask_gt: np.ndarray, mask_pred: np.ndarray) -> None:
    def ours():
        return surface_dice(mask_gt, mask_pred)

    reference = reference_surface_dice()
    seconds_reference = None
    if reference is None:
        print("| surface-distance is not installed | | | | |")
    else:
        seconds_reference = median_seconds(lambda: reference(mask_gt, mask_pred), rounds=1)
        memory, score = peak_bytes(lambda: reference(mask_gt, mask_pred)), reference(mask_gt, mask_pred)
        what = f"surface-distance, tubes {'x'.join(map(str, mask_gt.shape))}, {mask_gt.mean():.1%} vessel"
        print_row(what, seconds_reference, seconds_reference, memory, score)
    print_row("`surface_dice`, the same", median_seconds(ours), seconds_reference, peak_bytes(ours), ours())
    seconds_pass = median_seconds(lambda: (np.count_nonzero(mask_gt), np.count_nonzero(mask_pred)))
    print_row("one pass over the bytes of both", seconds_pass, seconds_reference)


def stream_rows(paths: list[Path]) -> None:
    """Both csv files in turn through decoder and metric, and the same through the decoder only."""
    started = time.perf_counter()
    n_slices = sum(1 for _ in zip(*map(masks_of, paths), strict=True))
    seconds_decode = time.perf_counter() - started
    started = time.perf_counter()
    score = surface_dice_of_slices(*map(masks_of, paths))
    seconds = time.perf_counter() - started
    one_slice = [next(masks_of(path)) for path in paths]
    memory_metric = peak_bytes(lambda: surface_dice_of_slices(*(repeat(mask, 50) for mask in one_slice)))
    memory_all = peak_bytes(lambda: surface_dice_of_slices(*map(masks_of, paths)))
    size = "x".join(map(str, KIDNEY_3_SIZE))
    print_row(f"reading and decoding the csv files a and b, {n_slices} slices {size}", seconds_decode)
    print_row("`surface_dice_of_slices` of a and b, with reading", seconds, memory=memory_all, score=score)
    print_row("the metric's part of it", seconds - seconds_decode, memory=memory_metric)


def print_row(
    what: str,
    seconds: float,
    seconds_reference: float | None = None,
    memory: int | None = None,
    score: float | None = None,
) -> None:
    ratio = "" if seconds_reference is None else f"{seconds_reference / seconds:.0f}x"
    mib = "" if memory is None else f"{memory / 2**20:.1f}"
    print(f"| {what} | {seconds:.3g} | {ratio} | {mib} | {'' if score is None else f'{score:.15f}'} |")


def tubes(seed: int, shift: float = 0.0, shape: tuple[int, int, int] = (64, 512, 512), n_tubes: int = 60) -> np.ndarray:
    """Winding tubes of 1.5 to 9 voxels radius, (D, H, W) bool; `shift` moves and thickens them by fractions."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, np.bool_)
    for _ in range(n_tubes):
        radius, centre, direction = rng.uniform(1.5, 9), rng.uniform((0, 0, 0), shape), unit(rng.normal(size=3))
        for turn in rng.normal(scale=0.15, size=(400, 3)):
            direction = unit(direction + turn)
            centre = centre + direction * max(1, radius / 2)
            if (centre < 0).any() or (centre >= shape).any():
                break
            draw_ball(mask, centre + shift, radius + shift / 2)
    return mask


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def draw_ball(mask: np.ndarray, centre: np.ndarray, radius: float) -> None:
    low = np.maximum(np.floor(centre - radius).astype(int), 0)
    high = np.minimum(np.ceil(centre + radius).astype(int) + 1, mask.shape)
    window = tuple(slice(*ends) for ends in zip(low, high, strict=True))
    grid = np.ogrid[window]
    mask[window] |= sum((axis - at) ** 2 for axis, at in zip(grid, centre, strict=True)) <= radius**2


def masks_of(path: Path) -> Iterator[np.ndarray]:
    return (rle_decode(rle, *KIDNEY_3_SIZE) for _, rle in read_submission(path))


def reference_surface_dice() -> Callable[[np.ndarray, np.ndarray], float] | None:
    try:
        import surface_distance
    except ModuleNotFoundError:
        return None
    warnings.simplefilter("ignore", DeprecationWarning)

    def score(mask_gt: np.ndarray, mask_pred: np.ndarray) -> float:
        distances = surface_distance.compute_surface_distances(mask_gt, mask_pred, (1, 1, 1))
        return float(surface_distance.compute_surface_dice_at_tolerance(distances, 0))

    return score


def median_seconds(run: Callable[[], object], rounds: int = 9) -> float:
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def peak_bytes(run: Callable[[], object]) -> int:
    """Largest memory allocated by `run` at once, besides what there was before."""
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


if __name__ == "__main__":
    main()
