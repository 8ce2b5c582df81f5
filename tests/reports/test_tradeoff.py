"""The picture of accuracy over time: where its points lie, and that its labels can be read."""

from itertools import combinations

import pytest
from matplotlib.colors import to_hex

from sennet_kaggle.rendering import figure_to_png
from sennet_kaggle.reports.tradeoff import Point, figure_of_tradeoff

POINTS = [
    *(Point("unet", "convolutions", 0.19, 0.741, 0.17), Point("segformer", "transformer", 0.21, 0.702, 0.12)),
    *(Point("convnext", "convolutions", 0.20, 0.735, 0.15), Point("maxvit", "hybrid", 0.35, 0.739)),
]


def boxes(figure):
    figure.draw_without_rendering()
    (axis,) = figure.axes
    return {text.get_text(): text.get_window_extent() for text in axis.texts}, axis.get_window_extent()


def test_points_labels_and_families():
    figure = figure_of_tradeoff(POINTS)
    (axis,) = figure.axes
    drawn = {(line.get_xdata()[0], line.get_ydata()[0]): line for line in axis.lines if len(line.get_xdata()) == 1}
    for point in POINTS:
        assert drawn[point.seconds, point.dice].get_color() != "white"
    assert drawn[0.12, 0.702].get_markerfacecolor() == "white"
    colours = {to_hex(drawn[point.seconds, point.dice].get_color()) for point in POINTS}
    assert colours == {"#0072b2", "#d55e00", "#009e73"}
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["convolutions", "transformer", "hybrid", "by OpenVINO"]
    assert figure_to_png(figure).startswith(b"\x89PNG")


def test_labels_stand_apart_and_inside():
    labels, frame = boxes(figure_of_tradeoff(POINTS))
    assert {*labels} == {point.name for point in POINTS}
    for one, other in combinations(labels.values(), 2):
        assert not one.overlaps(other)
    for box in labels.values():
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1


@pytest.mark.parametrize("points", [POINTS[:1], [Point("a", "other", 3.0, 0.0)]], ids=["one", "one of no family"])
def test_a_single_model(points):
    figure = figure_of_tradeoff(points)
    (axis,) = figure.axes
    low, high = axis.get_ylim()
    assert low < points[0].dice < high
    assert [text.get_text() for text in axis.texts] == [points[0].name]
