"""Training runs as curves."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..rendering import SERIES, plain_ticks, whole_ticks

_DPI = 110
_DASHES = ("-", "--", "-.")
"""Beside the colours, some of which look alike to some readers."""


def figure_of_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Draws training runs: the loss on the left, Dice on the right.

    Args:
        histories: by the run's name ("" for one without), tables with the columns epoch, loss, dice_soft and
            held_out_dice (missing where the held-out slices were not looked at).
    """
    figure = Figure(figsize=(12, 5.0), layout="constrained", dpi=_DPI)
    loss_axis, dice_axis = figure.subplots(1, 2)
    for index, (name, history) in enumerate(histories.items()):
        style = {"color": SERIES[index % len(SERIES)], "marker": "o" if len(history) == 1 else None}
        dashes = _DASHES[index % len(_DASHES)]
        loss_axis.plot(history["epoch"], history["loss"], dashes, label=name, **style)
        dice_axis.plot(history["epoch"], history["dice_soft"], ":", **style)
        looked = history.dropna(subset="held_out_dice")
        dice_axis.plot(looked["epoch"], looked["held_out_dice"], dashes, **style | {"marker": "o", "markersize": 3})
    loss_axis.set(xlabel="epoch", ylabel="training loss (logarithmic)", yscale="log")
    dice_axis.set(xlabel="epoch", ylabel="Dice", ylim=(0, 1))
    plain_ticks(loss_axis.yaxis)
    for axis in (loss_axis, dice_axis):
        axis.grid(alpha=0.3)
        whole_ticks(axis.xaxis)
        axis.spines[["top", "right"]].set_visible(False)
    names = loss_axis.get_legend_handles_labels() if any(histories) else ([], [])
    how = [
        Line2D([], [], color="black", marker="o", markersize=3),
        Line2D([], [], color="black", linestyle=":"),
    ]
    dice_axis.legend(how, ["masks of held-out slices", "training, of the probabilities"], **_below(dice_axis, 2))
    if names[0]:
        figure.legend(*names, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _below(axis: Axes, columns: int) -> dict[str, object]:
    """Where a legend stands that covers neither lines nor title."""
    return {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": columns, "frameon": False}
