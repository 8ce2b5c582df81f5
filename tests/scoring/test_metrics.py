from math import sqrt

import numpy as np
import pytest

from sennet_kaggle.scoring.metrics import (
    cl_dice,
    dice_coefficient,
    dice_without_largest,
    largest_object,
    surface_dice,
    surface_dice_at_tolerance,
)


def mask_of(*rows: str) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in row] for row in rows])


@pytest.mark.parametrize(
    ("mask_gt", "mask_pred", "dice"),
    [
        pytest.param(mask_of("##.", "..."), mask_of("##.", "..."), 1.0, id="equal"),
        pytest.param(mask_of("##.", "..."), mask_of(".##", "..."), 0.5, id="one of two in common"),
        pytest.param(mask_of("##.", "#.."), mask_of("#..", "..."), 0.5, id="2*1/(3+1)"),
        pytest.param(mask_of("##.", "..."), mask_of("...", ".##"), 0.0, id="disjoint"),
        pytest.param(mask_of("#..", "..."), mask_of("...", "..."), 0.0, id="nothing predicted"),
        pytest.param(mask_of("...", "..."), mask_of("..#", "..."), 0.0, id="nothing there"),
        pytest.param(mask_of("...", "..."), mask_of("...", "..."), 1.0, id="both empty"),
    ],
)
def test_dice_by_hand(mask_gt, mask_pred, dice):
    assert dice_coefficient(mask_gt, mask_pred) == dice
    assert dice_coefficient(mask_pred, mask_gt) == dice


def test_dice_rejects_other_shapes_and_dtypes():
    with pytest.raises(ValueError, match="one shape"):
        dice_coefficient(np.zeros((2, 3), bool), np.zeros((3, 2), bool))
    with pytest.raises(ValueError, match="must be bool"):
        dice_coefficient(np.zeros((2, 3)), np.zeros((2, 3), bool))


# --- without the largest object


LABEL = mask_of(
    "##....#",
    "##.....",
    "..#...#",  # joined to the four at their corner: an object of 5
    "......#",
)


def test_largest_object_joins_at_corners():
    expected = mask_of("##.....", "##.....", "..#....", ".......")
    np.testing.assert_array_equal(largest_object(LABEL), expected)
    in_space = np.zeros((3, 3, 3), bool)
    in_space[[0, 1, 0], [0, 1, 2], [0, 1, 2]] = True  # the corner, the middle, and a voxel that joins the middle
    in_space[2, 0, 0] = False
    np.testing.assert_array_equal(largest_object(in_space), in_space)
    apart = np.zeros((5, 3, 3), bool)
    apart[0, 0, 0] = apart[4, :2, 0] = True
    np.testing.assert_array_equal(largest_object(apart).nonzero(), ([4, 4], [0, 1], [0, 0]))


def test_largest_object_of_an_empty_mask_is_empty():
    assert not largest_object(np.zeros((3, 4), bool)).any()


@pytest.mark.parametrize(
    ("mask_pred", "dice"),
    [
        pytest.param(LABEL, 1.0, id="equal"),
        pytest.param(mask_of("......#", ".......", "......#", "......#"), 1.0, id="largest missed: ignored"),
        pytest.param(mask_of("##.....", "##.....", "..#....", "......."), 0.0, id="only the largest found"),
        pytest.param(mask_of("##....#", "##.....", "..#...#", "......."), 2 * 2 / (3 + 2), id="2 of the other 3"),
        pytest.param(mask_of("###...#", "##.....", "..#...#", "......#"), 2 * 3 / (3 + 4), id="beyond the largest"),
    ],
)
def test_dice_without_largest_by_hand(mask_pred, dice):
    assert dice_without_largest(LABEL, mask_pred) == dice
    assert dice_without_largest(LABEL[None], mask_pred[None]) == dice


@pytest.mark.parametrize(
    ("mask_gt", "mask_pred", "dice"),
    [
        pytest.param(mask_of("..."), mask_of("..."), 1.0, id="both empty"),
        pytest.param(mask_of("..."), mask_of(".#."), 0.0, id="nothing there"),
        pytest.param(mask_of("#.#"), mask_of("..."), 0.0, id="nothing predicted"),
        pytest.param(mask_of("##."), mask_of("..."), 1.0, id="nothing but the largest"),
    ],
)
def test_dice_without_largest_of_empty_masks(mask_gt, mask_pred, dice):
    assert dice_without_largest(mask_gt, mask_pred) == dice


# --- surfaces within a distance


DIAGONAL = sqrt(2) / 2  # the contour at each of a pixel's four corners; a pair's two middle corners have 1


@pytest.mark.parametrize(
    ("mask_gt", "mask_pred", "tolerance_voxels", "score"),
    [
        pytest.param(mask_of("#.."), mask_of("#.."), 0, 1.0, id="equal"),
        pytest.param(mask_of("#.."), mask_of(".#."), 0, 0.5, id="beside: two of four corners"),
        pytest.param(mask_of("#.."), mask_of(".#."), 0.99, 0.5, id="beside, less than one"),
        pytest.param(mask_of("#.."), mask_of(".#."), 1, 1.0, id="beside, one"),
        pytest.param(mask_of("#..."), mask_of("..#."), 1, 0.5, id="one apart: the inner corners"),
        pytest.param(mask_of("#..."), mask_of("...#"), 1, 0.0, id="two apart"),
        pytest.param(mask_of("#.", "..", ".."), mask_of("..", "..", ".#"), 1, 0.25, id="knight's move: one corner"),
        pytest.param(mask_of("#.", "..", ".."), mask_of("..", "..", ".#"), 1.5, 0.5, id="√2 reaches one more"),
        pytest.param(
            mask_of("#..."),
            mask_of("####"),
            1,
            # label: all; prediction: corners 0 to 2 of 0 to 4 on both sides
            (4 * DIAGONAL + 2 * (DIAGONAL + 2)) / (4 * DIAGONAL + (4 * DIAGONAL + 6)),
            id="pixel and line",
        ),
        pytest.param(mask_of("#."), mask_of(".."), 1, 0.0, id="nothing predicted"),
        pytest.param(mask_of(".."), mask_of(".."), 1, 1.0, id="both empty"),
    ],
)
def test_surface_dice_at_tolerance_by_hand(mask_gt, mask_pred, tolerance_voxels, score):
    assert surface_dice_at_tolerance(mask_gt, mask_pred, tolerance_voxels) == pytest.approx(score, abs=1e-15)
    assert surface_dice_at_tolerance(mask_pred, mask_gt, tolerance_voxels) == pytest.approx(score, abs=1e-15)


def test_surface_dice_at_tolerance_0_is_surface_dice():
    mask_gt, mask_pred = np.random.default_rng(0).random((2, 5, 20, 30)) < 0.4
    assert surface_dice_at_tolerance(mask_gt, mask_pred, 0) == pytest.approx(surface_dice(mask_gt, mask_pred))


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
@pytest.mark.parametrize("tolerance_voxels", [0, 1, 1.4142, sqrt(2), sqrt(3), 2.5])
@pytest.mark.parametrize("shape", [(9, 17, 21), (1, 30, 30), (40, 50), (1, 60)])
def test_surface_dice_at_tolerance_equals_the_reference(shape, tolerance_voxels):
    surface_distance = pytest.importorskip(
        "surface_distance", reason="the reference, surface-distance, is not installed (see requirements-dev.txt)"
    )
    rng = np.random.default_rng(3)
    # 0.02: few voxels far apart, so that each tolerance reaches others
    for density_gt, density_pred in [(0.02, 0.02), (0.5, 0.02), (0.9, 0.4)]:
        mask_gt, mask_pred = rng.random(shape) < density_gt, rng.random(shape) < density_pred
        mask_gt[..., 0] = mask_pred[..., -1] = True
        distances = surface_distance.compute_surface_distances(mask_gt, mask_pred, (1,) * len(shape))
        expected = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_voxels)
        assert surface_dice_at_tolerance(mask_gt, mask_pred, tolerance_voxels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("tolerance_voxels", [-1, float("inf"), float("nan")])
def test_surface_dice_rejects_a_tolerance(tolerance_voxels):
    with pytest.raises(ValueError, match=f"tolerance_voxels must be finite and at least 0, got {tolerance_voxels}"):
        surface_dice_at_tolerance(LABEL, LABEL, tolerance_voxels)


# --- centre lines


LINE = mask_of(".........", "#########", ".........")
THICK = mask_of("#########", "#########", "#########")


@pytest.mark.parametrize(
    ("mask_gt", "mask_pred", "score"),
    [
        pytest.param(LINE, LINE, 1.0, id="equal"),
        # The ends may fork.
        pytest.param(THICK, mask_of("##.....##", "#########", "##.....##"), 1.0, id="width does not count"),
        # 3 of the line's 9 pixels found, nothing false: precision 1, sensitivity 3/9
        pytest.param(LINE, mask_of(".........", ".###.....", "........."), 2 * (3 / 9) / (1 + 3 / 9), id="cut short"),
        pytest.param(LINE, mask_of("#########", ".........", "........."), 0.0, id="beside"),
        pytest.param(LINE, np.zeros_like(LINE), 0.0, id="nothing predicted"),
        pytest.param(np.zeros_like(LINE), np.zeros_like(LINE), 1.0, id="both empty"),
    ],
)
def test_cl_dice_by_hand(mask_gt, mask_pred, score):
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    assert cl_dice(mask_gt, mask_pred) == pytest.approx(score)
    assert cl_dice(mask_pred, mask_gt) == pytest.approx(score)
    in_space = [np.stack([np.zeros_like(mask), mask, np.zeros_like(mask)]) for mask in (mask_gt, mask_pred)]
    assert cl_dice(*in_space) == pytest.approx(score)


def test_cl_dice_keeps_objects_that_thinning_erases():
    """scikit-image 0.25 thins a bar of 2x2x6 to nothing."""
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    bar, line = np.zeros((2, 6, 6, 10), bool)
    bar[2:4, 2:4, 2:8] = True
    line[2, 2, 2:8] = True
    assert cl_dice(bar, bar) == 1.0
    assert cl_dice(bar, line) == pytest.approx(2 * 0.25 / 1.25)  # 6 of the bar's 24 voxels; all of the line's


@pytest.mark.parametrize("score", [dice_without_largest, surface_dice_at_tolerance, cl_dice])
@pytest.mark.parametrize(
    ("mask_gt", "mask_pred", "message"),
    [
        (np.zeros((2, 3), bool), np.zeros((3, 2), bool), r"one shape, got \(2, 3\) and \(3, 2\)"),
        (np.zeros((2, 3), np.uint8), np.zeros((2, 3), bool), "must be bool, got uint8 and bool"),
        (np.zeros(6, bool), np.zeros(6, bool), r"\(H, W\) or \(D, H, W\), got \(6,\)"),
    ],
)
def test_rejects_other_masks(score, mask_gt, mask_pred, message):
    with pytest.raises(ValueError, match=message):
        score(mask_gt, mask_pred)
