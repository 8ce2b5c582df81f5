"""Vessels of masks whose trees are known: lengths, radii, branches, and the same result whatever the blocks."""

import math

import numpy as np
import pytest

from sennet_kaggle.data.phantom import Phantom, artery_tree, phantom_masks
from sennet_kaggle.data.tubes import ring, tube_mask
from sennet_kaggle.errors import InputError
from sennet_kaggle.vessels.centreline import Segment
from sennet_kaggle.vessels.lumen import _measure
from sennet_kaggle.vessels.measure import measure_vessels

# Directions z y x of unit length: along an axis, in a plane, through a corner, and none of these.
DIRECTIONS = {
    "z": (1, 0, 0),
    "y": (0, 1, 0),
    "x": (0, 0, 1),
    "diagonal": (0, math.sqrt(0.5), math.sqrt(0.5)),
    "corner": (math.sqrt(1 / 3),) * 3,
    "oblique": (0.48, 0.6, 0.64),
}
TILTED = np.linalg.qr(np.array([[1.0, 0.2, 0.3], [0.1, 1.0, -0.4], [0.5, 0.1, 1.0]]))[0]


def line(direction: tuple[float, float, float], length: float, start: tuple[float, float, float] = (0.3, 0.1, 0.4)):
    return np.array(start) + np.outer([0, length], direction)


def kinds(vessels) -> list[str]:
    return sorted(kind for segment in vessels.segments for kind in segment.kinds)


# A thin tube along an axis is drawn too thick or too thin by a good part, depending on where it lies between voxels.
@pytest.mark.parametrize(
    ("direction", "radius"),
    [*((name, 5.0) for name in DIRECTIONS), *(("oblique", radius) for radius in (1.0, 1.5, 2.0, 3.0))],
)
def test_a_straight_tube(direction, radius):
    direction = DIRECTIONS[direction]
    vessels = measure_vessels(tube_mask([line(direction, 60)], radius))
    assert vessels.totals["segments"] == 1 and vessels.totals["branch_points"] == 0
    assert kinds(vessels) == ["free", "free"]
    assert vessels.totals["total_length_voxel"] == pytest.approx(60, rel=0.05)
    assert vessels.totals["mean_radius_voxel"] == pytest.approx(radius, rel=0.05)


@pytest.mark.parametrize("radius", [1.0, 2.0, 4.0])
def test_a_curved_tube(radius):
    vessels = measure_vessels(tube_mask([ring(24, TILTED, turns=0.75)], radius))
    assert vessels.totals["segments"] == 1
    assert vessels.totals["total_length_voxel"] == pytest.approx(0.75 * 2 * math.pi * 24, rel=0.05)
    assert vessels.totals["mean_radius_voxel"] == pytest.approx(radius, rel=0.05)


@pytest.mark.parametrize("radius", [1.0, 2.0, 4.0])
def test_a_ring_has_no_end_and_no_branch(radius):
    vessels = measure_vessels(tube_mask([ring(16, TILTED)], radius))
    assert kinds(vessels) == ["ring", "ring"]
    assert [vessels.totals[name] for name in ("segments", "branch_points", "free_ends", "loops")] == [1, 0, 0, 1]
    assert vessels.totals["total_length_voxel"] == pytest.approx(2 * math.pi * 16, rel=0.05)
    assert vessels.totals["mean_radius_voxel"] == pytest.approx(radius, rel=0.05)


def y_junction(radius: float) -> np.ndarray:
    """Three arms of 40 that meet at wide angles."""
    arms = [line(direction, 40) for direction in ((0.48, 0.6, 0.64), (0.6, -0.64, -0.48), (-0.8, 0.36, -0.48))]
    return tube_mask(arms, radius)


@pytest.mark.parametrize("radius", [1.5, 2.0, 3.0, 5.0])
def test_a_y_has_one_branch_point_and_three_ends(radius):
    vessels = measure_vessels(y_junction(radius))
    assert [vessels.totals[name] for name in ("segments", "branch_points", "free_ends", "loops")] == [3, 1, 3, 0]
    assert kinds(vessels) == ["branch"] * 3 + ["free"] * 3
    assert vessels.totals["total_length_voxel"] == pytest.approx(120, rel=0.05)
    for segment in vessels.segments:
        assert segment.mean_radius == pytest.approx(radius, rel=0.05)


def test_lengths_are_in_micrometres_of_voxels_of_unequal_sides():
    voxel_size = (2.0, 1.0, 1.0)
    vessels = measure_vessels(tube_mask([line(DIRECTIONS["oblique"], 90)], 4, voxel_size), voxel_size)
    assert vessels.totals["total_length_um"] == pytest.approx(90, rel=0.05)
    assert vessels.totals["mean_radius_um"] == pytest.approx(4, rel=0.05)
    row = vessels.table().iloc[0]
    places = [f"{end}_{axis}" for end in ("start", "end") for axis in "zyx"]
    um, voxel = ([row[f"{place}_{unit}"] for place in places] for unit in ("um", "voxel"))
    np.testing.assert_allclose(um, np.multiply(voxel, voxel_size * 2))
    np.testing.assert_allclose(np.subtract(um[3:], um[:3]), 90 * np.array(DIRECTIONS["oblique"]), atol=3)


def test_twice_the_voxel_size_is_twice_the_length_and_eight_times_the_volume():
    mask = y_junction(3)
    one, two = measure_vessels(mask, 1), measure_vessels(mask, 2)
    assert two.totals["total_length_um"] == pytest.approx(2 * one.totals["total_length_um"])
    assert two.totals["mean_radius_um"] == pytest.approx(2 * one.totals["mean_radius_um"])
    assert two.totals["vessel_volume_um3"] == 8 * one.totals["vessel_volume_um3"] == 8 * mask.sum()


def test_the_volumes_of_the_segments_are_the_mask():
    mask = y_junction(3)
    vessels = measure_vessels(mask, 10)
    assert vessels.table()["volume_um3"].sum() == 1000 * mask.sum() == vessels.totals["vessel_volume_um3"]


def test_two_touching_vessels_are_one_component_with_a_branch_point():
    """Two crossing tubes whose lumens meet, and the same ones apart."""
    along_x, along_y = np.array([[0, 20, 0], [0, 20, 40.0]]), np.array([[5, 0, 20], [5, 40, 20.0]])
    touching = measure_vessels(tube_mask([along_x, along_y], 3))
    assert touching.totals["connected_components"] == 1 and touching.totals["free_ends"] == 4
    apart = measure_vessels(tube_mask([along_x, along_y + (2, 0, 0)], 3))
    assert apart.totals["connected_components"] == 2 and apart.totals["free_ends"] == 4
    assert apart.totals["branch_points"] == 0 and apart.totals["segments"] == 2


def test_an_empty_mask_has_no_vessels():
    vessels = measure_vessels(np.zeros((4, 5, 6), np.bool_), 50)
    assert vessels.segments == [] and len(vessels.table()) == 0
    assert vessels.totals["total_length_um"] == vessels.totals["vessel_fraction"] == 0
    assert vessels.totals["mean_radius_um"] is None and vessels.totals["connected_components"] == 0


def test_a_full_mask_is_refused():
    with pytest.raises(InputError, match="must have background, found vessel in every voxel"):
        measure_vessels(np.ones((4, 5, 6), np.bool_))


def test_a_mask_that_is_full_but_for_a_cavity_is_refused():
    mask = np.ones((5, 5, 5), np.bool_)
    mask[2, 2, 2] = False
    with pytest.raises(InputError, match="must have background around its vessels"):
        measure_vessels(mask)


@pytest.mark.parametrize("shape", [(4, 5), (0, 4, 5), (2, 3, 4, 5)], ids=str)
def test_another_shape_is_refused(shape):
    with pytest.raises(InputError, match="mask must have three axes") as caught:
        measure_vessels(np.ones(shape, np.bool_))
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("size", [0, -1, (1, 0, 1), float("nan"), float("inf")])
def test_a_voxel_size_that_is_not_positive_is_refused(size):
    with pytest.raises(InputError, match="voxel_size_um must be one or three sizes"):
        measure_vessels(np.zeros((2, 2, 2), np.bool_), size)


def test_an_inverted_mask_is_warned_of(caplog):
    mask = np.ones((6, 6, 6), np.bool_)
    mask[:2] = False
    measure_vessels(mask)
    assert "67% of the volume" in caplog.text


def test_a_line_of_single_voxels():
    """30 voxels along x: 29 steps from centre to centre, no radius below half a voxel's."""
    mask = np.zeros((9, 9, 40), np.bool_)
    mask[4, 4, 5:35] = True
    vessels = measure_vessels(mask)
    assert kinds(vessels) == ["free", "free"]
    assert vessels.totals["total_length_voxel"] == pytest.approx(29, abs=1)
    assert vessels.totals["mean_radius_voxel"] == pytest.approx(math.sqrt(1 / math.pi), rel=0.05)


def test_a_single_voxel_is_a_speck():
    mask = np.zeros((5, 5, 5), np.bool_)
    mask[2, 2, 2] = True
    vessels = measure_vessels(mask, 10)
    assert vessels.segments == []
    assert [vessels.totals[name] for name in ("specks", "speck_volume_um3", "connected_components")] == [1, 1000, 1]


def test_a_vessel_that_leaves_the_volume_reaches_its_border():
    """A tube along x from border to border: its ends are no free ends, and its length is the volume's."""
    z, y = np.mgrid[:15, :15]
    mask = np.repeat((((z - 7) ** 2 + (y - 7) ** 2) < 3.2**2)[..., None], 50, axis=2)
    vessels = measure_vessels(mask)
    assert kinds(vessels) == ["border", "border"] and vessels.totals["free_ends"] == 0
    assert vessels.totals["total_length_voxel"] == pytest.approx(50, abs=0.5)
    assert vessels.totals["mean_radius_voxel"] == pytest.approx(math.sqrt(mask[..., 0].sum() / math.pi), rel=0.01)


@pytest.mark.parametrize("cross_section", [(1, 2), (2, 1), (2, 2), (4, 4), (2, 4), (3, 3)], ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_bars_of_even_width_do_not_vanish(axis, cross_section):
    """scikit-image's skeletonize leaves nothing of some of these."""
    mask = np.zeros((48, 48, 48), np.bool_)
    place = [slice(10, 10 + side) for side in cross_section]
    place.insert(axis, slice(4, 44))
    mask[tuple(place)] = True
    vessels = measure_vessels(mask)
    assert kinds(vessels) == ["free", "free"] and vessels.totals["segments"] == 1
    assert vessels.totals["total_length_voxel"] == pytest.approx(40 - min(cross_section), abs=2.5)


def test_a_bump_on_the_wall_is_no_branch():
    mask = tube_mask([line(DIRECTIONS["x"], 60, (0, 0, 0))], 4)
    middle = np.array(mask.shape) // 2
    mask[middle[0] + 4, middle[1], middle[2]] = True
    vessels = measure_vessels(mask)
    assert vessels.totals["segments"] == 1 and vessels.totals["branch_points"] == 0


def test_a_stretch_whose_voxels_belong_to_another_vessel_has_the_radius_of_the_rest():
    """A line of 40 points, one apart, of radius 2; the voxels of its middle third went to a thicker vessel's."""
    line = np.column_stack([np.arange(40.0), np.zeros((40, 2))])
    segment = Segment((0, 1), ("branch", "branch"), line, np.full(40, 2.0), np.full(40, 2.0))
    volumes = np.full(40, 4 * np.pi)
    volumes[10:30] = 0
    _measure(segment, volumes, np.ones(3))
    assert segment.volume == pytest.approx(20 * 4 * np.pi)
    assert segment.radius.min() > 0.3 and segment.radius[[2, -3]] == pytest.approx(2, rel=0.02)
    _measure(segment, volumes * 0, np.ones(3))
    assert segment.radius.min() > 0.3  # as before where nothing is left at all


def test_a_hole_in_the_lumen_is_filled():
    """A cavity would leave a shell around it; its voxels still do not count as vessel."""
    mask = tube_mask([line(DIRECTIONS["x"], 60, (0, 0, 0))], 4)
    middle = np.array(mask.shape) // 2
    mask[middle[0] - 1 : middle[0] + 2, middle[1], middle[2]] = False
    vessels = measure_vessels(mask)
    assert vessels.totals["segments"] == 1 and vessels.totals["loops"] == 0
    assert vessels.totals["vessel_voxels"] == mask.sum()


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return Phantom(shape=(160, 160, 160), seed=1)


@pytest.fixture(scope="module")
def phantom_mask(phantom) -> np.ndarray:
    return np.stack([*phantom_masks(phantom)])


@pytest.fixture(scope="module")
def phantom_vessels(phantom_mask):
    return measure_vessels(phantom_mask, 50)


def test_the_phantoms_tree_is_found(phantom, phantom_vessels):
    tree = artery_tree(phantom)
    lengths = np.linalg.norm(tree.end - tree.start, axis=1)
    mean_radius = np.average(tree.radius[tree.branch], weights=lengths)
    assert phantom_vessels.totals["total_length_um"] == pytest.approx(50 * lengths.sum(), rel=0.05)
    assert phantom_vessels.totals["mean_radius_um"] == pytest.approx(50 * mean_radius, rel=0.05)
    bifurcations = len(set(tree.parent.tolist()) - {-1})
    assert phantom_vessels.totals["branch_points"] == pytest.approx(bifurcations, rel=0.1)


@pytest.mark.parametrize("block_side", [50, 64, 97])
def test_blocks_change_nothing(phantom_mask, phantom_vessels, block_side):
    by_blocks = measure_vessels(phantom_mask, 50, block_side=block_side)
    assert by_blocks.table().equals(phantom_vessels.table())
    assert by_blocks.totals == phantom_vessels.totals


def test_blocks_change_nothing_for_voxels_of_unequal_sides(phantom_mask):
    whole = measure_vessels(phantom_mask, (120, 50, 40))
    assert measure_vessels(phantom_mask, (120, 50, 40), block_side=64).table().equals(whole.table())


def test_slices_are_as_good_as_an_array(phantom_mask, phantom_vessels):
    slices = measure_vessels(iter(phantom_mask), 50, shape=phantom_mask.shape)
    assert slices.table().equals(phantom_vessels.table())


def test_a_slice_of_another_size_is_refused_and_nothing_left(tmp_path):
    slices = [np.zeros((5, 6), np.bool_), np.zeros((6, 5), np.bool_)]
    with pytest.raises(InputError, match=r"one size, \(5, 6\), found \(6, 5\) at 1"):
        measure_vessels(iter(slices), shape=(2, 5, 6), scratch_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
