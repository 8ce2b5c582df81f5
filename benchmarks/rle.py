"""Run-length coding against the usual Kaggle functions, pycocotools and one counting pass over the mask.

    python benchmarks/rle.py

Prints a Markdown table, milliseconds and how many times as fast as the usual functions. The real mask is a
label of kidney_2 from $SENNET_DATA_DIR (default ../shared/data), or a phantom's slice of its size.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from sennet_kaggle.data.phantom import Phantom, phantom_slices  # noqa: E402
from sennet_kaggle.data.tiff import read_mask  # noqa: E402
from sennet_kaggle.submission.rle import EMPTY_RLE, rle_decode, rle_encode  # noqa: E402

try:
    from pycocotools import mask as pycocotools_mask
except ModuleNotFoundError:
    pycocotools_mask = None

DATA_DIR = Path(os.environ.get("SENNET_DATA_DIR", REPOSITORY.parent / "shared" / "data"))
SIZE = (1041, 1511)


def main() -> None:
    rng = np.random.default_rng(0)
    masks = {
        **real_masks(),
        "checkerboard": np.indices(SIZE).sum(axis=0) % 2 == 0,
        "random": rng.random(SIZE) < 0.5,
        "full": np.ones(SIZE, np.bool_),
        "empty": np.zeros(SIZE, np.bool_),
    }
    print("| mask | runs | | ours | usual | pycocotools | counting pass |\n|---|---|---|---|---|---|---|")
    for name, mask in masks.items():
        print_rows(name, mask)
    if pycocotools_mask is None:
        print("\npycocotools is not installed.")


def print_rows(name: str, mask: np.ndarray) -> None:
    rle = rle_encode(mask)
    usual_rle = usual_encode(mask)
    assert rle == (usual_rle or EMPTY_RLE)
    assert np.array_equal(rle_decode(rle, *SIZE), usual_decode(usual_rle, SIZE))
    columns = mask.view(np.uint8).T  # pycocotools counts down the columns
    coco_rle = pycocotools_mask.encode(columns) if pycocotools_mask else None
    encoders = [lambda: rle_encode(mask), lambda: usual_encode(mask)]
    decoders = [lambda: rle_decode(rle, *SIZE), lambda: usual_decode(usual_rle, SIZE)]
    for contenders in (encoders, decoders):
        contenders.append(lambda: np.count_nonzero(mask))
    if pycocotools_mask:
        encoders.append(lambda: pycocotools_mask.encode(columns))
        decoders.append(lambda: pycocotools_mask.decode(coco_rle))
    print_row(f"{name} | {usual_rle.count(' ') // 2 + bool(usual_rle)} | encode", *milliseconds(encoders))
    print_row(" | | decode", *milliseconds(decoders))


def print_row(what: str, ours: float, usual: float, counting: float, coco: float | None = None) -> None:
    against_coco = "" if coco is None else f"{coco:.2f}"
    print(f"| {what} | {ours:.2f} ({usual / ours:.1f}x) | {usual:.2f} | {against_coco} | {counting:.2f} |")


def real_masks() -> dict[str, np.ndarray]:
    paths = sorted((DATA_DIR / "train" / "kidney_2" / "labels").glob("*.tif"))
    if paths:
        return {f"kidney_2 {path.stem}": read_mask(path) for path in paths}
    return {"phantom": next(phantom_slices(Phantom(shape=(1, *SIZE))))[1]}


def usual_encode(mask: np.ndarray) -> str:
    """As in most of the competition's notebooks."""
    pixels = mask.flatten()
    pixels = np.concatenate([[0], pixels, [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(x) for x in runs)


def usual_decode(rle: str, size: tuple[int, int]) -> np.ndarray:
    """As in most of the competition's notebooks."""
    numbers = rle.split()
    starts, lengths = (np.asarray(x, dtype=int) for x in (numbers[0::2], numbers[1::2]))
    starts -= 1
    pixels = np.zeros(size[0] * size[1], dtype=np.uint8)
    for start, end in zip(starts, starts + lengths):  # noqa: B905
        pixels[start:end] = 1
    return pixels.reshape(size)


def milliseconds(contenders: list[Callable[[], object]], seconds: float = 4.0, rounds: int = 60) -> list[float]:
    """The best of several rounds for each, taken in turns, since a shared machine's speed keeps changing."""
    best = [float("inf")] * len(contenders)
    end = time.perf_counter() + seconds
    for round_ in range(rounds):
        for i, run in enumerate(contenders):
            started = time.perf_counter()
            run()
            best[i] = min(best[i], time.perf_counter() - started)
        if round_ > 1 and time.perf_counter() > end:
            break
    return [1000 * one for one in best]


if __name__ == "__main__":
    main()
