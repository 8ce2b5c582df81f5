import numpy as np
import pytest

from sennet_kaggle.rendering import format_table
from sennet_kaggle.reports.report import placeholder_note, score_table, to_display

GREY = np.random.default_rng(0).integers(20000, 30000, (40, 30), dtype=np.uint16)


def test_table_by_hand():
    """Dice 1/2 of 2 + 2 pixels and 1 of 6 + 6: the mean is 0.75, pooled 2 * 7 / 16."""
    table = score_table(["a", "b"], [(2, 2, 1), (6, 6, 6)])
    assert table["slice"].tolist() == ["a", "b", "mean", "pooled"]
    assert table["dice"].tolist() == [0.5, 1.0, 0.75, 0.875]
    assert table.set_index("slice").loc["pooled", ["vessel_px", "predicted_px", "common_px"]].tolist() == [8, 8, 7]
    lines = format_table(table).splitlines()
    assert lines[-1].split() == ["pooled", "0.8750", "8", "8", "7"]
    assert lines[-2].split() == ["mean", "0.7500"]


@pytest.mark.parametrize(
    ("slices", "said"), [([3, 3], True), ([1], True), ([3, 4], False), ([1012, 501], False), ([], False)]
)
def test_placeholders_are_known_by_their_number(slices, said):
    note = placeholder_note(slices)
    assert ("probably the placeholders of the visible test set" in note) == said == bool(note)


def test_display_is_stretched_and_bounded():
    display = to_display(GREY)
    assert display.shape == (40, 30, 3)
    assert display.min() == 0 and display.max() == 1
    assert np.isfinite(to_display(np.full((4, 4), 7, np.uint8))).all()
