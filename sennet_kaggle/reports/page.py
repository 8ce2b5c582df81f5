"""A run, or two, as one HTML page: slices with their errors, Dice along the organ, curves, the vessel tree in 3D."""

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..data.volume import Volume
from ..errors import InputError
from ..files import check_output, write_whole
from ..progress import progress_bar
from ..scoring.score import mean_scores
from .colours import as_css
from .mesh import pack_text
from .page_kidney import KidneyPart, Prediction, greys, read_kidney, sampled_slices, segment_all
from .pictures import LONG_SIDES_AND_QUALITIES, Budget, base64_size, draw_pictures

_SAMPLES = 24  # slices looked at before the first is written
_CURVES = ("dice_pooled", "dice_mean", "dice_without_largest", "surface_dice", "surface_dice_2d_1px")
_SCRIPTS = ("page.js", "slices.js", "overlay.js", "charts.js", "tree.js", "tools.js")
_LEADERBOARD = "The leaderboard's kidneys have no public labels, so no number here is a leaderboard score."


def write_page(
    output_path: Path,
    *,
    title: str,
    volumes: Sequence[Volume],
    rles: Mapping[str, Any],
    about: Mapping[str, str] | None = None,
    seen: Mapping[str, str] | None = None,
    name: str = "Prediction",
    other: Prediction | None = None,
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
        volumes: the kidneys, labelled or not, under any names, at least one.
        rles: run-length encodings of the prediction by slice id, or masks (H, W) bool; further ids are ignored.
        about: what made it: values by what they are, such as "checkpoint".
        seen: slices that its model has seen, "learned" or "chosen", by slice id (see `page_kidney.Prediction`).
        name: of the run, where there is another.
        other: a second run on the same kidneys, to stand beside it.
        history: a training run's metrics.csv: columns epoch, loss, held_out_dice (missing where not looked at).
        sweep: columns threshold and any of dice_pooled, dice_mean, dice_without_largest, surface_dice,
            surface_dice_2d_1px; its `attrs` may have plateau_low and plateau_high.
        notes: sentences for its top.
        max_bytes: the file's size at most; slices are scaled and compressed until they fit.

    Raises:
        InputError: no kidney, a slice without prediction, a table without its columns, a damaged slice or
            encoding, a `max_bytes` that the smallest pictures exceed, or the output's folder is missing.
    """
    runs = [Prediction(rles, name, about or {}, seen or {}), *([other] if other else [])]
    _check(volumes, runs, history, sweep)
    check_output(output_path, (path for volume in volumes for path in volume.paths))
    if other and other.name == name:
        runs = [replace(run, name=f"{run.name} ({number})") for number, run in enumerate(runs, 1)]
    slices = sum(map(len, volumes))
    scripts = "\n".join(_asset(each) for each in _SCRIPTS)
    fixed = {
        "css": as_css() + _asset("page.css"),
        "js": f'"use strict";\n(() => {{\n{scripts}}})();\n',
        "viewer": pack_text(_viewer_source()),
    }
    # Beside each picture stand its tags and its row of counts, about 250 bytes.
    room = max_bytes - sum(map(len, fixed.values())) - 20_000 - 250 * len(runs) * slices
    for_trees = room // 8
    budget = Budget(room - for_trees, slices, _first_rung(volumes, runs, (room - for_trees) / slices))
    with progress_bar("drawing the page", slices) as progress:
        parts = [
            read_kidney(k, volume, runs, budget, for_trees // len(volumes), progress)
            for k, volume in enumerate(volumes)
        ]
    facts = {
        "runs": [_run_facts(run, r, parts) for r, run in enumerate(runs)],
        "kidneys": [part.facts for part in parts],
        "remarks": _remarks(parts),
        "sweep": _sweep_facts(sweep),
        "history": _history_facts(history),
    }
    said = "".join(f"<p>{html.escape(note)}</p>\n" for note in notes)
    blocks = "\n".join(block for part in parts for block in part.blocks)
    changing = {"title": html.escape(title), "notes": said, "facts": _json(facts), "blocks": blocks}
    page = _fill(_asset("page.html"), fixed | changing).encode()
    if len(page) > max_bytes:
        raise InputError(f"the page has {len(page)} bytes but max_bytes is {max_bytes}: allow more, or fewer slices")
    write_whole(output_path, page)


def _run_facts(run: Prediction, r: int, parts: Sequence[KidneyPart]) -> dict[str, Any]:
    """A run's name, what made it, and its scores: the mean over the labelled kidneys."""
    scores = {part.facts["name"]: part.scores[r] for part in parts if part.scores}
    mean = mean_scores(scores) if scores else None
    names = ("surface_dice", "surface_dice_2d_1px", "dice_pooled", "dice_mean")
    return {
        "name": run.name,
        "about": [[str(what), str(value)] for what, value in run.about.items()],
        "scores": None if mean is None else {each: getattr(mean, each) for each in names},
    }


def _remarks(parts: Sequence[KidneyPart]) -> list[str]:
    """Sentences on what the competition's metric may not be compared with."""
    if not any(part.scores for part in parts):
        return []
    of_kidneys = [
        f"Surface Dice of {part.facts['name']} cannot be compared with the leaderboard: {'; '.join(part.remarks)}."
        for part in parts
        if part.remarks
    ]
    return [*of_kidneys, _LEADERBOARD]


def _first_rung(volumes: Sequence[Volume], runs: Sequence[Prediction], share: float) -> int:
    """The largest pictures whose mean size on sampled slices stays below `share` bytes."""
    sampled = list(sampled_slices(volumes, _SAMPLES))
    windows = {volume.name: greys(volume)[0] for volume in {volume.name: volume for volume, _ in sampled}.values()}
    totals = np.zeros(len(LONG_SIDES_AND_QUALITIES))
    first = 0
    for volume, z in sampled:
        segmented = segment_all(volume, z, runs)
        for rung in range(first, len(totals)):
            pictures = draw_pictures(segmented, windows[volume.name], *LONG_SIDES_AND_QUALITIES[rung])
            totals[rung] += base64_size(pictures)
        while first < len(totals) - 1 and totals[first] > 0.95 * share * len(sampled):
            first += 1
    return first


def _check(
    volumes: Sequence[Volume], runs: Sequence[Prediction], history: pd.DataFrame | None, sweep: pd.DataFrame | None
) -> None:
    if not volumes:
        raise InputError("a report page needs at least one kidney, got none")
    for volume in volumes:
        for number, run in enumerate(runs):
            missing = [slice_id for slice_id in volume.slice_ids if slice_id not in run.rles]
            whose = f"the prediction of {run.name}" if number else "the prediction"
            if missing:
                raise InputError(f"{whose} has no row for {missing[0]} ({len(missing)} of {volume.name} missing)")
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
    facts: dict[str, Any] = {name: _floats(table[name]) for name in ("threshold", *_CURVES) if name in table}
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
