import pandas as pd

from sennet_kaggle.rendering import figure_to_png
from sennet_kaggle.reports.curves import figure_of_curves

HISTORY = pd.DataFrame(
    {"epoch": [1, 2, 3], "loss": [0.9, 0.5, 0.03], "dice_soft": [0.1, 0.2, 0.3], "held_out_dice": [None, 0.4, 0.5]}
)


def test_curves_show_every_run_and_skip_epochs_that_were_not_validated():
    figure = figure_of_curves({"a": HISTORY, "b": HISTORY})
    loss_axis, dice_axis = figure.axes
    assert [line.get_label() for line in loss_axis.lines] == ["a", "b"]
    held_out = [line for line in dice_axis.lines if len(line.get_xdata()) == 2]
    assert [line.get_xydata().tolist() for line in held_out] == 2 * [[[2, 0.4], [3, 0.5]]]
    assert len({line.get_color() for line in loss_axis.lines}) == 2
    assert figure_to_png(figure_of_curves({"": HISTORY})).startswith(b"\x89PNG")


def test_ticks_are_plain_numbers():
    figure = figure_of_curves({"": HISTORY})
    figure_to_png(figure)
    low, high = figure.axes[0].get_ylim()
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels() if low <= label.get_position()[1] <= high]
    assert shown == ["0.05", "0.1", "0.2", "0.5", "1"]


def test_legends_cover_neither_lines_nor_each_other():
    figure = figure_of_curves({f"run {number}": HISTORY for number in range(9)})
    figure_to_png(figure)
    dice_axis = figure.axes[1]
    boxes = [legend.get_window_extent() for legend in (dice_axis.get_legend(), figure.legends[0])]
    for axis in figure.axes:
        assert not any(box.overlaps(axis.get_window_extent()) for box in boxes)
    assert not boxes[0].overlaps(boxes[1])
    kinds = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(kinds) == 9
