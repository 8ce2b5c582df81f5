import dataclasses
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sennet_kaggle.config import Preprocessing
from sennet_kaggle.data import cache
from sennet_kaggle.data.cache import open_cache
from sennet_kaggle.data.intensity import hide_padding, measure_intensity, slice_to_image
from sennet_kaggle.data.resizing import resize_image
from sennet_kaggle.data.transforms import mask_to_target
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.errors import InputError

PREPROCESSING = Preprocessing(roi_size=32)
DEPTH = 4
ZS = range(DEPTH)
FORK = "ignore:This process .* is multi-threaded:DeprecationWarning"  # the threads of tqdm and OpenCV hold no lock


@pytest.fixture
def volume(tmp_path, write_kidney):
    write_kidney(tmp_path / "k", depth=DEPTH, size=(50, 40))
    return open_volume(tmp_path / "k")


@pytest.fixture
def cache_dir(tmp_path):
    return tmp_path / "made" / "cache"


@pytest.fixture
def reads(monkeypatch):
    """The z of every pair read from now on."""
    read_pair, zs = cache.read_pair, []

    def counting(volume, z, *arguments):
        zs.append(z)
        return read_pair(volume, z, *arguments)

    monkeypatch.setattr(cache, "read_pair", counting)
    return zs


def direct(volume, zs, preprocessing):
    intensity = measure_intensity(volume, preprocessing)
    grey = [hide_padding(volume[z], preprocessing) for z in zs]
    images = [slice_to_image(resize_image(slice_, preprocessing)[0], intensity, preprocessing) for slice_ in grey]
    masks = [mask_to_target(volume.label(z), preprocessing)[0] for z in zs]
    return np.stack(images), np.stack(masks)


def assert_holds(cached, volume, zs, preprocessing):
    images, masks = direct(volume, zs, preprocessing)
    np.testing.assert_array_equal(cached.images, images)
    np.testing.assert_array_equal(cached.masks, masks)


@pytest.mark.parametrize("intensity", ["percentile", "eight_bit"])
def test_rows_are_what_reading_gives(volume, cache_dir, intensity):
    preprocessing = Preprocessing(intensity=intensity, roi_size=32)
    cached = open_cache(cache_dir, volume, [3, 1], preprocessing)
    assert cached.images.dtype == np.float32 and cached.masks.dtype == np.bool_
    assert_holds(cached, volume, [3, 1], preprocessing)
    assert cached.masks.any()
    with pytest.raises(ValueError, match="read-only"):
        cached.images[0] = 0


def test_rows_of_real_slices(data_dir, cache_dir):
    volume = open_volume(data_dir / "train" / "kidney_2")
    assert_holds(open_cache(cache_dir, volume, [0, 1], Preprocessing()), volume, [0, 1], Preprocessing())


def test_a_second_opening_reads_no_slice(volume, cache_dir, reads, capsys):
    open_cache(cache_dir, volume, ZS, PREPROCESSING)
    assert sorted(reads) == [*ZS]
    assert "caching k: 100%" in capsys.readouterr().err
    names = sorted(path.name for path in cache_dir.iterdir())
    assert [name.split(".", 1)[1] for name in names] == ["cache.lock", "images.npy", "masks.npy"]
    assert_holds(open_cache(cache_dir, volume, ZS, PREPROCESSING), volume, ZS, PREPROCESSING)
    assert len(reads) == DEPTH
    assert capsys.readouterr().err == ""


def flip_pixel(path):
    """One pixel of an uncompressed TIFF; OpenCV writes pixels first, headers last."""
    content = bytearray(path.read_bytes())
    content[8] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "zs", "settings"),
    [
        pytest.param(lambda v: flip_pixel(v.image_paths[1]), ZS, {}, id="one image byte"),
        pytest.param(lambda v: flip_pixel(v.label_paths["0001"]), ZS, {}, id="one label pixel"),
        pytest.param(lambda v: None, ZS, {"roi_size": 16}, id="roi_size"),
        pytest.param(lambda v: None, ZS, {"intensity": "eight_bit"}, id="intensity"),
        pytest.param(lambda v: None, ZS, {"low_percentile": 11.0}, id="percentile"),
        pytest.param(lambda v: None, [0, 1, 3, 2], {}, id="order"),
        pytest.param(lambda v: None, [0, 1, 2], {}, id="fewer slices"),
    ],
)
def test_another_content_is_another_cache(volume, cache_dir, change, zs, settings):
    before = open_cache(cache_dir, volume, ZS, PREPROCESSING)
    change(volume)
    preprocessing = dataclasses.replace(PREPROCESSING, **settings)
    after = open_cache(cache_dir, volume, zs, preprocessing)
    assert after != before
    assert_holds(after, volume, zs, preprocessing)


def test_the_range_of_the_volume_is_content(volume, cache_dir):
    """Slice 3 is not cached, but the volume's percentiles, and so the rows, depend on it."""
    before = open_cache(cache_dir, volume, [0], PREPROCESSING)
    volume.image_paths[3].write_bytes(volume.image_paths[2].read_bytes())
    after = open_cache(cache_dir, volume, [0], PREPROCESSING)
    assert after != before
    assert_holds(after, volume, [0], PREPROCESSING)


def test_a_renamed_slice_is_another_cache(volume, cache_dir):
    before = open_cache(cache_dir, volume, ZS, PREPROCESSING)
    for path in (volume.image_paths[3], volume.label_paths["0003"]):
        path.rename(path.with_name("0004.tif"))
    assert open_cache(cache_dir, open_volume(volume.image_paths[0].parents[1]), ZS, PREPROCESSING) != before


def test_dates_folders_mean_and_std_are_not_content(volume, cache_dir, tmp_path, reads):
    before = open_cache(cache_dir, volume, ZS, PREPROCESSING)
    os.utime(volume.image_paths[0], (1, 1))
    shutil.move(tmp_path / "k", tmp_path / "elsewhere" / "k")
    moved = open_volume(tmp_path / "elsewhere" / "k")
    one_channel = dataclasses.replace(PREPROCESSING, mean=(0.5,), std=(0.1,))
    assert open_cache(cache_dir, moved, ZS, one_channel) == before
    assert len(reads) == DEPTH


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        pytest.param("masks", lambda path: path.unlink(), id="one missing"),
        pytest.param("images", lambda path: os.truncate(path, path.stat().st_size - 1), id="cut"),
        pytest.param("images", lambda path: os.truncate(path, 0), id="empty"),
        pytest.param("masks", lambda path: path.write_bytes(b"not an array" * 99), id="not an array"),
        pytest.param("images", lambda path: np.save(path, np.zeros((DEPTH, 32, 31), np.float32)), id="shape"),
        pytest.param("images", lambda path: np.save(path, np.zeros((DEPTH, 32, 32))), id="dtype"),
    ],
)
def test_a_damaged_cache_is_built_again(volume, cache_dir, reads, kind, damage):
    before = open_cache(cache_dir, volume, ZS, PREPROCESSING)
    damage({"images": before.images_path, "masks": before.masks_path}[kind])
    assert_holds(open_cache(cache_dir, volume, ZS, PREPROCESSING), volume, ZS, PREPROCESSING)
    assert len(reads) == 2 * DEPTH


@pytest.mark.filterwarnings(FORK)
def test_of_two_processes_one_builds(volume, cache_dir, tmp_path, monkeypatch):
    read_pair, log_path = cache.read_pair, tmp_path / "log"

    def slow(volume, z, *arguments):
        with open(log_path, "a") as log:
            log.write(f"{os.getpid()}\n")
        time.sleep(0.1)  # so that the other arrives in the middle
        return read_pair(volume, z, *arguments)

    monkeypatch.setattr(cache, "read_pair", slow)
    context = multiprocessing.get_context("fork")
    barrier, outcomes = context.Barrier(2), context.Queue()

    def work():
        torch.set_num_threads(1)  # as torch's DataLoader workers do: a fork has no usable thread pool
        barrier.wait(30)
        outcomes.put(open_cache(cache_dir, volume, ZS, PREPROCESSING))

    processes = [context.Process(target=work) for _ in range(2)]
    for process in processes:
        process.start()
    first, second = outcomes.get(timeout=30), outcomes.get(timeout=30)
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert first == second
    builders = log_path.read_text().split()
    assert len(builders) == DEPTH and len({*builders}) == 1
    assert_holds(first, volume, ZS, PREPROCESSING)


@pytest.mark.filterwarnings(FORK)
def test_a_killed_builder_leaves_no_cache_and_no_lock(volume, cache_dir, monkeypatch, reads):
    read_pair = cache.read_pair

    def dying(volume, z, *arguments):
        if z == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_pair(volume, z, *arguments)

    def work():
        torch.set_num_threads(1)
        open_cache(cache_dir, volume, ZS, PREPROCESSING)

    with monkeypatch.context() as patch:
        patch.setattr(cache, "read_pair", dying)
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join(30)
    assert process.exitcode == -signal.SIGKILL
    left = sorted(path.name for path in cache_dir.iterdir())
    assert len(left) == 3 and all(name.endswith((".tmp", ".lock")) for name in left)
    (cache_dir / ".other.npy.1.tmp").touch()  # not a cache's

    assert_holds(open_cache(cache_dir, volume, ZS, PREPROCESSING), volume, ZS, PREPROCESSING)
    assert sorted(reads) == [*ZS]
    assert [path.name for path in cache_dir.glob("*.tmp")] == [".other.npy.1.tmp"]


def test_a_bad_slice_leaves_nothing(volume, cache_dir):
    content = volume.label_paths["0002"].read_bytes()
    volume.label_paths["0002"].write_bytes(content[:8] + bytes(range(9)) + content[17:])
    with pytest.raises(InputError, match="0002.tif is not a mask"):
        open_cache(cache_dir, volume, ZS, PREPROCESSING)
    assert [path.name for path in cache_dir.glob("*") if path.suffix != ".lock"] == []


def test_a_full_disk_is_one_line(volume, cache_dir, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=20479))
    with pytest.raises(InputError, match="cache of k needs 20480 bytes and .*cache has 20479 free: .*folder") as caught:
        open_cache(cache_dir, volume, ZS, PREPROCESSING)  # 4 slices * 32 * 32 * (4 + 1) bytes
    assert "\n" not in str(caught.value)
    assert list(cache_dir.glob("*.npy")) == []


def test_a_file_in_the_place_of_the_folder(volume, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot make the folder .*file .File exists.: choose another"):
        open_cache(tmp_path / "file", volume, ZS, PREPROCESSING)


def test_pickled_it_is_two_paths(volume, cache_dir):
    cached = open_cache(cache_dir, volume, ZS, PREPROCESSING)
    assert cached.images[0, 0, 0] == cached.images[0, 0, 0]  # opened before it is pickled
    pickled = pickle.dumps(cached)
    assert len(pickled) < 1000 < cached.images.nbytes
    assert_holds(pickle.loads(pickled), volume, ZS, PREPROCESSING)
