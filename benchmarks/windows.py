"""Windows at native resolution: inference against the forward pass alone, and training windows against their bytes.

    python benchmarks/windows.py
    python benchmarks/windows.py training

The first: the shipped U-Net with windows of 512 pixels over a slice of kidney_1_dense in $SENNET_DATA_DIR (default
../shared/data), or over a phantom's. Prints CPU seconds on one thread, the best of three rounds, taken in turns.

The second: windows of 320 pixels, varied as for the shipped U-Net, out of 160 slices of 512 x 512 of a phantom, read
from their files or cut out of the volume that was decoded once. "The same bytes": a copy of all the bricks of grey
values and labels that the same windows touch. Prints milliseconds of CPU per window on one thread: the mean over 24
windows of the least that each took in 25 rounds, taken in turns. The files are in the system's memory.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from sennet_kaggle.config import Inference, Preprocessing  # noqa: E402
from sennet_kaggle.data.augment import vary_light  # noqa: E402
from sennet_kaggle.data.blocks import cut_pair  # noqa: E402
from sennet_kaggle.data.bricks import UNKNOWN  # noqa: E402
from sennet_kaggle.data.dataset import SliceDataset  # noqa: E402
from sennet_kaggle.data.intensity import IntensityRange, measure_intensity, slice_to_image  # noqa: E402
from sennet_kaggle.data.phantom import Phantom, phantom_slices  # noqa: E402
from sennet_kaggle.data.planes import _turn, draw_plane, lines_of  # noqa: E402
from sennet_kaggle.data.transforms import image_to_tensor  # noqa: E402
from sennet_kaggle.data.volume import Volume, open_volume  # noqa: E402
from sennet_kaggle.files import shipped_checkpoints  # noqa: E402
from sennet_kaggle.inference.loading import create_predictor  # noqa: E402
from sennet_kaggle.models.checkpoint import load_checkpoint  # noqa: E402

KIDNEY_DIR = Path(os.environ.get("SENNET_DATA_DIR", REPOSITORY.parent / "shared" / "data")) / "train/kidney_1_dense"
ROUNDS = 3
RANGE = IntensityRange(20000.0, 30000.0)
DEPTH, DRAWN, SIDE = 160, 40, 512
WINDOWS, WINDOW_ROUNDS, LZW = 24, 25, 5


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    training_windows() if sys.argv[1:] == ["training"] else inference()


def inference() -> None:
    volume = open_volume(KIDNEY_DIR) if KIDNEY_DIR.is_dir() else [s for s, _ in phantom_slices(Phantom((1, 1303, 912)))]
    model, card = load_checkpoint(shipped_checkpoints()[0])
    inference = Inference()
    predictor = create_predictor(model, replace(card.preprocessing, roi_size=512), card.threshold, inference)
    intensity = measure_intensity(volume, predictor.preprocessing)

    def slices() -> Iterator[np.ndarray]:
        yield volume[len(volume) // 2]

    batches = batches_of(predictor, slices(), intensity, inference)
    best = dict.fromkeys(("windows cut, run and blended, with reading", "the forward pass alone"), float("inf"))
    for _ in range(ROUNDS):
        for name, run in zip(
            best,
            (
                lambda: predictor(slices(), intensity, inference),
                lambda: [forward(predictor, batch) for batch in batches],
            ),
            strict=True,
        ):
            started = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - started)
    both, alone = best.values()
    print(f"| 1 slice, {sum(map(len, batches))} windows | CPU seconds |\n|---|---|")
    for name, seconds in best.items():
        print(f"| {name} | {seconds:.3f} |")
    print(f"| ratio | {both / alone:.3f} |")


def batches_of(predictor, slices, intensity, inference) -> list[torch.Tensor]:
    """The very batches that the model is shown."""
    shown = []
    hook = predictor.model.register_forward_pre_hook(lambda _, arguments: shown.append(arguments[0].clone()))
    predictor(slices, intensity, inference)
    hook.remove()
    return shown


def forward(predictor, batch: torch.Tensor) -> torch.Tensor:
    with (
        torch.inference_mode(),
        torch.autocast(predictor.device.type, predictor.dtype, predictor.dtype != torch.float32),
    ):
        return predictor.model(batch)


def training_windows() -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = (write_kidney(Path(folder) / name / "k", code) for name, code in (("plain", 1), ("lzw", LZW)))
        rows = least_ms(contenders(plain, packed, Path(folder) / "cache"))
    reference = rows["the same bytes, mean of z, y and x"] = np.mean(
        [rows[f"the same bytes, {name}"] for name in "zyx"]
    )
    print("| a training window of 320 x 320 | ms | of the same bytes |\n|---|---|---|")
    for name, value in rows.items():
        axis = name.rsplit(", ", 1)[-1]
        bytes_ms = rows.get(f"the same bytes, {axis}", reference)
        print(f"| {name} | {value:.2f} | {value / bytes_ms:.1f} |")


def write_kidney(kidney_dir: Path, compression: int) -> Volume:
    """Slices of a phantom, one after the other and again."""
    drawn = list(phantom_slices(Phantom((DRAWN, SIDE, SIDE))))
    for name in ("images", "labels"):
        (kidney_dir / name).mkdir(parents=True)
    for z in range(DEPTH):
        slice_, mask = drawn[z % DRAWN]
        for name, array in (("images", slice_), ("labels", mask.astype(np.uint8) * 255)):
            cv2.imwrite(str(kidney_dir / name / f"{z:04d}.tif"), array, [cv2.IMWRITE_TIFF_COMPRESSION, compression])
    return open_volume(kidney_dir)


def contenders(plain: Volume, packed: Volume, cache_dir: Path) -> dict[str, Callable[[int], object]]:
    """By name, what makes the window of a number; the same each time."""
    one = Preprocessing(region="windows", roi_size=320, offsets=(0,), mean=(0.4,), std=(0.3,))
    three = replace(one, offsets=(-1, 0, 1), outputs="all")

    def dataset(volume: Volume, preprocessing: Preprocessing, **planes) -> SliceDataset:
        return SliceDataset([volume], preprocessing, augment=True, light=0.3, noise=0.1, cache_dir=cache_dir, **planes)

    def whole(varied: SliceDataset) -> Callable[[int], object]:
        return lambda index: varied[7 * index]

    found: dict[str, Callable[[int], object]] = {
        "from the files, uncompressed, z": whole(dataset(plain, one)),
        "from the files, LZW, z": whole(dataset(packed, one)),
    }
    mixed = dataset(plain, one, planes="zyx", oblique=30.0)
    block = next(iter(mixed._blocks.values())).block
    rng = np.random.default_rng(0)
    for name in ("z", "y", "x", "oblique"):
        axes = "zyx" if name == "oblique" else name
        drawn = [draw_plane(block, DEPTH // 2, 320, (0.5, 1.5), axes, 0, rng) for _ in range(WINDOWS)]
        if name == "oblique":
            turns = [_turn(plane.axis, rng.uniform(0, np.pi), np.radians(rng.uniform(-30, 30))) for plane in drawn]
            drawn = [plane._replace(turn=turn) for plane, turn in zip(drawn, turns, strict=True)]
        bricks = [touched(block, plane) for plane in drawn]
        found[f"cut out of the volume, {name}"] = lambda index, drawn=drawn: cut_pair(block, drawn[index], one)
        found[f"the same bytes, {name}"] = lambda index, bricks=bricks: read(block, bricks[index])
        found[f"cut and varied, {name}"] = lambda index, drawn=drawn: varied(block, drawn[index], one, index)
    found["drawn and varied, synthetic"] = lambda index: mixed._synthetic_window(np.random.default_rng(index))
    found["cut and varied, planes zyx"] = whole(dataset(plain, one, planes="zyx"))
    found["cut and varied, planes zyx and oblique 30"] = whole(mixed)
    found["cut and varied, planes zyx and oblique 30, 3 slices in and out"] = whole(
        dataset(plain, three, planes="zyx", oblique=30.0)
    )
    return found


def varied(block, plane, preprocessing: Preprocessing, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What a data set makes of a window."""
    window, label = cut_pair(block, plane, preprocessing)
    image = vary_light(slice_to_image(window, RANGE, preprocessing), 0.3, 0.1, np.random.default_rng(seed))
    target, unknown = torch.from_numpy(label.astype(np.float32)), label == UNKNOWN
    if unknown.any():
        target[torch.from_numpy(unknown)] = torch.nan
    return image_to_tensor(image, preprocessing), target


def touched(block, plane) -> np.ndarray:
    """The bricks in which the pixels of a window lie."""
    ((starts, across),) = lines_of(plane, 320, (0,))
    points = (starts[:, None] + across).reshape(-1, 3)
    places = [
        each.round().astype(int).clip(0, length - 1) // 8 for each, length in zip(points.T, block.shape, strict=True)
    ]
    return np.unique(np.ravel_multi_index(places, block.bricks.grey.shape[:3]))


def read(block, bricks: np.ndarray) -> None:
    for array in (block.bricks.grey, block.bricks.label):
        np.asarray(array).reshape(-1, 8**3)[bricks]


def least_ms(runs: dict[str, Callable[[int], object]]) -> dict[str, float]:
    seconds = {name: np.full(WINDOWS, np.inf) for name in runs}
    for _ in range(WINDOW_ROUNDS):
        for name, run in runs.items():
            for index in range(WINDOWS):
                started = time.process_time()
                run(index)
                seconds[name][index] = min(seconds[name][index], time.process_time() - started)
    return {name: 1000 * float(each.mean()) for name, each in seconds.items()}


if __name__ == "__main__":
    main()
