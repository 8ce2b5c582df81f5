import tracemalloc
from itertools import combinations, permutations, product
from math import sqrt

import numpy as np
import pytest

from sennet_kaggle.scoring.metrics import surface_dice, surface_dice_of_slices
from sennet_kaggle.scoring.surface_dice import AREA_OF_CODE, SurfaceDice, dice_from_corner_counts

CUBE = list(product((0, 1), repeat=3))  # the highest bit of a code is the first corner
TRIANGLE, RECTANGLE = sqrt(3) / 8, sqrt(2) / 2


def volume_of(*slices: str) -> np.ndarray:
    """Slices as text, rows divided by a slash."""
    return np.array([[[voxel == "#" for voxel in row] for row in rows.split("/")] for rows in slices])


def random_tubes(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Straight tubes, some of them cut off by the volume's faces."""
    rng = np.random.default_rng(seed)
    voxels = np.indices(shape).reshape(3, -1).T
    mask = np.zeros(voxels.shape[0], bool)
    for _ in range(4):
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        from_axis = voxels - rng.uniform((0, 0, 0), shape)
        mask |= np.linalg.norm(np.cross(from_axis, direction), axis=1) < rng.uniform(1, 4)
    return mask.reshape(shape)


# --- the area table


def moved(code: int, order: tuple[int, ...], flips: tuple[int, ...]) -> int:
    """The code after exchanging and mirroring the cube's axes."""
    inside = {corner for bit, corner in enumerate(reversed(CUBE)) if code >> bit & 1}
    return sum(
        1 << bit
        for bit, corner in enumerate(reversed(CUBE))
        if tuple(corner[axis] ^ flip for axis, flip in zip(order, flips, strict=True)) in inside
    )


def test_areas_are_equal_under_the_48_symmetries_and_complement():
    for order, flips in product(permutations(range(3)), product((0, 1), repeat=3)):
        images = [moved(code, order, flips) for code in range(256)]
        assert sorted(images) == list(range(256))
        np.testing.assert_array_equal(AREA_OF_CODE[images], AREA_OF_CODE)
    np.testing.assert_array_equal(AREA_OF_CODE[::-1], AREA_OF_CODE)
    assert AREA_OF_CODE[0] == AREA_OF_CODE[255] == 0
    assert (AREA_OF_CODE[1:255] > 0).all()


def largest_triangulation(polygon: np.ndarray) -> float:
    if len(polygon) < 3:
        return 0.0
    first, last = polygon[0], polygon[-1]
    return max(
        np.linalg.norm(np.cross(polygon[k] - first, last - first)) / 2
        + largest_triangulation(polygon[: k + 1])
        + largest_triangulation(polygon[k:])
        for k in range(1, len(polygon) - 1)
    )


def cut_polygon(group: list[tuple[int, int, int]]) -> np.ndarray:
    """Midpoints of the edges that lead out of the group, in a ring where neighbours share a face of the cube."""
    middles = [
        tuple((a + b) / 2 for a, b in zip(inside, outside, strict=True))
        for inside, outside in product(group, set(CUBE) - set(group))
        if np.abs(np.subtract(inside, outside)).sum() == 1
    ]

    def share_a_face(p, q):
        return any(a == b and a != 0.5 for a, b in zip(p, q, strict=True))

    for others in permutations(middles[1:]):
        ring = [middles[0], *others]
        if all(share_a_face(p, q) for p, q in zip(ring, ring[1:] + ring[:1], strict=True)):
            return np.array(ring)
    raise AssertionError(f"no ring round {group}")


@pytest.mark.parametrize(
    "group",
    [
        pytest.param([(0, 0, 0)], id="voxel"),
        pytest.param([(0, 0, 0), (0, 0, 1)], id="edge"),
        pytest.param([(0, 0, 0), (0, 0, 1), (0, 1, 0)], id="two edges"),
        pytest.param([(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)], id="face"),
        pytest.param([(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)], id="voxel and neighbours"),
        pytest.param([(0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 1, 1)], id="twist"),
        pytest.param([(1, 0, 0), (0, 0, 0), (0, 0, 1), (0, 1, 1)], id="twist the other way"),
    ],
)
def test_area_of_a_group_is_its_polygons_largest_triangulation(group):
    code = sum(1 << (7 - CUBE.index(corner)) for corner in group)
    assert AREA_OF_CODE[code] == pytest.approx(largest_triangulation(cut_polygon(group)), abs=1e-12)


def test_areas_of_groups_add_up():
    opposite = [(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)]
    for n_voxels in (1, 2, 3, 4):
        for voxels in combinations(opposite, n_voxels):  # none of them shares an edge with another
            code = sum(1 << (7 - CUBE.index(corner)) for corner in voxels)
            assert AREA_OF_CODE[code] == pytest.approx(n_voxels * TRIANGLE, abs=1e-12)
    assert AREA_OF_CODE[0b11000011] == pytest.approx(2 * RECTANGLE, abs=1e-12)


# --- by hand: a voxel alone has 8 corners of one triangle each


@pytest.mark.parametrize(
    ("mask_gt", "mask_pred", "score"),
    [
        pytest.param(volume_of("#"), volume_of("#"), 1.0, id="one voxel is all"),
        pytest.param(volume_of("#.."), volume_of(".#."), 4 / 8, id="beside: 4 of 8 corners"),
        pytest.param(volume_of("#./.."), volume_of("../.#"), 2 / 8, id="diagonal in the slice: 2 of 8"),
        pytest.param(volume_of("#./..", "../.."), volume_of("../..", "../.#"), 1 / 8, id="diagonal in space: 1 of 8"),
        pytest.param(volume_of("#", "."), volume_of(".", "#"), 4 / 8, id="below: 4 of 8"),
        pytest.param(volume_of("#..", "..."), volume_of("..#", "..."), 0.0, id="one apart"),
        # The pair has 8 corners of a triangle and, in its middle, 4 of a rectangle.
        pytest.param(
            volume_of("#."),
            volume_of("##"),
            (12 * TRIANGLE + 4 * RECTANGLE) / (16 * TRIANGLE + 4 * RECTANGLE),
            id="voxel and pair",
        ),
        # A slab of 2x3: in its upper layer 4 corners of a triangle, 6 of a rectangle, 2 of a square; the lower
        # layer likewise. With two slices, between them: 4 of a rectangle, 6 of a square, 2 inside.
        pytest.param(
            volume_of("###/###", ".../..."),
            volume_of("###/###", "###/###"),
            (3 * (4 * TRIANGLE + 6 * RECTANGLE) + 4 + (4 * RECTANGLE + 6))
            / (4 * (4 * TRIANGLE + 6 * RECTANGLE + 2) + (4 * RECTANGLE + 6)),
            id="slab and thicker slab",
        ),
        pytest.param(volume_of("#.", ".."), volume_of("..", ".."), 0.0, id="nothing predicted"),
        pytest.param(volume_of("..", ".."), volume_of("..", ".."), 1.0, id="both empty"),
        pytest.param(np.zeros((0, 2, 3), bool), np.zeros((0, 2, 3), bool), 1.0, id="no slice"),
        pytest.param(np.ones((3, 4, 5), bool), np.ones((3, 4, 5), bool), 1.0, id="both full"),
    ],
)
def test_by_hand(mask_gt, mask_pred, score):
    assert surface_dice(mask_gt, mask_pred) == pytest.approx(score, abs=1e-15)
    assert surface_dice(mask_pred, mask_gt) == surface_dice(mask_gt, mask_pred)


# --- against the rule, voxel by voxel, and against the reference


def score_by_the_rule(mask_gt: np.ndarray, mask_pred: np.ndarray) -> float:
    """The rule as it is stated, one byte per voxel."""
    codes = []
    for mask in (mask_gt, mask_pred):
        padded = np.pad(mask, 1)
        code = np.zeros(np.add(mask.shape, 1), int)
        for z, y, x in CUBE:
            code = 2 * code + padded[z : z + code.shape[0], y : y + code.shape[1], x : x + code.shape[2]]
        codes.append(code)
    surface_gt, surface_pred = [(code > 0) & (code < 255) for code in codes]
    area_gt, area_pred = [AREA_OF_CODE[code] for code in codes]
    both = surface_gt & surface_pred
    return (area_gt[both] + area_pred[both]).sum() / (area_gt[surface_gt].sum() + area_pred[surface_pred].sum())


@pytest.mark.parametrize("width", [1, 7, 8, 9, 63, 64, 65, 127, 128, 129])
def test_any_width(width):
    rng = np.random.default_rng(width)
    mask_gt = rng.random((4, 5, width)) < 0.5
    mask_pred = rng.random((4, 5, width)) < 0.5
    mask_gt[1, 2], mask_pred[1, 2] = True, True  # a row from border to border
    assert surface_dice(mask_gt, mask_pred) == pytest.approx(score_by_the_rule(mask_gt, mask_pred), abs=1e-12)
    assert surface_dice(mask_pred, mask_gt) == surface_dice(mask_gt, mask_pred)


def test_every_code_is_counted_where_it_is():
    """All 256 neighbourhoods in one volume, against a full prediction."""
    mask_gt = np.zeros((2, 2, 4 * 256), bool)
    for code in range(256):
        for bit, (z, y, x) in enumerate(reversed(CUBE)):
            mask_gt[z, y, 4 * code + 1 + x] = code >> bit & 1
    score = SurfaceDice()
    for slice_gt in mask_gt:
        score.update(slice_gt, np.ones_like(slice_gt))
    # Expected counts from each corner's code; only corners on the volume's faces are surface in the prediction.
    padded = np.pad(mask_gt, 1)
    codes = np.zeros((3, 3, 4 * 256 + 1), int)
    for z, y, x in CUBE:
        codes = 2 * codes + padded[z : z + 3, y : y + 3, x : x + 4 * 256 + 1]
    inside = np.zeros(codes.shape, bool)
    inside[1, 1, 1:-1] = True
    expected = [np.bincount(codes[where], minlength=256) for where in (inside, ~inside)]
    for counts in expected:
        counts[[0, 255]] = 0
    np.testing.assert_array_equal(score.counts[0], expected)
    assert (expected[0][1:255] > 0).all()


@pytest.fixture
def reference_score(monkeypatch):
    surface_distance = pytest.importorskip(
        "surface_distance", reason="the reference, surface-distance, is not installed (see requirements-dev.txt)"
    )
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)  # it uses a name that NumPy 2 dropped

    def score(mask_gt: np.ndarray, mask_pred: np.ndarray) -> float:
        distances = surface_distance.compute_surface_distances(mask_gt, mask_pred, (1, 1, 1))
        return surface_distance.compute_surface_dice_at_tolerance(distances, 0)

    return score


def test_areas_of_the_reference():
    reference = pytest.importorskip("surface_distance.lookup_tables", reason="surface-distance is not installed")
    areas = reference.create_table_neighbour_code_to_surface_area((1, 1, 1))
    np.testing.assert_allclose(AREA_OF_CODE, areas, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
@pytest.mark.parametrize("density", [0.001, 0.02, 0.3, 0.7, 0.98, 1.0])
@pytest.mark.parametrize("shape", [(9, 20, 70), (1, 30, 65), (6, 1, 64), (5, 17, 1)])
def test_equals_the_reference_on_random_volumes(reference_score, density, shape):
    rng = np.random.default_rng(7)
    mask_gt, mask_pred = rng.random((2, *shape)) < density
    mask_gt[0, 0, 0] = True  # at least one voxel, at the border
    assert surface_dice(mask_gt, mask_pred) == pytest.approx(reference_score(mask_gt, mask_pred), abs=1e-12)


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_reference_on_tubes(reference_score, seed):
    mask_gt = random_tubes((20, 50, 70), seed)
    mask_pred = np.roll(mask_gt, 1, axis=seed % 3) | random_tubes((20, 50, 70), 10 + seed)
    score = surface_dice(mask_gt, mask_pred)
    assert 0.1 < score < 0.9
    assert score == pytest.approx(reference_score(mask_gt, mask_pred), abs=1e-12)


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning", "ignore:invalid value:RuntimeWarning")
def test_empty_masks_and_the_reference(reference_score):
    empty, tubes = np.zeros((4, 9, 9), bool), random_tubes((4, 9, 9), 0)
    assert surface_dice(tubes, empty) == reference_score(tubes, empty) == 0.0
    assert surface_dice(empty, tubes) == reference_score(empty, tubes) == 0.0
    assert np.isnan(reference_score(empty, empty))
    assert surface_dice(empty, empty) == 1.0


# --- streams


def test_stream_equals_arrays():
    mask_gt, mask_pred = random_tubes((12, 30, 40), 1), random_tubes((12, 30, 40), 2)
    score = SurfaceDice()
    for depth, (slice_gt, slice_pred) in enumerate(zip(mask_gt, mask_pred, strict=True), start=1):
        score.update(slice_gt, slice_pred)
        assert score.compute() == surface_dice(mask_gt[:depth], mask_pred[:depth])  # and more may follow
    assert surface_dice_of_slices(iter(mask_gt), iter(mask_pred)) == score.compute()


def test_without_a_slice():
    assert surface_dice_of_slices([], []) == 1.0
    assert SurfaceDice().compute() == 1.0


def test_a_slice_may_be_changed_after_it_was_given():
    mask_gt, mask_pred = random_tubes((6, 20, 30), 3), random_tubes((6, 20, 30), 4)
    score, buffer = SurfaceDice(), np.empty((2, 20, 30), bool)
    for buffer[0], buffer[1] in zip(mask_gt, mask_pred, strict=True):
        score.update(*buffer)
    assert score.compute() == surface_dice(mask_gt, mask_pred)


def test_counts_of_volumes_add_up():
    """Two volumes far apart in one space have the surfaces of both."""
    kidneys = [(random_tubes((5, 20, 30), seed), random_tubes((5, 20, 30), 10 + seed)) for seed in (0, 1)]
    gap = np.zeros((2, 20, 30), bool)
    scores = []
    for kidney in kidneys:
        scores.append(SurfaceDice())
        for slices in zip(*kidney, strict=True):
            scores[-1].update(*slices)
    together = [np.concatenate([kidneys[0][which], gap, kidneys[1][which]]) for which in range(2)]
    assert dice_from_corner_counts(scores[0].counts + scores[1].counts) == surface_dice(*together)


def test_memory_of_a_few_slices_at_full_size():
    rng = np.random.default_rng(0)
    slices = rng.random((2, 1706, 1510)) < 0.5  # the worst case: every corner is surface
    tracemalloc.start()
    surface_dice_of_slices([slices[0]] * 4, [slices[1]] * 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20


# --- errors


@pytest.mark.parametrize(
    ("mask_gt", "mask_pred", "message"),
    [
        (np.zeros((1, 2, 3), bool), np.zeros((1, 3, 2), bool), r"one shape, got \(1, 2, 3\) and \(1, 3, 2\)"),
        (np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2, 3), bool), "must be bool, got uint8 and bool"),
        (np.zeros((2, 3), bool), np.zeros((2, 3), bool), r"\(D, H, W\), got \(2, 3\)"),
    ],
)
def test_rejects_other_volumes(mask_gt, mask_pred, message):
    with pytest.raises(ValueError, match=message):
        surface_dice(mask_gt, mask_pred)


def slices_of(*shapes: tuple[int, ...], dtype: type = bool) -> list[np.ndarray]:
    return [np.zeros(shape, dtype) for shape in shapes]


@pytest.mark.parametrize(
    ("slices_gt", "slices_pred", "message"),
    [
        (slices_of((2, 3), (2, 3)), slices_of((2, 3)), "slices_pred ended after 1"),
        (slices_of(), slices_of((2, 3)), "slices_gt ended after 0"),
        (slices_of((2, 3), (3, 3)), slices_of((2, 3), (3, 3)), r"one shape, got \(3, 3\) after \(2, 3\)"),
        (slices_of((2, 3)), slices_of((3, 2)), r"one shape, got \(2, 3\) and \(3, 2\)"),
        (slices_of((2, 3)), slices_of((2, 3), dtype=float), "must be bool, got bool and float64"),
        (slices_of((6,)), slices_of((6,)), r"\(H, W\), got \(6,\)"),
    ],
)
def test_rejects_other_slices(slices_gt, slices_pred, message):
    with pytest.raises(ValueError, match=message):
        surface_dice_of_slices(slices_gt, slices_pred)
