"""The phantom: same bytes for a seed, the competition's layout, Murray's law, and labels that mean what they say."""

from dataclasses import replace
from itertools import islice, pairwise

import cv2
import numpy as np
import pytest
import tifffile

from sennet_kaggle.data import phantom as phantom_module
from sennet_kaggle.data.phantom import (
    KIDNEY_LIKE,
    MIN_RADIUS,
    Phantom,
    draw_tubes,
    make_organ,
    phantom_slices,
    write_phantom,
)
from sennet_kaggle.data.vessel_tree import VesselTree, grow_tree, organ_depth
from sennet_kaggle.errors import InputError


@pytest.fixture(scope="module")
def default_slices() -> list[tuple[np.ndarray, np.ndarray]]:
    return list(phantom_slices(Phantom()))


@pytest.fixture(scope="module")
def tree() -> VesselTree:
    return grow_tree(make_organ(Phantom()), np.random.default_rng(3), 8.0, MIN_RADIUS, hilum_y=0.0)


def straight_tube(radius: float) -> VesselTree:
    """One tube along x, from (2, 10, 5) to (2, 10, 15)."""
    start, end = (np.array([[2, 10, x]], np.float32) for x in (5, 15))
    return VesselTree(start, end, np.array([0]), np.array([radius], np.float32), np.array([-1]))


def test_same_seed_same_bytes_and_another_seed_differs(default_slices):
    again = islice(phantom_slices(Phantom()), 3)
    for (slice_, mask), (first_slice, first_mask) in zip(again, default_slices[:3], strict=True):
        np.testing.assert_array_equal(slice_, first_slice)
        np.testing.assert_array_equal(mask, first_mask)
    other_slice, other_mask = next(phantom_slices(Phantom(seed=1)))
    assert (other_slice != default_slices[0][0]).any() and (other_mask != default_slices[0][1]).any()


def test_layout_reads_back_with_opencv_and_tifffile(tmp_path):
    phantom = Phantom(shape=(3, 64, 80))
    kidney_dir = write_phantom(tmp_path, "kidney_0", phantom)
    assert kidney_dir == tmp_path / "train" / "kidney_0"
    files = sorted(str(path.relative_to(kidney_dir)) for path in kidney_dir.rglob("*") if path.is_file())
    assert files == [f"{folder}/{z:04d}.tif" for folder in ("images", "labels") for z in range(3)]
    for z, (slice_, mask) in enumerate(phantom_slices(phantom)):
        for folder, expected in (("images", slice_), ("labels", mask.astype(np.uint8) * 255)):
            path = kidney_dir / folder / f"{z:04d}.tif"
            for found in (cv2.imread(str(path), cv2.IMREAD_UNCHANGED), tifffile.imread(path)):
                assert found.dtype == expected.dtype
                np.testing.assert_array_equal(found, expected)
        with tifffile.TiffFile(kidney_dir / "images" / f"{z:04d}.tif") as tif:
            assert tif.pages[0].compression == 1


def test_without_labels_writes_images_only(tmp_path):
    kidney_dir = write_phantom(tmp_path, "kidney_5", Phantom(shape=(1, 64, 64)), split="test", with_labels=False)
    assert [path.name for path in kidney_dir.iterdir()] == ["images"]
    assert kidney_dir.parent.name == "test"


def test_progress_counts_slices(tmp_path, capsys):
    write_phantom(tmp_path, "quiet", Phantom(shape=(2, 64, 64)))
    assert capsys.readouterr().err == ""
    write_phantom(tmp_path, "loud", Phantom(shape=(2, 64, 64)), progress=True)
    assert "2/2" in (err := capsys.readouterr().err) and "slice" in err


def test_murrays_law_at_each_bifurcation(tree):
    children = [np.flatnonzero(tree.parent == branch) for branch in range(len(tree.radius))]
    assert {len(pair) for pair in children} == {0, 2}
    parents = [branch for branch, pair in enumerate(children) if len(pair)]
    assert len(parents) > 50
    for branch in parents:
        assert (tree.radius[children[branch]] ** 3).sum() == pytest.approx(tree.radius[branch] ** 3, rel=1e-4)


def test_tree_is_one_connected_piece_inside_the_organ(tree):
    organ = make_organ(Phantom())
    assert (organ_depth(organ, *tree.end.T, with_sinus=True) > tree.radius[tree.branch]).all()
    assert tree.radius.max() == 8.0 == tree.radius[0]
    assert MIN_RADIUS <= tree.radius.min() < 1
    starts = {branch: tree.start[index] for index, branch in reversed(list(enumerate(tree.branch)))}
    tips = dict(zip(tree.branch, tree.end, strict=True))
    for branch, start in starts.items():
        if tree.parent[branch] >= 0:
            np.testing.assert_array_equal(start, tips[tree.parent[branch]])


def test_tube_by_hand():
    # Radius 2 gets a wall of 1: at x = 10 the lumen is |y - 10| < 2, the vessel |y - 10| < 3.
    lumen, vessel = draw_tubes(straight_tube(2.0), (5, 21, 21), z=2)
    assert np.flatnonzero(lumen[:, 10]).tolist() == [9, 10, 11]
    assert np.flatnonzero(vessel[:, 10]).tolist() == [8, 9, 10, 11, 12]
    assert np.flatnonzero(lumen[10]).tolist() == list(range(4, 17))  # round caps reach 1 voxel past the ends
    # One slice up, sqrt(2^2 - 1) = 1.73 of the lumen is left; two up, only wall.
    assert np.flatnonzero(draw_tubes(straight_tube(2.0), (5, 21, 21), z=3)[0][:, 10]).tolist() == [9, 10, 11]
    lumen, vessel = draw_tubes(straight_tube(2.0), (5, 21, 21), z=4)
    assert not lumen.any() and vessel[:, 10].sum() == 5  # sqrt(3^2 - 2^2) = 2.24


def test_tube_across_the_border_is_cut():
    whole, _ = draw_tubes(straight_tube(2.0), (5, 21, 21), z=2)
    part, _ = draw_tubes(straight_tube(2.0), (5, 10, 8), z=2)
    np.testing.assert_array_equal(part, whole[:10, :8])


def test_lumen_is_dark_and_its_wall_bright(default_slices):
    for slice_, mask in default_slices:
        # The innermost voxels of the wide vessels: the blur mixes the two sides at the border itself.
        inner = cv2.erode(mask.astype(np.uint8), np.ones((5, 5))).astype(bool)
        around = cv2.dilate(inner.astype(np.uint8), np.ones((9, 9))).astype(bool)
        wall = around & ~cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))).astype(bool)
        assert inner.sum() > 20 and wall.sum() > 20
        assert np.median(slice_[inner]) < 23000 < 25000 < np.median(slice_[wall])


def test_default_phantom_has_vessels_of_many_sizes_in_each_slice(default_slices):
    for _, mask in default_slices:
        count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        areas = stats[1:, cv2.CC_STAT_AREA]
        assert count - 1 >= 8
        assert 0.003 < mask.mean() < 0.03
        assert np.median(areas) < 20 and areas.max() > 100


def test_neighbouring_masks_overlap(default_slices):
    for (_, below), (_, above) in pairwise(default_slices):
        assert 0.5 < 2 * (below & above).sum() / (below.sum() + above.sum()) < 1


def test_traps_are_dark_and_unlabelled_and_leave_vessels_alone(monkeypatch):
    phantom = Phantom(noise_sigma=0, texture_sigma=0)
    deep = organ_depth(make_organ(phantom), 0, *np.ogrid[:384, :320]) > 5

    def dark_beside_vessels(slice_, mask):
        return int((deep & ~cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))).astype(bool) & (slice_ < 23000)).sum())

    slice_, mask = next(phantom_slices(phantom))
    monkeypatch.setattr(phantom_module, "_draw_cavities", lambda cavities, shape, z: np.zeros(shape[1:], bool))
    without_cavities, mask_without_cavities = next(phantom_slices(phantom))
    no_tube = VesselTree(*(array[:0] for array in straight_tube(1.0)))
    trees = {-0.06: grow_tree, 0.1: lambda *args, **kwargs: no_tube}  # by where the root enters: arteries, veins
    monkeypatch.setattr(
        phantom_module, "grow_tree", lambda *args, hilum_y, **more: trees[hilum_y](*args, hilum_y=hilum_y, **more)
    )
    without_traps, mask_without_traps = next(phantom_slices(phantom))

    counts = [dark_beside_vessels(image, mask) for image in (slice_, without_cavities, without_traps)]
    assert counts[0] > counts[1] + 20 and counts[1] > counts[2] + 20 and counts[2] == 0
    for other_mask, other_slice in ((mask_without_cavities, without_cavities), (mask_without_traps, without_traps)):
        np.testing.assert_array_equal(other_mask, mask)
        inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3))).astype(bool)
        np.testing.assert_array_equal(other_slice[inner], slice_[inner])


def test_settings_that_are_left_out_change_nothing(default_slices):
    """What the background, the texture and five cavities are by themselves, said in words."""
    said = Phantom(sinus=Phantom().background, slow_sigma=Phantom().texture_sigma, cavities=5, early_ends=0.13)
    for (slice_, mask), (first_slice, first_mask) in zip(phantom_slices(said), default_slices, strict=True):
        np.testing.assert_array_equal(mask, first_mask)
        np.testing.assert_array_equal(slice_, first_slice)


def test_the_sinus_has_a_grey_level_of_its_own():
    plain = Phantom(shape=(1, 128, 128), noise_sigma=0, texture_sigma=0)
    ((before, mask),) = phantom_slices(plain)
    ((after, same_mask),) = phantom_slices(replace(plain, sinus=24000))
    np.testing.assert_array_equal(mask, same_mask)
    changed = np.abs(after.astype(int) - before) > 10
    organ, y, x = make_organ(plain), *np.ogrid[:128, :128]
    in_dent = (organ_depth(organ, 0, y, x) < -1) & (organ_depth(organ, 0, y, x, with_sinus=True) > 1)
    assert changed[in_dent].mean() > 0.5 and not changed[organ_depth(organ, 0, y, x, with_sinus=True) < -6].any()
    assert np.median(after[changed & in_dent]) == pytest.approx(24000, abs=2)


def test_a_tree_whose_branches_end_early_has_fewer_of_them():
    def branches(**settings):
        return len(grow_tree(make_organ(Phantom()), np.random.default_rng(3), 8.0, 0.75, hilum_y=0, **settings).radius)

    assert branches(early_ends=0.4) < branches(early_ends=0.13) == branches()


def test_the_phantom_of_the_dry_run_is_like_a_kidney():
    """Of kidney_1_dense: 122 vessels in a slice, half of them under 15 pixels, 1.8 % of the organ; docs/phantom.md."""
    slice_, mask = next(phantom_slices(KIDNEY_LIKE))
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    assert 60 < count < 200 and 0.4 < (areas < 15).mean() < 0.75 and 0.006 < mask.mean() < 0.014
    low, high = np.percentile(slice_, (10, 99.8))
    organ = organ_depth(make_organ(KIDNEY_LIKE), 0, *np.ogrid[:1303, :912]) > 12
    tissue = organ & ~cv2.dilate(mask.astype(np.uint8), np.ones((25, 25))).astype(bool)
    assert (np.median(slice_[tissue]) - low) / (high - low) == pytest.approx(0.63, abs=0.03)
    assert (np.median(slice_[mask]) - low) / (high - low) == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("shape", [(1, 64, 64), (1, 97, 131), (2, 131, 64), (3, 65, 203)], ids=str)
def test_any_size_has_organ_and_vessels_in_its_middle(shape):
    for slice_, mask in phantom_slices(Phantom(shape=shape)):
        assert slice_.shape == mask.shape == shape[1:]
        assert (slice_.dtype, mask.dtype) == (np.uint16, bool)
        assert mask.any()
        assert 0.35 < (slice_ > 24000).mean() < 0.75


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": (8, 384)}, r"tuple of 3 ints .* got \(8, 384\)"),
        ({"shape": (8, 384.0, 320)}, "tuple of 3 ints"),
        ({"shape": [8, 384, 320]}, r"got \[8, 384, 320\]"),
        ({"shape": (0, 64, 64)}, "D >= 1"),
        ({"shape": (8, 63, 64)}, r"H, W >= 64, got \(8, 63, 64\)"),
        ({"seed": -1}, "seed must be an int >= 0, got -1"),
        ({"wall": 70000}, r"wall must be a grey level in 0\.\.65535, got 70000"),
        ({"noise_sigma": float("nan")}, "noise_sigma must be"),
        ({"sinus": -1}, r"sinus must be a grey level in 0\.\.65535, got -1"),
        ({"slow_sigma": 70000}, "slow_sigma must be a grey level"),
        ({"root_radius": 0}, "root_radius must lie between 0 and 1, got 0"),
        ({"early_ends": 1.0}, "early_ends must lie between 0 and 1"),
        ({"cavities": -1}, "cavities must be an int >= 0, got -1"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        Phantom(**settings)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"name": "a/b"}, "name must be a folder name without path separators, got 'a/b'"),
        ({"name": ".."}, "name must be a folder name"),
        ({"name": "kidney_0", "split": "a\\b"}, "split must be a folder name"),
        ({"name": ""}, "got ''"),
    ],
)
def test_bad_names(tmp_path, names, message):
    with pytest.raises(InputError, match=message):
        write_phantom(tmp_path, phantom=Phantom(shape=(1, 64, 64)), **names)
    assert not any(tmp_path.iterdir())


def test_an_existing_kidney_is_not_overwritten(tmp_path):
    (tmp_path / "train" / "kidney_1").mkdir(parents=True)
    kidney_dir = write_phantom(tmp_path, "kidney_1", Phantom(shape=(1, 64, 64)))  # an empty folder is fine
    before = (kidney_dir / "images" / "0000.tif").read_bytes()
    with pytest.raises(InputError, match="kidney_1 must be new or an empty folder"):
        write_phantom(tmp_path, "kidney_1", Phantom(shape=(1, 64, 64), seed=1))
    assert (kidney_dir / "images" / "0000.tif").read_bytes() == before


def test_a_run_cut_short_leaves_no_half_file(tmp_path, monkeypatch):
    def full_disk(source, target):
        raise OSError("no space left")

    monkeypatch.setattr("sennet_kaggle.files.os.replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_phantom(tmp_path, "kidney_0", Phantom(shape=(1, 64, 64)))
    assert not list(tmp_path.rglob("*.tif"))
