"""Thinning: which voxels are simple, counted by hand, and that a mask's topology stays."""

import numpy as np
import pytest
from scipy.ndimage import generate_binary_structure, label
from skimage.measure import euler_number

from sennet_kaggle.vessels import blocks
from sennet_kaggle.vessels.bit_mask import bit_mask
from sennet_kaggle.vessels.blocks import skeleton_voxels
from sennet_kaggle.vessels.thinning import is_simple, thin

CORNER = np.zeros(3, np.int64)


def code_of(neighbours: np.ndarray) -> int:
    """The code of a (3, 3, 3) neighbourhood."""
    bits = np.delete(neighbours.reshape(-1), 13)
    return sum(1 << bit for bit in np.flatnonzero(bits).tolist())


def in_words(neighbours: np.ndarray) -> bool:
    """The definition: the mask around the middle is one piece, and so is the background at its faces."""
    others = neighbours.copy()
    others[1, 1, 1] = False
    background = ~others & generate_binary_structure(3, 2)
    background[1, 1, 1] = False
    pieces, _ = label(background)
    at_faces = set(pieces[background & generate_binary_structure(3, 1)].tolist())
    return label(others, np.ones((3, 3, 3)))[1] == 1 and len(at_faces) == 1


@pytest.mark.parametrize("density", [0.1, 0.3, 0.5, 0.8, 0.95])
def test_simple_voxels_are_those_of_the_definition(density):
    neighbourhoods = np.random.default_rng(0).random((300, 3, 3, 3)) < density
    codes = np.array([code_of(each) for each in neighbourhoods], np.int32)
    assert is_simple(codes).tolist() == [in_words(each) for each in neighbourhoods]


@pytest.mark.parametrize(
    ("places", "simple"),
    [
        ([], False),  # alone
        ([(0, 1, 1)], True),  # the end of a line
        ([(0, 1, 1), (2, 1, 1)], False),  # the middle of a line
        ([(0, 1, 1), (0, 1, 2)], True),  # beside an edge
    ],
    ids=["alone", "end", "middle", "side"],
)
def test_simple_by_hand(places, simple):
    neighbours = np.zeros((3, 3, 3), np.bool_)
    for place in places:
        neighbours[place] = True
    assert is_simple(np.array([code_of(neighbours)], np.int32)).tolist() == [simple]


def test_the_inside_of_a_solid_is_not_simple():
    assert not is_simple(np.array([code_of(np.ones((3, 3, 3), np.bool_))], np.int32)).any()


@pytest.mark.parametrize("seed", range(4))
def test_topology_stays(seed):
    """A random sponge keeps its pieces and its Euler number, and cannot be thinned again."""
    mask = np.random.default_rng(seed).random((24, 25, 26)) < 0.3
    mask = blocks._filled(mask)
    skeleton = np.zeros_like(mask)
    skeleton[tuple(thin(mask, CORNER).T)] = True
    assert not (skeleton & ~mask).any() and skeleton.sum() < mask.sum()
    assert label(skeleton, np.ones((3, 3, 3)))[1] == label(mask, np.ones((3, 3, 3)))[1]
    assert euler_number(skeleton, 3) == euler_number(mask, 3)
    assert len(thin(skeleton, CORNER)) == skeleton.sum()


def thinned(mask: np.ndarray, side: int) -> np.ndarray:
    with bit_mask(mask, mask.shape, None) as bits:
        return skeleton_voxels(bits, np.ones(3), block_side=side)


@pytest.fixture(scope="module")
def sponge() -> np.ndarray:
    """Thick and thin parts with rough walls."""
    rng = np.random.default_rng(5)
    mask = np.zeros((46, 47, 48), np.bool_)
    z, y, x = np.ogrid[:46, :47, :48]
    for center, radius in zip(rng.uniform(0, 46, (40, 3)), rng.uniform(1, 5, 40), strict=True):
        mask |= (z - center[0]) ** 2 + (y - center[1]) ** 2 + (x - center[2]) ** 2 < radius**2
    return mask & (rng.random(mask.shape) < 0.97)


def test_a_sponge_by_blocks_is_the_same(sponge):
    np.testing.assert_array_equal(thinned(sponge, 24), thinned(sponge, 100))


def test_blocks_that_disagree_are_thinned_again(sponge, monkeypatch):
    """With a halo that is too small at first, neighbours differ; what they agree on is the skeleton in one piece."""
    whole = thinned(sponge, 100)
    monkeypatch.setattr(blocks, "_depth", lambda vessel: 0)
    monkeypatch.setattr(blocks, "_distance_to_wall", lambda vessel, voxels, spacing: np.zeros(len(voxels)))
    monkeypatch.setattr(blocks, "_FIRST_HALO", 2)
    monkeypatch.setattr(blocks, "_MARGIN", 0)
    rounds = []
    disagreeing = blocks._disagreeing
    monkeypatch.setattr(blocks, "_disagreeing", lambda *args: rounds.append(disagreeing(*args)) or rounds[-1])
    again = thinned(sponge, 24)
    assert rounds[0] and not rounds[-1]
    np.testing.assert_array_equal(again[:, :3], whole[:, :3])


def test_a_region_that_is_too_thick_is_refused(monkeypatch):
    monkeypatch.setattr(blocks, "MAX_SIDE", 20)
    mask = np.ones((60, 60, 60), np.bool_)
    mask[0] = False
    with pytest.raises(blocks.InputError, match="must hold vessels, found a region about .* voxels deep near"):
        thinned(mask, 16)


def test_the_distance_is_to_the_nearest_background_voxel():
    mask = np.zeros((7, 7, 9), np.bool_)
    mask[1:6, 1:6, 2:7] = True
    distance = blocks._distance_to_wall(mask, np.array([[3, 3, 4], [1, 3, 4]]), np.array([2.0, 3.0, 1.0]))
    assert distance.tolist() == [3, 2]  # three voxels of 1 along x, one of 2 along z
