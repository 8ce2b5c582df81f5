"""Labelled slices → the masks that untrained Segment Anything proposes for them, and how much of each is vessel."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from ..config import Preprocessing
from ..data.dataset import SliceDataset
from ..data.intensity import measure_intensity, slice_to_image
from ..data.resizing import resize_image
from ..data.volume import open_volumes
from ..errors import InputError
from ..files import check_output_dir, make_dir, write_whole
from ..inference.loading import pick_device
from ..inference.windows import plan_windows
from ..models import create_model
from ..models.sam import SamVessels
from ..progress import progress_bar
from ..rendering import figure_to_png
from ..reports.outlines import figure_of_slices
from ..reports.report import SegmentedSlice, to_display
from ..scoring.metrics import dice_coefficient
from .sam_tables import format_zero_shot

TABLE_NAME, TEXT_NAME = "zero-shot.csv", "zero-shot.md"
_RANKS = ("best", "second", "third")
_REPORTED = Preprocessing(intensity="eight_bit")
_PRECISIONS = ("float32", "bfloat16", "float16")
_WINDOW_OVERLAP = 0.125
_OPACITY = 0.35  # as in segment_anything's notebooks


@dataclass(frozen=True)
class Proposal:
    """One mask that Segment Anything proposes for a slice."""

    mask: np.ndarray
    """(H, W) bool, of the slice's own size."""
    predicted_iou: float
    """How good a mask the model itself takes it for, about 0..1."""


def run_zero_shot(
    data_dir: Path | str,
    output_dir: Path | str,
    weights_path: Path | str | None,
    *,
    volume_names: Sequence[str] = (),
    slice_ids: Sequence[str] = (),
    roi_size: int | None = _REPORTED.roi_size,
    window_size: int | None = None,
    model_arguments: Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: str = "float32",
) -> pd.DataFrame:
    """Lets Segment Anything (Kirillov 2023) propose masks for slices, and compares them with the labels.

    The model sees what the report gave it (see `propose_masks`), and masks of every size are kept, the
    organ's too, unless `model_arguments` has another `max_area_fraction`.

    Args:
        data_dir: a folder in the competition's layout, with `train/<kidney>`.
        output_dir: made if missing; gets `zero-shot.csv` and `<slice id>.png`, both after every slice, and
            `zero-shot.md` in the end.
        weights_path: Segment Anything's official weights.
        volume_names: kidneys; all that there are when empty.
        slice_ids: labelled slices; all of these kidneys when empty.
        roi_size: as for `propose_masks`, as the next.
        window_size: as for `propose_masks`.
        model_arguments: further arguments of `models.sam.create_sam`.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
        precision: arithmetic of the model, "float32", "bfloat16" or "float16".

    Returns:
        A row per slice: slice, the columns of `score_proposals`, and the seconds that proposing took.

    Raises:
        InputError: no weights, weights that do not fit, or a kidney, slice or device that is not there.
    """
    arguments = {"max_area_fraction": None, **(model_arguments or {}), "weights_path": check_weights(weights_path)}
    if window_size is not None and not 32 <= window_size <= 8192:
        raise InputError(f"window_size must lie in 32..8192, got {window_size}")
    check_precision(precision)
    check_output_dir(output_dir, (TABLE_NAME, TEXT_NAME))
    slices = SliceDataset(
        open_volumes(data_dir, "train", tuple(volume_names)), _REPORTED, only=slice_ids or None
    ).slices
    model = cast(SamVessels, create_model("sam", **arguments)).to(pick_device(device))
    model.dtype = getattr(torch, precision)
    output_dir = Path(output_dir)
    make_dir(output_dir)
    rows = []
    for slice_id, (volume, z) in progress_bar("proposing masks", len(slices), slices.items()):
        slice_, mask_gt = volume[z], volume.label(z)
        started = time.perf_counter()
        proposals = propose_masks(model, slice_, roi_size, window_size)
        seconds = time.perf_counter() - started
        rows.append({"slice": slice_id, **score_proposals(proposals, mask_gt), "seconds": seconds})
        figure = figure_of_proposals(slice_id, slice_, proposals, mask_gt)
        write_whole(output_dir / f"{slice_id}.png", figure_to_png(figure))
        write_whole(output_dir / TABLE_NAME, pd.DataFrame(rows).to_csv(index=False).encode())
    table = pd.DataFrame(rows)
    write_whole(output_dir / TEXT_NAME, f"{format_zero_shot(table)}".encode())
    return table


def check_precision(precision: str) -> None:
    """Raises InputError for an arithmetic that is not known."""
    if precision not in _PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(_PRECISIONS)}, got {precision!r}")


def check_weights(weights_path: Path | str | None) -> Path:
    """Returns the path, if there is something.

    Raises:
        InputError: there is not; the message says which file to get, and where it belongs.
    """
    if weights_path is not None and Path(weights_path).exists():
        return Path(weights_path)
    found = "none given" if weights_path is None else f"nothing at {weights_path}"
    raise InputError(
        f"Segment Anything's weights are missing ({found}): download sam_vit_b_01ec64.pth (375 MB) from the model "
        f"checkpoints of github.com/facebookresearch/segment-anything and name it with --weights-path "
        f"(on Kaggle: attach it as a dataset)"
    )


def propose_masks(
    model: SamVessels, slice_: np.ndarray, roi_size: int | None = _REPORTED.roi_size, window_size: int | None = None
) -> list[Proposal]:
    """Proposes masks for one slice as the report saw it: the top 8 bits as R=G=B, squeezed to a square.

    A kidney fills some 40 of these 256 grey levels. The model scales the longer side to its own size (1024) by
    itself, so a slice of its own size (roi_size None) keeps more detail than the report's did, and windows of the
    model's size keep all.

    Args:
        model: of `create_sam`.
        slice_: (H, W) uint8 or uint16.
        roi_size: side of the square; the slice's own size when None.
        window_size: cut the slice, at its own size, into windows of so many pixels instead; None: it is seen whole.

    Returns:
        Masks of the slice's own size, each pixel the nearest of the square's; the largest mask first.
    """
    image = slice_to_image(slice_, measure_intensity([slice_], _REPORTED), _REPORTED)
    height, width = slice_.shape
    windows = [(slice(0, height), slice(0, width))]
    if window_size is not None:
        windows = plan_windows(height, width, window_size, _WINDOW_OVERLAP)
    elif roi_size is not None:
        image = resize_image(image, replace(_REPORTED, roi_size=roi_size))[0]
        windows = [(slice(0, roi_size), slice(0, roi_size))]
    levels = cv2.cvtColor((image * 255).round().astype(np.uint8), cv2.COLOR_GRAY2RGB)
    proposals = []
    for window in windows:
        for record in model.generate(np.ascontiguousarray(levels[window])):
            mask = np.zeros(levels.shape[:2], np.bool_)
            mask[window] = record["segmentation"]
            if mask.shape != slice_.shape:
                mask = _resize_mask(mask, height, width)
            proposals.append((record["area"], Proposal(mask, float(record["predicted_iou"]))))
    return [proposal for _, proposal in sorted(proposals, key=lambda each: each[0], reverse=True)]


def score_proposals(proposals: Sequence[Proposal], mask_gt: np.ndarray) -> dict[str, float]:
    """Compares the masks of a slice with its label.

    Args:
        proposals: M masks.
        mask_gt: label, (H, W) bool.

    Returns:
        masks, their number; dice_union of all together; dice_best, dice_second and dice_third of the masks
        that fit best; dice_oracle of `oracle_union`; area_best … in pixels and predicted_iou_best … of
        those three, NaN where there are fewer.
    """
    best = _best(proposals, mask_gt)
    missing = (math.nan,) * (len(_RANKS) - len(best))
    dices = (*(dice_coefficient(mask_gt, proposal.mask) for proposal in best), *missing)
    areas = (*(np.count_nonzero(proposal.mask) for proposal in best), *missing)
    ious = (*(proposal.predicted_iou for proposal in best), *missing)
    return {
        "masks": len(proposals),
        "dice_union": _dice_of_union(proposals, mask_gt),
        **{f"dice_{rank}": dice for rank, dice in zip(_RANKS, dices, strict=True)},
        "dice_oracle": dice_coefficient(mask_gt, oracle_union(proposals, mask_gt)),
        **{f"area_{rank}": area for rank, area in zip(_RANKS, areas, strict=True)},
        **{f"predicted_iou_{rank}": iou for rank, iou in zip(_RANKS, ious, strict=True)},
    }


def oracle_union(proposals: Sequence[Proposal], mask_gt: np.ndarray) -> np.ndarray:
    """The union of masks that somebody who knows the label would choose: what choosing alone could reach.

    Greedy: from the mask with the largest part of vessel down, each is taken that raises the Dice. For
    masks that do not overlap no other choice is better.

    Args:
        proposals: M masks.
        mask_gt: label, (H, W) bool.

    Returns:
        (H, W) bool.
    """
    union = np.zeros_like(mask_gt)
    dice = dice_coefficient(mask_gt, union)
    for proposal in sorted(proposals, key=lambda proposal: _precision(proposal.mask, mask_gt), reverse=True):
        wider = union | proposal.mask
        if (wider_dice := dice_coefficient(mask_gt, wider)) > dice:
            union, dice = wider, wider_dice
    return union


def figure_of_proposals(
    slice_id: str, slice_: np.ndarray, proposals: Sequence[Proposal], mask_gt: np.ndarray
) -> Figure:
    """Draws all masks of a slice, and the errors of the mask that fits best.

    Args:
        slice_id: for the title.
        slice_: (H, W) uint8 or uint16.
        proposals: M masks, the largest first.
        mask_gt: label, (H, W) bool.
    """
    best = _best(proposals, mask_gt)
    mask = best[0].mask if best else np.zeros_like(mask_gt)
    figure = figure_of_slices([SegmentedSlice(slice_id, slice_, mask, mask_gt)])
    masks_axis, errors_axis, _ = figure.axes
    masks_axis.images[0].set_data(paint_masks(to_display(slice_), [proposal.mask for proposal in proposals]))
    together = f"{len(proposals)} masks, together Dice {_dice_of_union(proposals, mask_gt):.3f}"
    masks_axis.set_title(f"{slice_id}: {together}", fontsize=9)
    errors_axis.set_title(f"best mask: {errors_axis.get_title()}", fontsize=9)
    texts = [
        f"Dice {dice_coefficient(mask_gt, proposal.mask):.3f} "
        f"({np.count_nonzero(proposal.mask):,} px, predicted IoU {proposal.predicted_iou:.2f})"
        for proposal in best
    ]
    figure.suptitle(f"best single masks: {', '.join(texts) or 'none'}", fontsize=10)
    return figure


def paint_masks(display: np.ndarray, masks: Sequence[np.ndarray], seed: int = 0) -> np.ndarray:
    """Lays masks over an image, each in a random colour; later ones cover earlier ones.

    Args:
        display: (H, W, 3) float in 0..1.
        masks: M masks, (H, W) bool.
        seed: the same seed gives the same colours.

    Returns:
        (H, W, 3) float in 0..1.
    """
    rng = np.random.default_rng(seed)
    colours = display.copy()
    for mask in masks:
        colours[mask] = rng.random(3)
    return (1 - _OPACITY) * display + _OPACITY * colours


def _resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT).astype(np.bool_)


def _best(proposals: Sequence[Proposal], mask_gt: np.ndarray) -> list[Proposal]:
    """At most three, the one with the highest Dice first."""
    by_dice = sorted(proposals, key=lambda proposal: dice_coefficient(mask_gt, proposal.mask), reverse=True)
    return by_dice[: len(_RANKS)]


def _dice_of_union(proposals: Sequence[Proposal], mask_gt: np.ndarray) -> float:
    union = reduce(np.logical_or, (proposal.mask for proposal in proposals), np.zeros_like(mask_gt))
    return dice_coefficient(mask_gt, union)


def _precision(mask: np.ndarray, mask_gt: np.ndarray) -> float:
    return np.count_nonzero(mask & mask_gt) / max(np.count_nonzero(mask), 1)
