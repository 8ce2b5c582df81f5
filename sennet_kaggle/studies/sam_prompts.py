"""Labelled slices → what Segment Anything makes of boxes and points on vessels, by the label and by a model's mask."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..config import DEFAULT_INFERENCE, Preprocessing
from ..data.dataset import SliceDataset
from ..data.intensity import measure_intensity, slice_to_image
from ..data.volume import Volume, open_volumes
from ..errors import InputError
from ..files import check_output_dir, make_dir, shipped_checkpoints, write_whole
from ..inference.ensemble import mean_threshold
from ..inference.loading import load_predictors, pick_device
from ..inference.predict import predict_probabilities
from ..inference.predictor import Predictor
from ..models import create_model
from ..models.sam import SamVessels
from ..progress import progress_bar
from ..rendering import figure_to_png
from ..reports import colours
from .sam_tables import LABEL, MODEL, format_prompts
from .zero_shot import check_precision, check_weights

TABLE_NAME, TEXT_NAME, PICTURE_NAME = "prompts.csv", "prompts.md", "prompts.png"
WHOLE, WINDOW = "whole slice", "window"
_WINDOW_SIDE, _GRID_STEP = 256, 64
_LEAST_PART = 1.5  # a window is at least so many times as long as the box in it
_MARGIN = 1  # pixels between a component and its box
_DRAWN = 8


class View(NamedTuple):
    """A square of a slice that is shown to the model; it may reach beyond the slice, which ends there."""

    top: int
    left: int
    side: int


@dataclass(frozen=True)
class Answer:
    """One mask for one prompt."""

    view: View
    mask: np.ndarray
    """(H, W) bool, of the whole slice."""
    target: np.ndarray
    """(H, W) bool: what it should be."""


def run_prompts(
    data_dir: Path | str,
    output_dir: Path | str,
    weights_path: Path | str | None,
    *,
    checkpoints: Sequence[Path] = (),
    volume_names: Sequence[str] = (),
    slice_ids: Sequence[str] = (),
    min_area: int = 100,
    views: Sequence[str] = (WHOLE, WINDOW),
    random_weights: bool = False,
    model_arguments: Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: str = "float32",
) -> pd.DataFrame:
    """Prompts Segment Anything with boxes and points of vessels, and compares its masks with the labels.

    The prompts come from the label's components, an upper bound of what prompts can give, and from the components of
    a trained model's mask, whose masks the answers may improve. Grey values are the volume's percentile range in 8
    bits.

    Args:
        data_dir: a folder in the competition's layout, with `train/<kidney>`.
        output_dir: made if missing; gets `prompts.csv` after every slice, `prompts.md` and `prompts.png` in the end.
        weights_path: Segment Anything's.
        checkpoints: the trained models; the shipped ones when empty.
        volume_names: kidneys; all that there are when empty.
        slice_ids: labelled slices; all of these kidneys when empty.
        min_area: components of fewer pixels are left out.
        views: what the model is shown: "whole slice", and "window", a square around the component.
        random_weights: leave the model's weights as they are made, for comparison; `weights_path` is not read.
        model_arguments: further arguments of `models.sam.create_sam`.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
        precision: arithmetic of Segment Anything, "float32", "bfloat16" or "float16".

    Returns:
        A row per component, view and prompt: see `prompt_slice`.

    Raises:
        InputError: no weights, weights that do not fit, or a kidney, slice, view or device that is not there.
    """
    unknown = sorted({*views} - {WHOLE, WINDOW})
    if unknown or not views:
        raise InputError(f"views must be among {WHOLE!r} and {WINDOW!r}, got {unknown or 'none'}")
    if min_area < 1:
        raise InputError(f"min_area must be at least 1 pixel, got {min_area}")
    check_precision(precision)
    arguments = dict(model_arguments or {})
    if not random_weights:
        arguments["weights_path"] = check_weights(weights_path)
    check_output_dir(output_dir, (TABLE_NAME, TEXT_NAME, PICTURE_NAME))
    volumes = open_volumes(data_dir, "train", tuple(volume_names))
    slices = SliceDataset(volumes, Preprocessing(intensity="eight_bit"), only=slice_ids or None).slices
    torch.manual_seed(0)
    model = cast(SamVessels, create_model("sam", **arguments)).to(pick_device(device))
    model.dtype = getattr(torch, precision)
    predictors = load_predictors([*checkpoints] or shipped_checkpoints(), DEFAULT_INFERENCE)
    output_dir = Path(output_dir)
    make_dir(output_dir)
    rows: list[dict[str, Any]] = []
    drawn: list[tuple[np.ndarray, Answer]] = []
    for slice_id, (volume, z) in progress_bar("prompting", len(slices), slices.items()):
        image = display_levels(volume, z)
        mask_model = _predict(volume, z, predictors)
        for row, answer in prompt_slice(model, image, volume.label(z), mask_model, min_area, views):
            rows.append({"slice": slice_id, **row})
            if (row["source"], row["view"], row["prompt"]) == (LABEL, views[-1], "box"):
                drawn.append((image, answer))
        write_whole(output_dir / TABLE_NAME, pd.DataFrame(rows).to_csv(index=False).encode())
    table = pd.DataFrame(rows)
    if drawn:
        drawn.sort(key=lambda each: np.count_nonzero(each[1].target), reverse=True)
        chosen = drawn[:: max(1, len(drawn) // _DRAWN)][:_DRAWN]
        write_whole(output_dir / PICTURE_NAME, figure_to_png(figure_of_answers(chosen)))
    write_whole(output_dir / TEXT_NAME, format_prompts(table).encode())
    return table


def prompt_slice(
    model: SamVessels,
    image: np.ndarray,
    mask_gt: np.ndarray,
    mask_model: np.ndarray,
    min_area: int,
    views: Sequence[str],
) -> Iterator[tuple[dict[str, Any], Answer]]:
    """Prompts the model with every component of the label and of another model's mask.

    Args:
        model: of `create_sam`.
        image: (H, W, 3) uint8.
        mask_gt: label, (H, W) bool.
        mask_model: another model's mask, (H, W) bool.
        min_area: components of fewer pixels are left out.
        views: WHOLE, WINDOW or both.

    Yields:
        source: "label" or "model"; component: its number in the slice; area in pixels; rank: 1 for the slice's largest
        of that source; view and prompt; iou of the answer, and iou_before of the component itself, with the label's
        component, or with all that the model's component touches (NaN where it touches none). With each the answer.
    """
    wanted = [(LABEL, component, component) for component in components(mask_gt, min_area)]
    parts = components(mask_gt, 1)
    for component in components(mask_model, min_area):
        touched = [part for part in parts if (part & component).any()]
        wanted.append((MODEL, component, np.any(touched, axis=0) if touched else np.zeros_like(mask_gt)))
    sources = [source for source, _, _ in wanted]
    ranks = [sources[: index + 1].count(source) for index, source in enumerate(sources)]
    # By view, so that each is encoded once.
    jobs = [(view_of(component, kind), kind, index) for index, (_, component, _) in enumerate(wanted) for kind in views]
    encoded = None
    for view, kind, index in sorted(jobs):
        if view != encoded:
            predictor, encoded = _encode(model, image, view), view
        source, component, target = wanted[index]
        fixed = {"source": source, "component": index, "area": int(component.sum()), "rank": ranks[index], "view": kind}
        for prompt, mask in answer_prompts(predictor, component, view):
            scores = {"iou": _iou(mask, target), "iou_before": _iou(component, target)}
            yield {**fixed, "prompt": prompt, **scores}, Answer(view, mask, target)


def answer_prompts(predictor: Any, component: np.ndarray, view: View) -> Iterator[tuple[str, np.ndarray]]:
    """The masks, (H, W) bool, for the box around a component (H, W) bool, the point deepest in it, and for both."""
    rows, columns = np.flatnonzero(component.any(1)), np.flatnonzero(component.any(0))
    box = np.array(
        [columns[0] - _MARGIN, rows[0] - _MARGIN, columns[-1] + 1 + _MARGIN, rows[-1] + 1 + _MARGIN], np.float64
    )
    box -= (view.left, view.top) * 2
    depth = cv2.distanceTransform(np.pad(component, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    point = {
        "point_coords": np.array([[column - view.left + 0.5, row - view.top + 0.5]]),
        "point_labels": np.array([1]),
    }
    prompts = {"box": {"box": box}, "point": point, "box and point": {"box": box, **point}}
    for prompt, arguments in prompts.items():
        # A point alone may mean a part or the whole: segment_anything's advice is to take the best of three.
        masks, qualities, _ = predictor.predict(**arguments, multimask_output=prompt == "point")
        mask = np.zeros_like(component)
        place = mask[view.top : view.top + view.side, view.left : view.left + view.side]
        place[:] = masks[int(qualities.argmax())]
        yield prompt, mask


def view_of(component: np.ndarray, kind: str) -> View:
    """The whole slice (H, W), or a window around a component; windows of neighbours are the same, to encode fewer."""
    height, width = component.shape
    if kind == WHOLE:
        return View(0, 0, max(height, width))
    rows, columns = np.flatnonzero(component.any(1)), np.flatnonzero(component.any(0))
    longest = max(np.ptp(rows), np.ptp(columns)) + 1
    side = max(_WINDOW_SIDE, _GRID_STEP * int(np.ceil(_LEAST_PART * longest / _GRID_STEP)))
    starts = []
    for places, length in ((rows, height), (columns, width)):
        middle = (places[0] + places[-1] + 1) / 2
        start = _GRID_STEP * round((middle - side / 2) / _GRID_STEP)
        starts.append(int(np.clip(start, 0, max(0, length - side))))
    top, left = starts
    return View(top, left, side)


def components(mask: np.ndarray, min_area: int) -> list[np.ndarray]:
    """The connected components (8 neighbours) of at least so many pixels, (H, W) bool each, the largest first."""
    count, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    kept = [number for number in range(1, count) if areas[number] >= min_area]
    return [numbers == number for number in sorted(kept, key=lambda number: -areas[number])]


def display_levels(volume: Volume, z: int) -> np.ndarray:
    """Slice z in 8 bits by the percentile range of its volume, (H, W, 3) uint8, R=G=B."""
    preprocessing = Preprocessing()
    levels = slice_to_image(volume[z], measure_intensity(volume, preprocessing), preprocessing).clip(0, 1)
    return cv2.cvtColor((levels * 255).round().astype(np.uint8), cv2.COLOR_GRAY2RGB)


def figure_of_answers(answers: Sequence[tuple[np.ndarray, Answer]]) -> Figure:
    """Draws views with the label's outline in orange, wide, and the answer's over it in blue, so that both are seen."""
    columns = min(4, len(answers))
    rows = -(-len(answers) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.8 * rows + 0.3), layout="constrained", dpi=100)
    for axis in figure.subplots(rows, columns, squeeze=False).flat:
        axis.set_axis_off()
    for axis, (image, answer) in zip(figure.axes, answers, strict=False):
        top, left, side = answer.view
        place = (slice(top, top + side), slice(left, left + side))
        axis.imshow(image[place])
        axis.contour(answer.target[place], [0.5], colors=colours.LABEL, linewidths=2.4)
        if answer.mask[place].any():
            axis.contour(answer.mask[place], [0.5], colors=colours.PREDICTION, linewidths=1.0)
        axis.set_title(
            f"{np.count_nonzero(answer.target):,} px, IoU {_iou(answer.mask, answer.target):.2f}", fontsize=9
        )
    lines = [Line2D([], [], color=colours.LABEL, linewidth=3), Line2D([], [], color=colours.PREDICTION, linewidth=1.5)]
    figure.legend(lines, ["label", "answer"], loc="outside lower center", ncols=2, frameon=False)
    return figure


def _encode(model: SamVessels, image: np.ndarray, view: View) -> Any:
    from segment_anything import SamPredictor

    predictor = SamPredictor(model.sam)
    with model.arithmetic():
        predictor.set_image(
            np.ascontiguousarray(image[view.top : view.top + view.side, view.left : view.left + view.side])
        )
    return predictor


def _predict(volume: Volume, z: int, predictors: Sequence[Predictor]) -> np.ndarray:
    ((_, probability),) = predict_probabilities(volume, predictors, DEFAULT_INFERENCE, [z])
    return probability.numpy(force=True) > mean_threshold(predictors)


def _iou(mask: np.ndarray, target: np.ndarray) -> float:
    if not target.any():
        return float("nan")
    return np.count_nonzero(mask & target) / np.count_nonzero(mask | target)
