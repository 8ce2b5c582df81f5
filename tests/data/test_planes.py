"""Windows out of a volume in which each grey value says where it lies: 1296 z + 36 y + x."""

import dataclasses
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from conftest import write_tiff
from scipy.ndimage import map_coordinates
from torch.utils.data import DataLoader

from sennet_kaggle.config import Preprocessing
from sennet_kaggle.data import bricks as bricks_module
from sennet_kaggle.data import turned
from sennet_kaggle.data.blocks import check_planes, open_blocks
from sennet_kaggle.data.bricks import Wanted, open_bricks
from sennet_kaggle.data.dataset import SliceDataset
from sennet_kaggle.data.intensity import measure_intensity
from sennet_kaggle.data.planes import Plane, _turn, cut_label, cut_plane, draw_plane, lines_of
from sennet_kaggle.data.splits import labelled_slices
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.errors import InputError

SHAPE = (36, 35, 34)
Z, Y, X = np.ogrid[tuple(map(slice, SHAPE))]
GREY = (1296 * Z + 36 * Y + X).astype(np.uint16)
VESSEL = (Z // 4 + Y // 5 + X // 6) % 3 == 0
WINDOWS = Preprocessing(region="windows", roi_size=16, offsets=(0,), mean=(0.0,), std=(1.0,))
FORK = "ignore:This process .* is multi-threaded:DeprecationWarning"


def write(kidney_dir, depth=SHAPE[0], compression=1):
    for z in range(depth):
        write_tiff(kidney_dir / "images" / f"{z:04d}.tif", GREY[z % SHAPE[0]], compression)
        write_tiff(kidney_dir / "labels" / f"{z:04d}.tif", VESSEL[z % SHAPE[0]].astype(np.uint8) * 255)
    return open_volume(kidney_dir)


@pytest.fixture
def volume(tmp_path):
    return write(tmp_path / "k")


@pytest.fixture
def cache_dir(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def block(volume, cache_dir):
    return open_blocks(cache_dir, labelled_slices([volume]), (0,))["k", 0].block


def whole_pixels(axis, at, row, column):
    """A plane whose window begins at this row and column, not turned or enlarged."""
    return Plane(axis, at, np.array([[1.0, 0.0, column], [0.0, 1.0, row]]))


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        pytest.param(0, np.s_[20, 10:26, 7:23], id="z: rows are y, columns x"),
        pytest.param(1, np.s_[10:26, 20, 7:23], id="y: rows are z, columns x"),
        pytest.param(2, np.s_[10:26, 7:23, 20], id="x: rows are z, columns y"),
    ],
)
def test_a_plane_is_what_indexing_gives(block, axis, expected):
    plane = whole_pixels(axis, 20, 10, 7)
    assert np.array_equal(cut_plane(block, plane, 16, (0,))[0], GREY[expected])
    assert np.array_equal(cut_label(block, plane, 16, (0,))[0], VESSEL[expected])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_channels_are_the_planes_beside(block, axis):
    """At the side of the volume the last plane is seen again, and nothing is known of what would lie beyond."""
    step = (1296, 36, 1)[axis]
    at = SHAPE[axis] - 1
    plane = whole_pixels(axis, at, 3, 4)
    images, labels = (cut(block, plane, 16, (-2, 0, 1)) for cut in (cut_plane, cut_label))
    assert np.unique(images[1].astype(int) - images[0]).tolist() == [2 * step]
    assert np.array_equal(images[1], images[2])
    assert np.array_equal(labels[:2], np.take(np.moveaxis(VESSEL, axis, 0), (at - 2, at), 0)[:, 3:19, 4:20])
    assert (labels[2] == 255).all()


def test_beyond_the_sides_the_border_is_repeated_and_nothing_is_known(block):
    plane = whole_pixels(1, 5, -6, 28)  # 6 planes above the first slice, 10 columns beyond the last
    image, label = (cut(block, plane, 16, (0,))[0] for cut in (cut_plane, cut_label))
    assert np.array_equal(image, np.pad(GREY[:10, 5, 28:], ((6, 0), (0, 10)), "edge"))
    assert np.array_equal(label, np.pad(VESSEL[:10, 5, 28:].astype(int), ((6, 0), (0, 10)), constant_values=255))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_turned_plane_by_hand(block, axis):
    """Turned by 30 degrees about the window's rows: a step down goes cos 30 down and sin 30 along the normal."""
    turned = whole_pixels(axis, 18, 12, 10)._replace(turn=_turn(axis, np.pi / 2, np.radians(30)))
    middle, steps = 7.5, np.arange(16) - 7.5
    rows, columns = np.broadcast_arrays(12 + middle + steps[:, None] * np.cos(np.pi / 6), 10 + middle + steps)
    for sign in (1, -1):
        across = np.broadcast_to(18 + sign * steps[:, None] / 2, rows.shape)
        place = np.insert(np.stack((rows, columns)), axis, across, axis=0)
        expected = np.tensordot((1296.0, 36.0, 1.0), place, 1)
        image = cut_plane(block, turned, 16, (0,))[0]
        if abs(image - expected).max() < 0.5:
            break
    assert abs(image - expected).max() < 0.05
    nearest = np.floor(place + 0.5).astype(int)
    assert np.array_equal(cut_label(block, turned, 16, (0,))[0], VESSEL[tuple(nearest)])


def points_of(plane, side, offset):
    """(3, side, side): z, y and x of each pixel."""
    ((starts, across),) = lines_of(plane, side, (offset,))
    return np.moveaxis(starts[:, None] + across, 2, 0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("offset", [0, 2])
def test_any_turned_window_is_trilinear(block, seed, offset):
    """With noise instead of a code, against scipy; what lies beyond the volume is the border, and unknown."""
    noise = np.random.default_rng(seed).integers(0, 2**16, SHAPE, dtype=np.uint16)
    counts = tuple(-(-length // 8) for length in SHAPE)
    padded = np.pad(noise, [(0, 8 * count - length) for count, length in zip(counts, SHAPE, strict=True)])
    grey = padded.reshape(counts[0], 8, counts[1], 8, counts[2], 8).transpose(0, 2, 4, 1, 3, 5)
    vars(block.bricks)["grey"] = np.ascontiguousarray(grey)
    plane = draw_plane(block, 18, 24, (0.5, 1.5), "zyx", 30, np.random.default_rng(seed))
    plane = plane._replace(turn=_turn(plane.axis, seed, 0.1 + seed / 15))
    points = points_of(plane, 24, offset)
    expected = map_coordinates(noise.astype(np.float32), points, order=1, mode="nearest")
    np.testing.assert_allclose(cut_plane(block, plane, 24, (offset,))[0], expected, atol=2)
    nearest = np.floor(points + 0.5).astype(int)
    inside = ((nearest >= 0) & (nearest < np.array(SHAPE)[:, None, None])).all(0)
    label = cut_label(block, plane, 24, (offset,))[0]
    assert np.array_equal(label == 255, ~inside)
    assert np.array_equal(label[inside], VESSEL[tuple(nearest[:, inside])])


@pytest.mark.parametrize("strip", [1, 40, 10**6])
def test_strips_and_places_of_64_bits_change_no_turned_window(block, monkeypatch, strip):
    """Also windows that lie beyond the block, with slices that are not known."""
    plane = Plane(1, 3, np.array([[1.1, 0.2, -4.0], [-0.2, 1.1, 6.0]]), _turn(1, 0.7, 0.5))
    block = block._replace(known=np.arange(SHAPE[0]) % 5 != 0)
    expected = cut_plane(block, plane, 24, (0,)), cut_label(block, plane, 24, (0,))
    layer_of = turned._layer_of
    monkeypatch.setattr(turned, "_layer_of", lambda *arguments: (layer_of(*arguments)[0], np.int64))
    monkeypatch.setattr(turned, "_STRIP", strip)
    assert np.array_equal(cut_plane(block, plane, 24, (0,)), expected[0])
    assert np.array_equal(cut_label(block, plane, 24, (0,)), expected[1])
    assert {0, 1, 255} == {*np.unique(expected[1])}


def test_places_take_64_bits_where_32_do_not_suffice(block):
    ends = np.zeros((2, 2, 3), np.float32)
    wide = block._replace(bricks=dataclasses.replace(block.bricks, shape=(36, 40_000, 40_000)))
    assert [turned._layer_of(each, ends)[1] for each in (block, wide)] == [np.int32, np.int64]


def test_the_channels_of_a_turned_plane_lie_along_its_normal():
    plane = Plane(0, 10, np.array([[1.0, 0, 3], [0, 1.0, 4]]), _turn(0, 0.7, 0.4))
    here, beside = (points_of(plane, 8, offset) for offset in (0, 1))
    right, down, step = here[:, 0, 1] - here[:, 0, 0], here[:, 1, 0] - here[:, 0, 0], (beside - here)[:, 0, 0]
    assert np.linalg.norm(step) == pytest.approx(1, abs=1e-5) and step[0] == pytest.approx(np.cos(0.4), abs=1e-5)
    assert abs(step @ right) < 1e-5 and abs(step @ down) < 1e-5


def decode(image, intensity):
    """Coordinates of the grey values of a window of whole pixels."""
    code = np.rint(image * (intensity.high - intensity.low) + intensity.low).astype(int)
    return code // 1296, code % 1296 // 36, code % 36


@pytest.mark.parametrize("outputs", ["centre", "all"])
def test_image_and_target_stay_aligned(volume, cache_dir, outputs):
    """Without variation, whatever the axis: the target is the label of the voxel whose grey value the image has."""
    preprocessing = Preprocessing(
        region="windows", roi_size=16, offsets=(-1, 0, 1), outputs=outputs, mean=(0.0,), std=(1.0,)
    )
    dataset = SliceDataset([volume], preprocessing, planes="zyx", cache_dir=cache_dir)
    axes = set()
    for index in range(60):
        image, target = (tensor.numpy() for tensor in dataset[index])
        places = np.stack(decode(image, measure_intensity(volume, preprocessing)))  # (3, C, h, w)
        axes.add(int(np.argmin(np.ptp(places[:, 1], axis=(1, 2)))))
        shown = places if outputs == "all" else places[:, 1:2]
        is_known = np.isfinite(target)
        assert is_known[len(target) // 2].all()
        assert np.array_equal(target[is_known], VESSEL[tuple(shown[:, is_known])])
    assert axes == {0, 1, 2}


def test_turned_windows_stay_aligned(volume, cache_dir):
    """Vessel is what has a code above 23,000. A window between the voxels has the code of its place, the target that of
    the nearest voxel, which is at most half a step of each axis away."""
    for z in range(SHAPE[0]):
        write_tiff(volume.label_paths[f"{z:04d}"], (GREY[z] > 23000).astype(np.uint8))
    dataset = SliceDataset(
        [volume], WINDOWS, planes="zyx", oblique=30, augment=True, light=0, noise=0, cache_dir=cache_dir
    )
    intensity = measure_intensity(volume, WINDOWS)
    seen = {0: 0, 1: 0}
    for index in range(72):
        image, target = (tensor.numpy() for tensor in dataset[index])
        code = image * (intensity.high - intensity.low) + intensity.low
        sure = np.isfinite(target) & (abs(code - 23000) > (1296 + 36 + 1) / 2)
        assert np.array_equal(target[sure] == 1, code[sure] > 23000)
        for value in seen:
            seen[value] += int((target[sure] == value).sum())
    assert min(seen.values()) > 1000


def test_windows_differ_with_seed_epoch_and_index_alone(volume, cache_dir):
    def draw(seed, epoch, index):
        dataset = SliceDataset(
            [volume], WINDOWS, augment=True, planes="zyx", oblique=30, seed=seed, cache_dir=cache_dir
        )
        dataset.epoch = epoch
        return dataset[index][0]

    assert torch.equal(draw(0, 1, 2), draw(0, 1, 2))
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 2 + SHAPE[0])):
        assert not torch.equal(draw(0, 1, 2), draw(*other))


@pytest.mark.filterwarnings(FORK)
def test_any_number_of_workers_gives_the_same(volume, cache_dir):
    dataset = SliceDataset([volume], WINDOWS, augment=True, planes="zyx", oblique=30, cache_dir=cache_dir)
    assert len(pickle.dumps(dataset)) < 200_000
    alone = [*dataset]
    for workers in (1, 3):
        loader = DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context="fork")
        for (image, target), (same, same_target) in zip(alone, loader, strict=True):
            assert torch.equal(image, same)
            torch.testing.assert_close(target, same_target, rtol=0, atol=0, equal_nan=True)


def test_held_out_slices_are_seen_and_not_learned_from(volume, cache_dir):
    """Slice 17 is held out: a window across y shows it, and its row of the target is unknown."""
    places = {id_: place for id_, place in labelled_slices([volume]).items() if id_ != "k_0017"}
    found = open_blocks(cache_dir, places, (0,))
    assert ("k", 17) not in found and len(found) == SHAPE[0] - 1
    block = found["k", 0].block
    plane = whole_pixels(1, 9, 10, 5)
    label = cut_label(block, plane, 16, (0,))[0]
    assert (label[7] == 255).all() and np.array_equal(np.delete(label, 7, 0), np.delete(VESSEL[10:26, 9, 5:21], 7, 0))
    assert np.array_equal(cut_plane(block, plane, 16, (0,))[0], GREY[10:26, 9, 5:21])
    assert (cut_label(block, whole_pixels(0, 17, 10, 5), 16, (0,)) == 255).all()
    turned = plane._replace(turn=np.eye(3))
    assert np.array_equal(cut_label(block, turned, 16, (0,))[0], label)


def test_half_of_the_windows_show_the_vessel(tmp_path, cache_dir):
    """One vessel voxel in a corner of each slice: windows of 8 pixels hit it by chance in less than one of twenty."""
    volume = write(tmp_path / "k")
    label = np.zeros(SHAPE[1:], np.uint8)
    label[30, 3] = 255
    for path in volume.label_paths.values():
        write_tiff(path, label)
    block = open_blocks(cache_dir, labelled_slices([volume]), (0,))["k", 0].block
    assert block.bricks.anchors(5).tolist() == [30 * 34 + 3]
    rng = np.random.default_rng(0)
    planes = [draw_plane(block, 18, 8, None, "zyx", 0, rng) for _ in range(400)]
    hits = [(cut_label(block, plane, 8, (0,)) == 1).any() for plane in planes]
    assert 0.4 < np.mean(hits) < 0.65
    assert {plane.axis for plane in planes} == {0, 1, 2}


def without(volume, zs):
    for z in zs:
        volume.label_paths[f"{z:04d}"].unlink()
    return open_volume(volume.image_paths[0].parents[1])


def test_a_sparse_kidney_gives_windows_along_z(tmp_path, volume, cache_dir, caplog):
    sparse = without(write(tmp_path / "sparse"), [z for z in range(SHAPE[0]) if z % 4])
    places = labelled_slices([volume, sparse])
    check_planes(places, "zyx", 30.0)
    assert "sparse gives windows along z only: planes zyx needs at least 32 labelled slices that follow" in caplog.text
    assert "k gives" not in caplog.text
    blocks = open_blocks(cache_dir, places, (-1, 0, 1))
    assert len(blocks["sparse", 4].block.rows) == 3 and blocks["sparse", 4].z == 1  # slices 3, 4 and 5
    rng = np.random.default_rng(0)
    planes = [draw_plane(*blocks["sparse", 4], 16, (0.5, 1.5), "zyx", 30, rng) for _ in range(40)]
    assert {(plane.axis, plane.at, plane.turn is None) for plane in planes} == {(0, 1, True)}
    with pytest.raises(InputError, match="oblique 20 needs a kidney with at least 32 labelled slices .* in sparse: ch"):
        check_planes(labelled_slices([sparse]), "z", 20.0)
    check_planes(labelled_slices([sparse]), "z", 0.0)


def test_a_gap_in_the_names_parts_two_blocks(volume, cache_dir):
    for path in (volume.image_paths[2], volume.label_paths["0002"]):
        path.unlink()
    gapped = open_volume(volume.image_paths[0].parents[1])
    blocks = open_blocks(cache_dir, labelled_slices([gapped]), (0,))
    assert [len(blocks["k", z].block.rows) for z in (0, 1, 2)] == [2, 2, 33]
    assert np.array_equal(cut_plane(*blocks["k", 2][:1], whole_pixels(0, 0, 3, 4), 16, (-1,))[0], GREY[3, 3:19, 4:20])


def test_a_blank_slice_is_no_neighbour(volume, cache_dir):
    write_tiff(volume.image_paths[35], np.full(SHAPE[1:], 7, np.uint16))
    blocks = open_blocks(cache_dir, labelled_slices([volume]), (0,))
    assert len(blocks["k", 0].block.rows) == 35 and len(blocks["k", 35].block.rows) == 1


def test_slices_are_decoded_once_whatever_the_compression(tmp_path, cache_dir, monkeypatch, capsys):
    plain, packed = write(tmp_path / "a" / "k"), write(tmp_path / "b" / "k", compression=5)
    bricks = [open_bricks(cache_dir, [Wanted(volume, tuple(range(36)))])[0] for volume in (plain, packed)]
    assert bricks[0].paths != bricks[1].paths
    assert np.array_equal(bricks[0].grey, bricks[1].grey) and np.array_equal(bricks[0].label, bricks[1].label)
    assert "decoding k: 100%" in capsys.readouterr().err
    monkeypatch.setattr(bricks_module, "_decode", None)
    assert open_bricks(cache_dir, [Wanted(plain, tuple(range(36)))]) == bricks[:1]
    with pytest.raises(ValueError, match="read-only"):
        bricks[0].grey[0] = 0


def test_another_label_is_another_volume(volume, cache_dir):
    wanted = [Wanted(volume, (0, 1))]
    (before,) = open_bricks(cache_dir, wanted)
    write_tiff(volume.label_paths["0001"], np.zeros(SHAPE[1:], np.uint8))
    (after,) = open_bricks(cache_dir, wanted)
    assert before != after
    assert np.count_nonzero(before.label == 1) == np.count_nonzero(VESSEL[:2])
    assert np.count_nonzero(after.label == 1) == np.count_nonzero(VESSEL[0])


def test_a_volume_that_was_cut_short_is_decoded_again(volume, cache_dir):
    wanted = [Wanted(volume, (0, 1, 2))]
    (bricks,) = open_bricks(cache_dir, wanted)
    bricks.paths[0].write_bytes(bricks.paths[0].read_bytes()[:-1])
    (again,) = open_bricks(cache_dir, wanted)
    assert np.array_equal(again.plane(again.grey, 0, 2, (range(35), range(34))), GREY[2])


def test_a_disk_without_room_is_refused_before_the_first_slice(volume, cache_dir, monkeypatch):
    monkeypatch.setattr(bricks_module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    monkeypatch.setattr(bricks_module, "_decode", None)
    with pytest.raises(InputError, match=r"the decoded slices of k need 0\.\d+ MB and .* has 0\.001 MB free: delete"):
        open_bricks(cache_dir, [Wanted(volume, tuple(range(36)))])
    assert not [*cache_dir.glob("*.npy*")]


def test_slices_of_two_sizes_or_kinds_are_refused(volume, cache_dir):
    write_tiff(volume.image_paths[3], GREY[3].astype(np.uint8))
    with pytest.raises(InputError, match="k_0003 is uint8 but others of its kidney are uint16"):
        open_bricks(cache_dir, [Wanted(volume, tuple(range(36)))])
    assert not [*cache_dir.glob("*.npy*")]
    write_tiff(volume.image_paths[3], GREY[3, :, 1:])
    with pytest.raises(InputError, match=r"of one size, found 35x34 \(k_0000\) and 35x33 \(k_0003\): choose planes z"):
        open_bricks(cache_dir, [Wanted(volume, tuple(range(36)))])


@pytest.mark.parametrize("depth", [40, 160])
def test_memory_does_not_grow_with_the_volume(tmp_path, cache_dir, depth):
    """While windows are cut out of volumes of 0.1 and 0.6 MB."""
    volume = write(tmp_path / "k", depth)
    dataset = SliceDataset([volume], WINDOWS, planes="zyx", oblique=30, augment=True, cache_dir=cache_dir)
    [dataset[index] for index in range(4)]
    tracemalloc.start()
    [dataset[index] for index in range(8)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_planes_need_a_cache(volume):
    with pytest.raises(ValueError, match="planes across slices need a cache_dir, got None"):
        SliceDataset([volume], WINDOWS, planes="zyx")
