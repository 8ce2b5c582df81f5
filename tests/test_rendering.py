"""What all figures share: ticks that are plain numbers."""

import pytest
from matplotlib.figure import Figure

from sennet_kaggle.rendering import plain_ticks, whole_ticks


def shown_labels(axis, ends: tuple[float, float]) -> list[str]:
    axis.figure.draw_without_rendering()
    low, high = ends
    return [tick.label1.get_text() for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((0.03, 1.2), ["0.05", "0.1", "0.2", "0.5", "1"]),
        ((0.42, 0.98), ["0.5", "0.6", "0.7", "0.8", "0.9"]),
        ((0.0001, 0.9), ["0.0001", "0.001", "0.01", "0.1"]),
        ((20, 400), ["20", "50", "100", "200"]),
    ],
    ids=["a decade", "less than one", "many", "above 1"],
)
def test_a_logarithmic_axis_has_plain_numbers(ends, expected):
    axes = Figure().add_subplot()
    axes.set(xscale="log", xlim=ends)
    plain_ticks(axes.xaxis)
    assert shown_labels(axes.xaxis, ends) == expected
    assert not axes.xaxis.get_minor_ticks()


@pytest.mark.parametrize(("epochs", "expected"), [([1], ["0", "1", "2"]), ([1, 2], ["1", "2"]), ([1, 2, 3], "123")])
def test_epochs_are_whole_numbers(epochs, expected):
    axes = Figure().add_subplot()
    axes.plot(epochs, epochs, "o")
    whole_ticks(axes.xaxis)
    assert shown_labels(axes.xaxis, axes.get_xlim()) == list(expected)
