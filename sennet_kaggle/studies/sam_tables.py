"""What Segment Anything proposes, and answers to prompts → tables in Markdown."""

import pandas as pd

from ..rendering import markdown_table

LABEL, MODEL = "label", "model"
SIZES = ((1, 100), (100, 200), (200, 500), (500, 1000), (1000, None))
"""Pixels of a component: from, up to."""
_LARGEST = 2
# Columns of the text, and their form; a slice with fewer masks has "nan".
_SHOWN = {
    "masks": "{:.0f}",
    "dice_union": "{:.3f}",
    "dice_best": "{:.3f}",
    "dice_second": "{:.3f}",
    "dice_third": "{:.3f}",
    "dice_oracle": "{:.3f}",
    "seconds": "{:.1f}",
}


def format_zero_shot(table: pd.DataFrame) -> str:
    """The table of `zero_shot.run_zero_shot` in Markdown, with the mean of all slices in the last row."""
    shown = table[["slice", *_SHOWN]]
    mean = {"slice": "mean", **shown[list(_SHOWN)].mean().to_dict()}
    rows = [*shown.to_dict("records"), mean]
    cells = [[row["slice"], *(_SHOWN[name].format(row[name]) for name in _SHOWN)] for row in rows]
    titles = ["slice", *(name.replace("dice_", "Dice, ").replace("_", " ") for name in _SHOWN)]
    return markdown_table(titles, cells)


def format_prompts(table: pd.DataFrame) -> str:
    """Writes the tables of `sam_prompts.run_prompts`: prompts from the label, and from a model, by size.

    Args:
        table: its rows.

    Returns:
        Markdown; a table that would be empty is left out.
    """
    parts = []
    labels, model = table[table["source"] == LABEL], table[table["source"] == MODEL]
    if len(labels):
        parts.append("Prompts from the label, an upper bound. IoU with the component that the prompt is of.\n")
        parts.append(_label_table(labels))
    found = model[model["iou_before"].notna()]
    if len(found):
        parts.append(
            "Prompts from the trained model's components that touch a vessel. IoU with all components of the label "
            "that they touch, before (the model's) and after (Segment Anything's).\n"
        )
        parts.append(_model_table(found))
    missed = model[model["iou_before"].isna()].drop_duplicates(["slice", "component"])
    if len(model):
        parts.append(f"{len(missed)} of the model's components touch no vessel; no prompt can make one of them.\n")
    return "\n".join(parts)


def _label_table(rows: pd.DataFrame) -> str:
    cells = []
    for (kidney, view, prompt), part in rows.groupby([_kidney(rows), "view", "prompt"], sort=True):
        sizes = [_mean(_of_size(part, size)["iou"]) for size in SIZES]
        largest = part[part["rank"] <= _LARGEST]["iou"]
        cells.append(
            [kidney, view, prompt, len(part), _mean(part["iou"]), _median(part["iou"]), *sizes]
            + [len(largest), _mean(largest), _median(largest)]
        )
    names = [f"two largest of a slice: {name}" for name in ("components", "mean", "median")]
    return markdown_table(
        ["kidney", "shown", "prompt", "components", "mean", "median", *map(_size_name, SIZES), *names], cells
    )


def _model_table(rows: pd.DataFrame) -> str:
    cells = []
    for (kidney, view, prompt), part in rows.groupby([_kidney(rows), "view", "prompt"], sort=True):
        sizes = []
        for size in SIZES:
            chosen = _of_size(part, size)
            better = f"{(chosen['iou'] > chosen['iou_before']).sum()} of {len(chosen)}"
            sizes.append(
                f"{_mean(chosen['iou_before'])} → {_mean(chosen['iou'])}, better {better}" if len(chosen) else ""
            )
        cells.append([kidney, view, prompt, f"{_mean(part['iou_before'])} → {_mean(part['iou'])}", *sizes])
    return markdown_table(["kidney", "shown", "prompt", "all", *map(_size_name, SIZES)], cells)


def _kidney(rows: pd.DataFrame) -> pd.Series:
    return rows["slice"].str.rsplit("_", n=1).str[0].rename("kidney")


def _of_size(rows: pd.DataFrame, size: tuple[int, int | None]) -> pd.DataFrame:
    least, below = size
    return rows[(rows["area"] >= least) & (rows["area"] < (below or float("inf")))]


def _size_name(size: tuple[int, int | None]) -> str:
    return f"{size[0]} px up" if size[1] is None else f"{size[0]}-{size[1] - 1} px"


def _mean(values: pd.Series) -> str:
    return f"{values.mean():.2f}" if len(values) else ""


def _median(values: pd.Series) -> str:
    return f"{values.median():.2f}" if len(values) else ""
