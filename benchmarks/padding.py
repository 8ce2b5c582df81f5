"""Do masks stay as they are when constant values surround real slices? python benchmarks/padding.py [DATA_DIR]

Prints, as Markdown, the Dice of the shipped model's masks with padding against those without, inside the part that was
scanned: the least of a slice, and pooled. About two minutes on two cores.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from sennet_kaggle.config import Inference  # noqa: E402
from sennet_kaggle.data.volume import open_volume  # noqa: E402
from sennet_kaggle.files import shipped_checkpoints  # noqa: E402
from sennet_kaggle.inference.ensemble import ensemble_score, measure_grey_values  # noqa: E402
from sennet_kaggle.inference.loading import load_predictors  # noqa: E402
from sennet_kaggle.rendering import markdown_table  # noqa: E402
from sennet_kaggle.scoring.metrics import dice_counts, dice_from_counts  # noqa: E402

INFERENCE = Inference()
BLANK_SLICES = {
    "two at either end": [0, 0, 11, 11],
    "three in the middle": [5, 5, 5],
    "20 in four places": [0] * 5 + [3] * 4 + [7] * 6 + [11] * 5,
}
"""Before which slices of kidney_1_dense blank ones are laid; 11 is behind the last."""


def regions(height: int, width: int) -> dict[str, np.ndarray]:
    """Where padding lies, (H, W) bool by name."""
    y, x = np.ogrid[:height, :width]
    down, across = np.minimum(y, height - 1 - y), np.minimum(x, width - 1 - x)
    ellipse = ((y - (height - 1) / 2) / (height / 2)) ** 2 + ((x - (width - 1) / 2) / (width / 2)) ** 2 > 1
    return {
        "outside the inscribed ellipse": ellipse,
        "corners, legs of 150": down + across < 150,
        "a frame of 40": np.minimum(down, across) < 40,
        "the upper 150 rows": (y < 150) & (x >= 0),
    }


def main(data_dir: Path) -> None:
    predictors = load_predictors(shipped_checkpoints(), INFERENCE)

    def masks_of(slices: Sequence[np.ndarray]) -> list[np.ndarray]:
        scores = ensemble_score(predictors, measure_grey_values(slices, predictors, INFERENCE), INFERENCE)(iter(slices))
        return [score.numpy() > predictors[0].threshold for score in scores]

    rows = []
    slices = list(open_volume(data_dir / "train" / "kidney_2"))
    expected = masks_of(slices)
    for name, where in regions(*slices[0].shape).items():
        for value in (0, 65535, int(np.median(slices))):
            masks = masks_of([np.where(where, value, slice_).astype(np.uint16) for slice_ in slices])
            rows.append(row("kidney_2", name, value, masks, expected, ~where))

    slices = list(open_volume(data_dir / "train" / "kidney_1_dense"))
    expected = masks_of(slices)
    for name, places in BLANK_SLICES.items():
        for value in (0, 65535):
            blank, padded, kept = np.full_like(slices[0], value), [], []
            for z in range(len(slices) + 1):
                padded += [blank] * places.count(z)
                kept += [len(padded)] if z < len(slices) else []
                padded += slices[z : z + 1]
            masks = masks_of(padded)
            everywhere = np.ones(blank.shape, bool)
            rows.append(row("kidney_1_dense", name, value, [masks[z] for z in kept], expected, everywhere))
    print(markdown_table(["slices", "padding", "grey value", "Dice, least of a slice", "Dice, pooled"], rows), end="")


def row(
    kidney: str,
    name: str,
    value: int,
    masks: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    scanned: np.ndarray,
) -> list[str]:
    counts = [dice_counts(a & scanned, b & scanned) for a, b in zip(expected, masks, strict=True)]
    least = min(dice_from_counts(*each) for each in counts)
    pooled = dice_from_counts(*np.sum(counts, axis=0).tolist())
    return [kidney, name, str(value), f"{least:.4f}", f"{pooled:.4f}"]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY.parent / "shared" / "data")
