"""Figures of slices: which lines are drawn where, what is cropped, and where the close look is."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure

from sennet_kaggle.rendering import figure_to_png
from sennet_kaggle.reports.colours import FALSE_ALARM, FOUND, LABEL, MISSED, PREDICTION
from sennet_kaggle.reports.outlines import close_look, crop, figure_of_predictions, figure_of_slices, outline_errors
from sennet_kaggle.reports.report import SegmentedSlice, to_display

GREY = np.random.default_rng(0).integers(20000, 30000, (40, 30), dtype=np.uint16)


def segmented(labelled: bool) -> SegmentedSlice:
    mask = GREY > 28000
    return SegmentedSlice("k_0001", GREY, mask, np.roll(mask, 1, 0) if labelled else None)


def outlines(axis) -> dict[str, list[np.ndarray]]:
    """The closed lines on a picture, each (N, 2) points x, y, by colour."""
    found = {}
    for each in axis.collections:
        if isinstance(each, ContourSet):
            lines = [line for path in each.get_paths() for line in path.to_polygons(closed_only=False)]
            found[to_hex(each.get_edgecolor()[0]).upper()] = lines
    return found


def organ_slice() -> np.ndarray:
    """A bright disc of radius 30 around (100, 60) in a dark slice of 200 x 160."""
    y, x = np.ogrid[:200, :160]
    slice_ = np.where((y - 100) ** 2 + (x - 60) ** 2 < 900, 27000, 20000)
    return (slice_ + np.random.default_rng(0).integers(0, 200, slice_.shape)).astype(np.uint16)


@pytest.mark.parametrize("labelled", [[True], [True, False], [False] * 3], ids=str)
def test_a_row_per_slice(labelled):
    figure = figure_of_slices([segmented(one) for one in labelled])
    assert figure.axes[0].get_gridspec().get_geometry() == (len(labelled), 3)
    assert sum(bool(axis.images) for axis in figure.axes) == 3 * len(labelled)
    titles = [axis.get_title() for axis in figure.axes]
    assert ["Dice 0." in title for title in titles[1::3]] == labelled
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert ("missed" in named, "prediction" in named) == (any(labelled), not all(labelled))
    assert figure_to_png(figure).startswith(b"\x89PNG")


def test_found_and_missed_vessels_and_false_alarms_have_lines_of_their_own():
    """Four vessels of 3 x 3 pixels: found, found a pixel to the right, missed, and one that is none."""
    mask_gt, mask_pred = (np.zeros((40, 30), bool) for _ in range(2))
    mask_gt[2:5, 2:5] = mask_pred[2:5, 2:5] = True
    mask_gt[2:5, 12:15], mask_pred[2:5, 13:16] = True, True
    mask_gt[20:23, 2:5] = True
    mask_pred[20:23, 20:23] = True
    figure = figure_of_slices([SegmentedSlice("k_0001", GREY, mask_pred, mask_gt)])
    _, whole, close = figure.axes
    drawn = outlines(whole)
    assert {colour: len(lines) for colour, lines in drawn.items()} == {FOUND: 2, FALSE_ALARM: 1, MISSED: 1}
    left, right = sorted(drawn[FOUND], key=lambda line: line[:, 0].max())
    assert left.min(0).tolist() == [1.5, 1.5] and left.max(0).tolist() == [4.5, 4.5]
    assert right.min(0).tolist() == [11.5, 1.5] and right.max(0).tolist() == [14.5, 4.5]  # the label's edge
    assert drawn[MISSED][0].min(0).tolist() == [1.5, 19.5] and drawn[FALSE_ALARM][0].min(0).tolist() == [19.5, 19.5]
    assert outlines(close).keys() == drawn.keys()
    assert whole.get_title() == "Dice 0.556: 15 px found, 12 missed, 12 false"


def test_what_is_missed_of_a_wide_vessel_is_seen():
    """Of 20 pixels across, 15 are found: beyond a pixel the rest has a line of its own."""
    mask_gt, mask_pred = (np.zeros((40, 30), bool) for _ in range(2))
    mask_gt[10:30, 5:25], mask_pred[10:30, 5:20] = True, True
    _, whole, _ = figure_of_slices([SegmentedSlice("k_0001", GREY, mask_pred, mask_gt)]).axes
    (missed,) = outlines(whole)[MISSED]
    assert missed[:, 0].min() == 20.5 and missed[:, 0].max() == 24.5


def test_masks_are_outlined_and_the_slice_stays_to_be_seen():
    """One vessel inside, one in the corner; both lines are closed, and run between the pixels."""
    mask = np.zeros(GREY.shape, bool)
    mask[10:14, 5:8] = mask[:2, :2] = True
    figure = figure_of_slices([SegmentedSlice("k_0001", GREY, mask)])
    plain, whole, close = figure.axes
    assert not outlines(plain)
    for axis in (whole, close):
        assert np.array_equal(axis.images[0].get_array(), to_display(GREY))
        corner, vessel = sorted(outlines(axis)[PREDICTION], key=lambda line: line[:, 0].max())
        assert (corner[0] == corner[-1]).all() and (vessel[0] == vessel[-1]).all()
        assert vessel.min(0).tolist() == [4.5, 9.5] and vessel.max(0).tolist() == [7.5, 13.5]
        assert corner.min(0).tolist() == [-0.5, -0.5] and corner.max(0).tolist() == [1.5, 1.5]
    assert whole.get_title() == "16 vessel pixels, outlined"


@pytest.mark.parametrize("value", [False, True])
def test_a_mask_of_nothing_or_everything_is_drawn_without_a_word(value, recwarn):
    figure = figure_of_slices([SegmentedSlice("k_0001", GREY, np.full(GREY.shape, value))] * 2)
    assert [sum(map(len, outlines(axis).values())) for axis in figure.axes] == 2 * [0, int(value), int(value)]
    assert figure_to_png(figure).startswith(b"\x89PNG") and not recwarn.list


def test_a_slice_is_cropped_to_the_organ_and_to_every_mask():
    image, empty = organ_slice(), np.zeros((200, 160), bool)
    box = crop(SegmentedSlice("k", image, empty))
    assert np.abs(np.subtract(box, (70 - 8, 131 + 8, 30 - 8, 91 + 8))).max() <= 4
    far = empty.copy()
    far[190, 150] = True
    top, bottom, left, right = crop(SegmentedSlice("k", image, empty, far))
    assert (bottom, right) == (199, 159) and (top, left) == (box[0], box[2])
    figure = figure_of_slices([SegmentedSlice("k", image, empty)])
    assert figure.axes[1].get_xlim() == (box[2] - 0.5, box[3] - 0.5)
    assert figure.axes[1].get_ylim() == (box[1] - 0.5, box[0] - 0.5)


def test_the_close_look_is_at_the_smallest_vessel():
    """A speck of 3 pixels does not count; 4 x 1 pixels are smaller than 10 x 10."""
    mask_gt, nothing = (np.zeros((80, 120), bool) for _ in range(2))
    mask_gt[5, 5:8] = True
    mask_gt[60:64, 100] = True
    mask_gt[10:20, 60:70] = True
    top, bottom, left, right = close_look(SegmentedSlice("k", nothing, nothing, mask_gt), (0, 80, 0, 120))
    assert (bottom - top, right - left) == (20, 30)
    assert top + 5 <= 62 <= bottom - 5 and left + 7 <= 100 <= right - 7  # in the middle half


def test_the_close_look_takes_in_what_lies_beside_the_smallest_vessel():
    mask_gt, nothing = (np.zeros((80, 80), bool) for _ in range(2))
    mask_gt[40:42, 40:42] = True
    mask_gt[40:46, 48:52] = True  # to its right, within the window's 20 pixels
    top, bottom, left, right = close_look(SegmentedSlice("k", nothing, nothing, mask_gt), (0, 80, 0, 80))
    assert mask_gt[top:bottom, left:right].sum() == mask_gt.sum()


@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (40, 30)], ids=str)
def test_the_close_look_lies_in_the_slice(shape, value):
    mask = np.full(shape, value)
    top, bottom, left, right = close_look(SegmentedSlice("k", mask, mask, mask), (0, shape[0], 0, shape[1]))
    assert 0 <= top < bottom <= shape[0] and 0 <= left < right <= shape[1]


def test_models_stand_beside_each_other_a_row_per_slice():
    rows = [[segmented(True)] * 3, [segmented(True)] * 3]
    figure = figure_of_predictions(rows, ["a", "b", "c"])
    assert figure.axes[0].get_gridspec().get_geometry() == (2, 4)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[0].startswith("k_0001\nlabel") and [title.split("\n")[0] for title in titles[1:4]] == ["a", "b", "c"]
    assert all("Dice 0." in title for title in titles[1:4])
    assert outlines(figure.axes[0]).keys() == {LABEL}
    widths = [axis.get_position().width * figure.get_figwidth() for axis in figure.axes]
    assert min(widths) > 3  # inches, as large with three models as with one


def test_no_errors_are_drawn_without_a_label():
    with pytest.raises(ValueError, match="slice k_0001 must be labelled"):
        figure_of_predictions([[segmented(True), segmented(False)]], ["a", "b"])


@pytest.mark.parametrize(("side", "hatched"), [(4, 0), (16, 1)], ids=["a spot", "much"])
def test_errors_that_cover_much_of_a_picture_are_hatched(side, hatched):
    """40 x 40 pixels, of which a hundredth or a sixth is falsely found: an outline alone would hardly show it."""
    mask_pred = np.zeros((40, 40), bool)
    mask_pred[4 : 4 + side, 4 : 4 + side] = True
    axis = Figure().add_subplot()
    axis.set(xlim=(-0.5, 39.5), ylim=(39.5, -0.5))
    outline_errors(axis, SegmentedSlice("k", np.zeros((40, 40), np.uint16), mask_pred, np.zeros((40, 40), bool)), 1.0)
    assert sum(any(getattr(each, "hatches", None) or []) for each in axis.collections) == hatched


def test_the_slice_without_outlines_can_be_left_out():
    mask = np.zeros((40, 40), bool)
    mask[10:14, 10:14] = True
    shown = SegmentedSlice("k_0001", np.zeros((40, 40), np.uint16), mask, mask)
    titles = [axis.get_title() for axis in figure_of_slices([shown], plain=False).axes]
    assert titles == ["Dice 1.000: 16 px found, 0 missed, 0 false", "the white frame, 4 times as large"]
