"""Numbers of kidney_1_dense beside those of the phantom that `dry-run` shows: grey levels, texture, vessels.

python benchmarks/phantom_numbers.py --data-dir DATA > docs/phantom.md
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from sennet_kaggle.api import segment  # noqa: E402
from sennet_kaggle.data.organ import find_organ  # noqa: E402
from sennet_kaggle.data.padding import crop_padding  # noqa: E402
from sennet_kaggle.data.phantom import KIDNEY_LIKE, Phantom, phantom_slices  # noqa: E402
from sennet_kaggle.data.volume import open_volume  # noqa: E402
from sennet_kaggle.files import shipped_checkpoints  # noqa: E402
from sennet_kaggle.rendering import markdown_table  # noqa: E402
from sennet_kaggle.scoring.metrics import dice_coefficient  # noqa: E402
from sennet_kaggle.submission.provenance import name_checkpoint  # noqa: E402

KIDNEY = "kidney_1_dense"
PAGE = """\
# The phantom that the dry run shows

`make dry-run` segments a synthetic kidney of four slices at the size and voxel size of kidney_1_dense: an organ with a
sinus at its hilum, a tree of bright-walled arteries (labelled), one of wall-less veins and some cavities (both not
labelled). Its numbers beside those of the real kidney, means over slices that show the organ whole; grey levels as a
model sees them, with percentile 10 at 0 and 99.8 at 1:

{table}
{score}

What differs: its walls are as sharp and bright as its brightest pixels, where a real kidney has walls of every kind and
brighter spots elsewhere; it has fewer dark things that are no vessels. The plain phantom, which the tests, `phantom`
and the tables in other pages use, is a third as large and so has a few vessels in a small organ.

Command: `python benchmarks/phantom_numbers.py --data-dir DATA > docs/phantom.md`
"""
# Slices that show the organ whole; the others are its ends or have no vessel.
_LEAST_ORGAN = 0.2
Pairs = Iterable[tuple[np.ndarray, np.ndarray]]
"""Slice (H, W) uint16 and label (H, W) bool."""


def measure(pairs: Pairs) -> dict[str, float]:
    """The numbers of some slices; grey levels as the model sees them, percentile 10 at 0 and 99.8 at 1."""
    pairs = list(pairs)
    sampled = np.concatenate([crop_padding(slice_)[::3, ::3].ravel() for slice_, _ in pairs])
    low, high = np.percentile(sampled, (10, 99.8))
    rows = [one for slice_, mask in pairs if (one := _measure_slice((slice_ - low) / (high - low), slice_, mask))]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _measure_slice(grey: np.ndarray, slice_: np.ndarray, mask: np.ndarray) -> dict[str, float] | None:
    small = find_organ(slice_)
    if small is None or small.mean() < _LEAST_ORGAN or not mask.any():
        return None
    grey = grey.astype(np.float32)
    organ = cv2.resize(small.view(np.uint8), grey.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    hull = _hull(organ)
    outside = ~_grown(hull, 20)
    far = _grown(mask, 12)
    inside = ~_grown(~organ, 12) & ~far
    ring = _grown(mask, 3) & ~_grown(mask, 1)
    core = ~_grown(~mask, 2)
    tissue, spread = np.median(grey[inside]), 1.4826 * np.median(np.abs(grey[inside] - np.median(grey[inside])))
    plain = inside & (np.abs(grey - tissue) < 4 * spread)
    grain, fine, slow = grey - _blurred(grey, 1.5), _blurred(grey, 1.5) - _blurred(grey, 6), _blurred(grey, 6)
    return {
        "background": float(np.median(grey[outside])),
        "background, standard deviation": float(grey[outside].std()),
        "tissue": float(tissue),
        "wall (90 % of what lies 1 to 3 px around lumens)": float(np.percentile(grey[ring], 90)),
        "wall, median": float(np.median(grey[ring])),
        "lumen (2 px or more inside)": float(np.median(grey[core])) if core.any() else float("nan"),
        "texture below 1.5 px": float(grain[plain].std()),
        "texture 1.5 to 6 px": float(fine[plain].std()),
        "texture above 6 px": float(slow[plain].std()),
        "sinus and cavities, darker than 0.3 (median)": float(np.median(grey[hull & ~far & (grey < 0.3)])),
        "dark and not a vessel, share of the organ": float(
            (organ & ~far & (grey < tissue - 4 * spread)).sum() / organ.sum()
        ),
        **_vessels(mask, organ),
    }


def _hull(organ: np.ndarray) -> np.ndarray:
    """The organ's convex hull, which takes in the sinus."""
    contours, _ = cv2.findContours(organ.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.fillConvexPoly(np.zeros(organ.shape, np.uint8), cv2.convexHull(np.concatenate(contours)), 1) > 0


def _vessels(mask: np.ndarray, organ: np.ndarray) -> dict[str, float]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    depth = cv2.distanceTransform(np.pad(mask, 1).view(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    widest = np.zeros(count)
    np.maximum.at(widest, labels.ravel(), depth.ravel())
    widths = 2 * widest[1:] - 1
    return {
        "vessels in a slice": float(count - 1),
        "share of vessels under 15 px": float((areas < 15).mean()),
        "vessel width, median, px": float(np.median(widths)),
        "vessel width, 90 %, px": float(np.percentile(widths, 90)),
        "vessel width, widest, px": float(widths.max()),
        "vessel share of the organ, %": float(100 * mask.sum() / organ.sum()),
        "largest vessel's share of the label": float(areas.max() / areas.sum()),
    }


def _grown(mask: np.ndarray, radius: int) -> np.ndarray:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    return cv2.dilate(mask.view(np.uint8), kernel) > 0


def _blurred(grey: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(grey, (0, 0), sigma)


def score_shipped() -> str:
    """What the shipped checkpoint scores on the dry run's phantom."""
    pairs = list(phantom_slices(KIDNEY_LIKE))
    masks_gt, masks = np.stack([mask for _, mask in pairs]), segment(np.stack([slice_ for slice_, _ in pairs]))
    names = ", ".join(map(name_checkpoint, shipped_checkpoints()))
    per_slice = ", ".join(f"{dice_coefficient(*each):.3f}" for each in zip(masks_gt, masks, strict=True))
    return f"{names} scores Dice {dice_coefficient(masks_gt, masks):.3f} on it, pooled; per slice {per_slice}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    volume = open_volume(parser.parse_args().data_dir / "train" / KIDNEY)
    labelled = [(volume[z], volume.label(z)) for z in range(len(volume)) if volume.is_labelled(z)]
    columns = {
        KIDNEY: measure(labelled),
        "dry-run's phantom": measure(phantom_slices(KIDNEY_LIKE)),
        "the plain phantom": measure(phantom_slices(Phantom())),
    }
    first = columns[KIDNEY]
    rows = [[name, *(f"{each[name]:.3g}" for each in columns.values())] for name in first]
    print(PAGE.format(table=markdown_table(["", *columns], rows), score=score_shipped()), end="")


if __name__ == "__main__":
    main()
