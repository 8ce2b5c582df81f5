"""Training runs as curves."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from .colours import SERIES

_DPI = 110
_DASHES = ("-", "--")
"""Once the colours are used up."""


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
        dashes = _DASHES[index // len(SERIES) % len(_DASHES)]
        loss_axis.plot(history["epoch"], history["loss"], dashes, label=name, **style)
        dice_axis.plot(history["epoch"], history["dice_soft"], ":", **style)
        looked = history.dropna(subset="held_out_dice")
        dice_axis.plot(looked["epoch"], looked["held_out_dice"], dashes, **style | {"marker": "o", "markersize": 3})
    loss_axis.set(xlabel="epoch", ylabel="training loss (logarithmic)", yscale="log")
    dice_axis.set(xlabel="epoch", ylabel="Dice", ylim=(0, 1))
    _plain_ticks(loss_axis)
    for axis in (loss_axis, dice_axis):
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
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


def _plain_ticks(axis: Axes) -> None:
    """Writes 0.05 and not 5 times 10 to a power, and enough of them that each curve has two beside it."""
    low, high = axis.get_ylim()
    steps = (1.0,) if high / low > 1000 else (1.0, 2.0, 5.0) if high / low > 3 else tuple(range(1, 10))
    axis.yaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 1e-4 else f"{value:.5f}"))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_minor_formatter(NullFormatter())
