"""A run as one HTML page: slices with their errors, Dice along the organ, curves, the vessel tree in 3D."""

import base64
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from ..data.padding import crop_padding
from ..data.volume import Volume
from ..errors import InputError
from ..files import check_output, write_whole
from ..progress import progress_bar
from ..scoring.metrics import dice_counts, dice_from_counts
from .mesh import MAX_TRIANGLES, CoarseMask, decimate, encode_mesh, pack_text, surface
from .pictures import LONG_SIDES_AND_QUALITIES, Budget, Window, base64_size, draw_pictures
from .report import SegmentedSlice, segmented_slice

_MIN_TREE_SLICES, _MIN_TRIANGLES = 3, 100
_SAMPLES = 24  # slices looked at before the first is written
_CURVES = ("dice_pooled", "dice_mean", "dice_without_largest", "surface_dice", "surface_dice_2d_1px")


def write_page(
    output_path: Path,
    *,
    title: str,
    volumes: Sequence[Volume],
    rles: Mapping[str, str],
    history: pd.DataFrame | None = None,
    sweep: pd.DataFrame | None = None,
    notes: Sequence[str] = (),
    max_bytes: int = 20_000_000,
) -> None:
    """Writes the report of a run as one HTML file that needs no network and no other file.

    Slices are read one at a time; what is kept of them are their pictures, together less than `max_bytes`, and a
    coarse mask of the kidney for the 3D view.

    Args:
        output_path: the .html to make; an existing one is replaced when the new one is complete.
        title: stands at the top.
        volumes: the kidneys, labelled or not, at least one.
        rles: run-length encodings of the prediction by slice id; further ids are ignored.
        history: a training run's metrics.csv: columns epoch, loss, held_out_dice (missing where not looked at).
        sweep: columns threshold and any of dice_pooled, dice_mean, dice_without_largest, surface_dice,
            surface_dice_2d_1px; its `attrs` may have plateau_low and plateau_high.
        notes: sentences for its top, such as what made the prediction.
        max_bytes: the file's size at most; slices are scaled and compressed until they fit.

    Raises:
        InputError: no kidney, a slice without prediction, a table without its columns, a damaged slice or
            encoding, a `max_bytes` that the smallest pictures exceed, or the output's folder is missing.
    """
    _check(volumes, rles, history, sweep)
    check_output(output_path, (path for volume in volumes for path in volume.paths))
    slices = sum(map(len, volumes))
    fixed = {"css": _asset("page.css"), "js": _asset("page.js"), "viewer": pack_text(_viewer_source())}
    # Beside each picture stand its tags and its row of counts, about 250 bytes.
    room = max_bytes - sum(map(len, fixed.values())) - 20_000 - 250 * slices
    for_trees = room // 8
    budget = Budget(room - for_trees, slices, _first_rung(volumes, rles, (room - for_trees) / slices))

    kidneys, blocks = [], []
    with progress_bar("drawing the page", slices) as progress:
        for k, volume in enumerate(volumes):
            kidney, kidney_blocks = _add_kidney(k, volume, rles, budget, for_trees // len(volumes), progress)
            kidneys.append(kidney)
            blocks += kidney_blocks
    facts = {"kidneys": kidneys, "sweep": _sweep_facts(sweep), "history": _history_facts(history)}
    said = "".join(f"<p>{html.escape(note)}</p>\n" for note in notes)
    changing = {"title": html.escape(title), "notes": said, "facts": _json(facts), "blocks": "\n".join(blocks)}
    page = _fill(_asset("page.html"), fixed | changing).encode()
    if len(page) > max_bytes:
        raise InputError(f"the page has {len(page)} bytes but max_bytes is {max_bytes}: allow more, or fewer slices")
    write_whole(output_path, page)


def _add_kidney(
    k: int, volume: Volume, rles: Mapping[str, str], budget: Budget, mesh_bytes: int, progress: tqdm
) -> tuple[dict[str, Any], list[str]]:
    """Reads a kidney once: its facts for page.js, and its pictures and meshes as blocks of the page."""
    window = _window(volume)
    labelled = [volume.is_labelled(z) for z in range(len(volume))]
    no_tree = _why_no_tree(volume)
    coarse = {} if no_tree else {"prediction": CoarseMask((len(volume), *volume.slice_size(0)))}
    if coarse and all(labelled):
        coarse["label"] = CoarseMask(coarse["prediction"].shape)
    rows, blocks = [], []
    for z in range(len(volume)):
        segmented = _segmented(volume, z, rles)
        pictures = budget.draw(segmented, window)
        blocks += [_block(f"image-{k}-{z}", pictures.image), _block(f"overlay-{k}-{z}", pictures.overlay)]
        rows.append(_slice_facts(segmented))
        for name, mask in (("prediction", segmented.mask_pred), ("label", segmented.mask_gt)):
            if name in coarse and mask is not None:
                coarse[name].add(z, mask)
        progress.update()
    meshes, mesh_blocks = _add_meshes(k, coarse, mesh_bytes)
    kidney = {
        "name": volume.name,
        "slices": rows,
        "numbers": _numbers(volume) or list(range(1, len(volume) + 1)),
        "numbered": _numbers(volume) is not None,
        "meshes": meshes,
        "noTree": no_tree or ("" if meshes else "The prediction is empty: there is no vessel to show."),
        **_totals(rows),
    }
    return kidney, blocks + mesh_blocks


def _segmented(volume: Volume, z: int, rles: Mapping[str, str]) -> SegmentedSlice:
    try:
        return segmented_slice(volume, z, rles)
    except InputError as error:
        raise InputError(f"{volume.slice_ids[z]}: {error}") from error


def _slice_facts(segmented: SegmentedSlice) -> dict[str, Any]:
    """Counts at the slice's own size; `gt`, `both` and `dice` are None where there is no label."""
    facts = {"id": segmented.slice_id, "size": segmented.image.shape, "gt": None, "both": None, "dice": None}
    if segmented.mask_gt is None:
        return facts | {"pred": int(np.count_nonzero(segmented.mask_pred))}
    counts = [int(count) for count in dice_counts(segmented.mask_gt, segmented.mask_pred)]
    return facts | {"gt": counts[0], "pred": counts[1], "both": counts[2], "dice": dice_from_counts(*counts)}


def _totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Pooled and mean Dice of the labelled slices, None without one."""
    labelled = [row for row in rows if row["dice"] is not None]
    counts = [sum(row[key] for row in labelled) for key in ("gt", "pred", "both")]
    return {
        "labelled": len(labelled),
        "pooled": dice_from_counts(*counts) if labelled else None,
        "mean": float(np.mean([row["dice"] for row in labelled])) if labelled else None,
    }


def _add_meshes(k: int, coarse: Mapping[str, CoarseMask], max_bytes: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Meshes of a kidney, coarser ones where they would take more than `max_bytes`."""
    meshes, blocks = [], []
    for name, mask in coarse.items():
        mesh, triangles = surface(mask), MAX_TRIANGLES // len(coarse)
        while mesh and triangles >= _MIN_TRIANGLES:
            mesh = decimate(mesh, triangles)
            facts, vertices, faces = encode_mesh(mesh)
            if len(vertices) + len(faces) <= max_bytes // len(coarse):
                meshes.append({"name": name, **facts})
                blocks += [_script(f"vertices-{k}-{name}", vertices), _script(f"faces-{k}-{name}", faces)]
                break
            triangles = min(triangles, len(mesh.faces)) // 2
    return meshes, blocks


def _why_no_tree(volume: Volume) -> str:
    """Why a kidney is not shown in 3D; empty when it is."""
    if len(volume) < _MIN_TREE_SLICES:
        return f"The 3D view needs at least {_MIN_TREE_SLICES} consecutive slices; this kidney has {len(volume)}."
    numbers = _numbers(volume)
    if numbers and numbers[-1] - numbers[0] != len(volume) - 1:
        return "The 3D view needs consecutive slices; this kidney's have gaps."
    if len({volume.slice_size(z) for z in range(len(volume))}) > 1:
        return "The 3D view needs slices of one size; this kidney's differ."
    return ""


def _numbers(volume: Volume) -> list[int] | None:
    """The slices' numbers when all their names are numbers that ascend."""
    stems = [path.stem for path in volume.image_paths]
    if not all(re.fullmatch("[0-9]{1,9}", stem) for stem in stems):
        return None
    numbers = [int(stem) for stem in stems]
    return numbers if all(a < b for a, b in zip(numbers, numbers[1:], strict=False)) else None


def _window(volume: Volume) -> Window:
    """One window for the kidney, so that brightness does not jump from slice to slice."""
    sampled = np.concatenate([crop_padding(volume[z])[::4, ::4].ravel() for z in _spread(len(volume), 8)])
    return Window(*np.percentile(sampled, (0.5, 99.8)).tolist())


def _first_rung(volumes: Sequence[Volume], rles: Mapping[str, str], share: float) -> int:
    """The largest pictures whose mean size on sampled slices stays below `share` bytes."""
    slices = [(volume, z) for volume in volumes for z in range(len(volume))]
    sampled = [slices[at] for at in _spread(len(slices), _SAMPLES)]
    windows = {volume.name: _window(volume) for volume in {volume.name: volume for volume, _ in sampled}.values()}
    totals = np.zeros(len(LONG_SIDES_AND_QUALITIES))
    first = 0
    for volume, z in sampled:
        segmented = _segmented(volume, z, rles)
        for rung in range(first, len(totals)):
            pictures = draw_pictures(segmented, windows[volume.name], *LONG_SIDES_AND_QUALITIES[rung])
            totals[rung] += base64_size(pictures)
        while first < len(totals) - 1 and totals[first] > 0.95 * share * len(sampled):
            first += 1
    return first


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices, evenly over 0..count - 1, away from the ends where there are more."""
    wanted = min(count, wanted)
    return [int((i + 0.5) * count / wanted) for i in range(wanted)]


def _check(
    volumes: Sequence[Volume], rles: Mapping[str, str], history: pd.DataFrame | None, sweep: pd.DataFrame | None
) -> None:
    if not volumes:
        raise InputError("a report page needs at least one kidney, got none")
    for volume in volumes:
        missing = [slice_id for slice_id in volume.slice_ids if slice_id not in rles]
        if missing:
            raise InputError(f"the prediction has no row for {missing[0]} ({len(missing)} of {volume.name} missing)")
    for name, table, columns in (
        ("history", history, ["epoch", "loss", "held_out_dice"]),
        ("sweep", sweep, ["threshold"]),
    ):
        if table is not None and not set(columns) <= set(table.columns):
            found = ", ".join(map(str, table.columns))
            raise InputError(f"{name} must have the columns {', '.join(columns)}, found {found}")
    if sweep is not None and not set(_CURVES) & set(sweep.columns):
        raise InputError(f"sweep must have one of the columns {', '.join(_CURVES)}")


def _sweep_facts(sweep: pd.DataFrame | None) -> dict[str, Any] | None:
    if sweep is None or sweep.empty:
        return None
    table = sweep.sort_values("threshold")
    facts = {name: _floats(table[name]) for name in ("threshold", *_CURVES) if name in table}
    plateau = [sweep.attrs.get(name) for name in ("plateau_low", "plateau_high")]
    return facts | {"plateau": None if None in plateau else [float(end) for end in plateau]}


def _history_facts(history: pd.DataFrame | None) -> dict[str, Any] | None:
    if history is None or history.empty:
        return None
    return {name: _floats(history[name]) for name in ("epoch", "loss", "held_out_dice")}


def _floats(column: pd.Series) -> list[float | None]:
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    return [number if math.isfinite(number) else None for number in numbers]


def _viewer_source() -> bytes:
    """plotly.js (MIT licence), out of the Python package's wheel."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().encode()


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _fill(template: str, values: Mapping[str, str]) -> str:
    """Replaces {{name}}; what is filled in is not looked at again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _json(facts: Any) -> str:
    """JSON that may stand in a script element, whatever its strings hold."""
    text = json.dumps(facts, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _block(element_id: str, payload: bytes) -> str:
    return _script(element_id, base64.b64encode(payload).decode())


def _script(element_id: str, text: str) -> str:
    """A script element that no browser runs: text that is only looked at when page.js asks for it."""
    return f'<script type="text/plain" id="{element_id}">{text}</script>'
