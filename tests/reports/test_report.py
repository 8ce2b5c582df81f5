import numpy as np
import pandas as pd
import pytest
from matplotlib.contour import ContourSet

from sennet_kaggle.rendering import figure_to_png, format_table
from sennet_kaggle.reports.report import (
    SegmentedSlice,
    busiest_window,
    figure_of_curves,
    figure_of_outlines,
    figure_of_predictions,
    figure_of_slices,
    placeholder_note,
    score_table,
    to_display,
)

GREY = np.random.default_rng(0).integers(20000, 30000, (40, 30), dtype=np.uint16)


def segmented(labelled: bool) -> SegmentedSlice:
    mask = GREY > 28000
    return SegmentedSlice("k_0001", GREY, mask, np.roll(mask, 1, 0) if labelled else None)


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
    ("labelled", "panels", "shape"),
    [
        ([True], 4, (1, 4)),
        ([True, True], 8, (2, 4)),
        ([False], 2, (1, 2)),
        ([False] * 3, 6, (2, 4)),
    ],
)
def test_figure_has_a_panel_for_each_thing_to_see(labelled, panels, shape):
    figure = figure_of_slices([segmented(one) for one in labelled])
    assert sum(bool(axis.images) for axis in figure.axes) == panels
    assert figure.axes[0].get_gridspec().get_geometry() == shape
    titles = [axis.get_title() for axis in figure.axes]
    assert any("Dice 0." in title for title in titles) == any(labelled)
    assert figure_to_png(figure).startswith(b"\x89PNG")


def test_errors_are_painted_by_kind():
    mask_gt, mask_pred = (np.zeros((4, 4), bool) for _ in range(2))
    mask_gt[0, 0] = mask_gt[1, 1] = mask_pred[1, 1] = mask_pred[2, 2] = True
    figure = figure_of_slices([SegmentedSlice("k_0001", np.zeros((4, 4), np.uint8), mask_pred, mask_gt)])
    errors = np.asarray(figure.axes[3].images[0].get_array())
    miss, hit, false_alarm, nothing = (tuple(errors[i, i]) for i in range(4))
    assert len({miss, hit, false_alarm, nothing}) == 4


def contours(axis):
    """The closed lines on a picture, each (N, 2) points x, y."""
    sets = [each for each in axis.collections if isinstance(each, ContourSet)]
    return [line for each in sets for path in each.get_paths() for line in path.to_polygons(closed_only=False)]


def test_masks_are_outlined_and_the_slice_stays_to_be_seen():
    """One vessel inside, one in the corner; both lines are closed, and run between the pixels."""
    mask = np.zeros(GREY.shape, bool)
    mask[10:14, 5:8] = mask[:2, :2] = True
    figure = figure_of_outlines([SegmentedSlice("k_0001", GREY, mask)])
    whole, close = figure.axes
    for axis in (whole, close):
        assert np.array_equal(axis.images[0].get_array(), to_display(GREY))
        corner, vessel = sorted(contours(axis), key=lambda line: line[:, 0].max())
        assert (corner[0] == corner[-1]).all() and (vessel[0] == vessel[-1]).all()
        assert vessel.min(0).tolist() == [4.5, 9.5] and vessel.max(0).tolist() == [7.5, 13.5]
        assert corner.min(0).tolist() == [-0.5, -0.5] and corner.max(0).tolist() == [1.5, 1.5]
    assert whole.get_title() == "k_0001, 16 vessel pixels, outlined"
    top, left, height, width = busiest_window(mask)
    assert close.get_xlim() == (left - 0.5, left + width - 0.5) and close.get_ylim() == (top + height - 0.5, top - 0.5)
    assert figure_to_png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("value", [False, True])
def test_a_mask_of_nothing_or_everything_is_drawn_without_a_word(value, recwarn):
    figure = figure_of_outlines([SegmentedSlice("k_0001", GREY, np.full(GREY.shape, value))] * 2)
    assert [len(contours(axis)) for axis in figure.axes] == 4 * [int(value)]
    assert figure_to_png(figure).startswith(b"\x89PNG") and not recwarn.list


def test_the_busiest_window_by_hand():
    """Of 12 x 18 pixels a window has 2 x 3. Of the places that hold the whole vessel the middle one is taken."""
    mask = np.zeros((12, 18), bool)
    mask[7, 9] = True
    top, left, height, width = busiest_window(mask)
    assert (height, width) == (2, 3) and top in (6, 7) and left == 8
    mask[10:12, 15:18] = True
    assert busiest_window(mask) == (10, 15, 2, 3)
    assert busiest_window(np.ones((1, 1), bool)) == (0, 0, 1, 1)
    top, left, height, width = busiest_window(np.zeros((12, 18), bool))
    assert 4 <= top <= 6 and 7 <= left <= 8  # nothing anywhere: the middle


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


def test_curves_show_every_run_and_skip_epochs_that_were_not_validated():
    history = pd.DataFrame(
        {"epoch": [1, 2, 3], "loss": [0.9, 0.5, 0.3], "dice_soft": [0.1, 0.2, 0.3], "held_out_dice": [None, 0.4, 0.5]}
    )
    figure = figure_of_curves({"a": history, "b": history})
    loss_axis, dice_axis = figure.axes
    assert [line.get_label() for line in loss_axis.lines] == ["a", "b"]
    held_out = [line for line in dice_axis.lines if line.get_label() in "ab"]
    assert [line.get_xydata().tolist() for line in held_out] == 2 * [[[2, 0.4], [3, 0.5]]]
    assert figure_to_png(figure_of_curves({"": history})).startswith(b"\x89PNG")


def test_predictions_stand_beside_each_other():
    figure = figure_of_predictions([[segmented(True), segmented(True)], [segmented(True), segmented(True)]], ["a", "b"])
    titles = [axis.get_title() for axis in figure.axes]
    assert len(titles) == 8 and titles[1] == "label"
    assert [title.split("\n")[0] for title in titles[2:4]] == ["a", "b"]
    assert all("Dice 0." in title for title in titles[2:4])


def test_no_errors_are_drawn_without_a_label():
    with pytest.raises(ValueError, match="slice k_0001 must be labelled"):
        figure_of_predictions([[segmented(True), segmented(False)]], ["a", "b"])
