"""A kidney and what one run or two made of it, read once → the facts, pictures and meshes of its part of the page."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data.organ import organ_box
from ..data.padding import crop_padding
from ..data.volume import Volume
from ..errors import InputError
from ..progress import Bar
from ..scoring.metrics import dice_counts, dice_from_counts
from ..scoring.score import KidneyScorer, Scores, depth_remarks
from .mesh import (
    MAX_TRIANGLES,
    SHELL_BLUR,
    SHELL_TRIANGLES,
    CoarseMask,
    CoarseOrgan,
    decimate,
    encode_mesh,
    surface,
)
from .pictures import Budget, Window
from .report import SegmentedSlice, segmented_slice

_MIN_TREE_SLICES, _MIN_TRIANGLES = 3, 100
_MOST_BOXES = 100  # slices that each have a box of their own
_GREYS_KEPT, _GREYS_SHOWN = (0.02, 99.98), (0.5, 99.8)  # percentiles


@dataclass(frozen=True)
class Prediction:
    """What one run made of the kidneys."""

    rles: Mapping[str, Any]
    """Run-length encodings, or masks (H, W) bool, by slice id; further ids are ignored."""
    name: str = "Prediction"
    about: Mapping[str, str] = field(default_factory=dict)
    """What made it: values by what they are, such as "checkpoint"."""
    seen: Mapping[str, str] = field(default_factory=dict)
    """Slices that its model has seen: "learned" or "chosen" (epoch and threshold were, on it), by slice id."""


@dataclass(frozen=True)
class KidneyPart:
    """A kidney's part of the page."""

    facts: dict[str, Any]
    """For page.js."""
    blocks: list[str]
    """Script elements with its pictures and meshes."""
    scores: list[Scores] | None
    """Of each run; None without labels."""
    remarks: list[str]
    """Why the Surface Dice cannot be compared with the leaderboard."""


def read_kidney(
    k: int, volume: Volume, runs: Sequence[Prediction], budget: Budget, mesh_bytes: int, progress: Bar
) -> KidneyPart:
    """Reads a kidney once.

    Args:
        k: its number on the page.
        volume: the kidney.
        runs: one or two.
        budget: of the pictures.
        mesh_bytes: that its meshes may take together.
        progress: goes on by a step per slice.
    """
    kept, shown = greys(volume)
    no_tree = _why_no_tree(volume)
    labelled = [volume.is_labelled(z) for z in range(len(volume))]
    coarse = {} if no_tree else _coarse_masks(volume, len(runs), all(labelled))
    shell = None if no_tree else CoarseOrgan((len(volume), *volume.slice_size(0)))
    scorers = [KidneyScorer() for _ in runs]
    rows, blocks, begins = [], [], _begins_run(volume, labelled)
    for z in range(len(volume)):
        segmented = segment_all(volume, z, runs)
        pictures = budget.draw(segmented, kept)
        blocks.append(_block(f"image-{k}-{z}", pictures.image))
        names = ("overlay", "other")
        blocks += [_block(f"{name}-{k}-{z}", each) for name, each in zip(names, pictures.overlays, strict=False)]
        rows.append(_slice_facts(segmented, runs))
        masks = {"prediction": segmented[0].mask_pred, "label": segmented[0].mask_gt, "other": segmented[-1].mask_pred}
        for name, mask in masks.items():
            if name in coarse and mask is not None:
                coarse[name].add(z, mask)
        if shell:
            shell.add_image(z, segmented[0].image)
        if labelled[z]:
            for scorer, each in zip(scorers, segmented, strict=True):
                scorer.update(each.label, each.mask_pred, begins_run=begins[z])
        progress.update()
    meshes, mesh_blocks = _add_meshes(k, coarse, shell, mesh_bytes)
    scores = [scorer.compute() for scorer in scorers] if any(labelled) else None
    facts = {
        "name": volume.name,
        "slices": rows,
        "numbers": numbers_of(volume) or list(range(1, len(volume) + 1)),
        "numbered": numbers_of(volume) is not None,
        "grey": [*kept],
        "window": [*shown],
        "boxes": _boxes(volume),
        "meshes": meshes,
        "noTree": no_tree or ("" if meshes else "The prediction is empty: there is no vessel to show."),
        "labelled": sum(labelled),
        "surface": scores[0].surface_dice if scores else None,
        "pooled": scores[0].dice_pooled if scores else None,
        "mean": scores[0].dice_mean if scores else None,
    }
    remarks = depth_remarks(scores[0], labelled.count(False)) if scores else []
    return KidneyPart(facts, blocks + mesh_blocks, scores, remarks)


def segment_all(volume: Volume, z: int, runs: Sequence[Prediction]) -> list[SegmentedSlice]:
    """A slice with what each run predicted for it; image and label are read once.

    Raises:
        InputError: a slice or encoding is damaged; it names the slice.
    """
    try:
        first = segmented_slice(volume, z, runs[0].rles)
        further = [segmented_slice(volume, z, run.rles, like=first) for run in runs[1:]]
    except InputError as error:
        raise InputError(f"{volume.slice_ids[z]}: {error}") from error
    return [first, *further]


def greys(volume: Volume) -> tuple[Window, Window]:
    """The grey values that a kidney's pictures keep, and those that are shown at first: brightness does not jump."""
    sampled = np.concatenate([crop_padding(volume[z])[::4, ::4].ravel() for z in spread_evenly(len(volume), 8)])
    kept, shown = (Window(*np.percentile(sampled, ends).tolist()) for ends in (_GREYS_KEPT, _GREYS_SHOWN))
    return kept, shown


def spread_evenly(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices, evenly over 0..count - 1, away from the ends where there are more."""
    wanted = min(count, wanted)
    return [int((i + 0.5) * count / wanted) for i in range(wanted)]


def numbers_of(volume: Volume) -> list[int] | None:
    """The slices' numbers when all their names are numbers that ascend."""
    stems = [path.stem for path in volume.image_paths]
    if not all(re.fullmatch("[0-9]{1,9}", stem) for stem in stems):
        return None
    numbers = [int(stem) for stem in stems]
    return numbers if all(a < b for a, b in zip(numbers, numbers[1:], strict=False)) else None


def script_element(element_id: str, text: str) -> str:
    """A script element that no browser runs: text that is only looked at when page.js asks for it."""
    return f'<script type="text/plain" id="{element_id}">{text}</script>'


def _coarse_masks(volume: Volume, runs: int, with_label: bool) -> dict[str, CoarseMask]:
    names = ["prediction", *["label"] * with_label, *["other"] * (runs > 1)]
    return {name: CoarseMask((len(volume), *volume.slice_size(0))) for name in names}


def _begins_run(volume: Volume, labelled: Sequence[bool]) -> list[bool]:
    """Whether each slice does not go on from a labelled one just below it."""
    numbers = numbers_of(volume) or list(range(len(volume)))
    return [
        z == 0
        or not labelled[z - 1]
        or numbers[z] != numbers[z - 1] + 1
        or volume.slice_size(z) != volume.slice_size(z - 1)
        for z in range(len(volume))
    ]


def _slice_facts(segmented: Sequence[SegmentedSlice], runs: Sequence[Prediction]) -> dict[str, Any]:
    """Counts at the slice's own size; `gt`, `both` and `dice` are None where there is no label."""
    first = segmented[0]
    seen = next((run.seen[first.slice_id] for run in runs if first.slice_id in run.seen), None)
    facts = {"id": first.slice_id, "size": first.image.shape, "gt": None, "seen": seen, **_counts(first)}
    if first.mask_gt is not None:
        facts["gt"] = int(np.count_nonzero(first.mask_gt))
    return facts | ({"other": _counts(segmented[1])} if len(segmented) > 1 else {})


def _counts(segmented: SegmentedSlice) -> dict[str, Any]:
    if segmented.mask_gt is None:
        return {"pred": int(np.count_nonzero(segmented.mask_pred)), "both": None, "dice": None}
    counts = [int(count) for count in dice_counts(segmented.mask_gt, segmented.mask_pred)]
    return {"pred": counts[1], "both": counts[2], "dice": dice_from_counts(*counts)}


def _boxes(volume: Volume) -> list[list[float]]:
    """Top, bottom, left and right of the organ, as parts of the slice's height and width.

    Where slices follow one another, one box for all of them, so that the picture does not jump; else one for each, as
    the organ may be of any size in it.
    """
    apart = _has_gaps(volume) and len(volume) <= _MOST_BOXES
    boxes = []
    for z in range(len(volume)) if apart else spread_evenly(len(volume), 8):
        height, width = volume.slice_size(z)
        boxes.append((np.array(organ_box(volume[z])) / (height, height, width, width)).tolist())
    if apart:
        return boxes
    tops, bottoms, lefts, rights = zip(*boxes, strict=True)
    return [[min(tops), max(bottoms), min(lefts), max(rights)]]


def _add_meshes(
    k: int, coarse: Mapping[str, CoarseMask], shell: CoarseOrgan | None, max_bytes: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Meshes of a kidney, coarser ones where they would take more than `max_bytes`."""
    meshes: list[dict[str, Any]] = []
    blocks: list[str] = []
    wanted = [(name, surface(mask), MAX_TRIANGLES // len(coarse)) for name, mask in coarse.items()]
    if shell and any(mesh for _, mesh, _ in wanted):
        shell.keep_largest()
        wanted.append(("organ", surface(shell, SHELL_BLUR), SHELL_TRIANGLES))
    for name, mesh, triangles in wanted:
        while mesh and triangles >= _MIN_TRIANGLES:
            mesh = decimate(mesh, triangles)
            facts, vertices, faces = encode_mesh(mesh)
            if len(vertices) + len(faces) <= max_bytes // len(wanted):
                meshes.append({"name": name, **facts})
                blocks += [
                    script_element(f"vertices-{k}-{name}", vertices),
                    script_element(f"faces-{k}-{name}", faces),
                ]
                break
            triangles = min(triangles, len(mesh.faces)) // 2
    return ([], []) if {mesh["name"] for mesh in meshes} <= {"organ"} else (meshes, blocks)


def _has_gaps(volume: Volume) -> bool:
    """Whether numbers are missing between those of the slices."""
    numbers = numbers_of(volume)
    return numbers is not None and numbers[-1] - numbers[0] != len(volume) - 1


def _why_no_tree(volume: Volume) -> str:
    """Why a kidney is not shown in 3D; empty when it is."""
    if len(volume) < _MIN_TREE_SLICES:
        return f"The 3D view needs at least {_MIN_TREE_SLICES} consecutive slices; this kidney has {len(volume)}."
    if _has_gaps(volume):
        return "The 3D view needs consecutive slices; this kidney's have gaps."
    if len({volume.slice_size(z) for z in range(len(volume))}) > 1:
        return "The 3D view needs slices of one size; this kidney's differ."
    return ""


def _block(element_id: str, payload: bytes) -> str:
    return script_element(element_id, base64.b64encode(payload).decode())


def sampled_slices(volumes: Sequence[Volume], wanted: int) -> Iterator[tuple[Volume, int]]:
    """Slices spread over kidneys."""
    slices = [(volume, z) for volume in volumes for z in range(len(volume))]
    return (slices[at] for at in spread_evenly(len(slices), wanted))
