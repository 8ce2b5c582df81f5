"""Blocks on Dask's workers: the mask of a single process, also after a worker or the whole run is killed."""

import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import zarr
from input_cases import UNET
from scan_files import read, write

from sennet_kaggle.__main__ import main
from sennet_kaggle.config import Inference, Preprocessing
from sennet_kaggle.data.phantom import Phantom, phantom_slices
from sennet_kaggle.errors import InputError, show_messages
from sennet_kaggle.inference import dask_cluster, scan_blocks
from sennet_kaggle.inference.loading import load_predictors
from sennet_kaggle.inference.predict import predict_probabilities
from sennet_kaggle.inference.scan_blocks import segment_blocks
from sennet_kaggle.inference.scan_run import plan_run, segment_scan
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, save_checkpoint
from sennet_kaggle.scans.opening import open_mask, open_scan
from sennet_kaggle.submission.provenance import hash_package

SHAPE = (140, 72, 64)  # five blocks, the last of 12 slices
INFERENCE = Inference(device="cpu")


@pytest.fixture(scope="module")
def bench(tmp_path_factory, one_thread):
    """An OME-Zarr phantom, a checkpoint that sees neighbours, and the mask of a single process."""
    folder = tmp_path_factory.mktemp("bench")
    scan = np.stack([slice_ for slice_, _ in phantom_slices(Phantom(SHAPE))])
    write(folder / "scan.zarr", scan, (50.0, 50.0, 50.0))
    path = folder / "small.safetensors"
    torch.manual_seed(0)
    model = create_model("unet", **UNET)
    preprocessing = Preprocessing(region="windows", roi_size=32, offsets=(-2, 0, 1))
    card = Card("unet", UNET, preprocessing, 0.5, trained_on=("kidney_1_dense_0000",))
    save_checkpoint(path, model, card)
    found = predict_probabilities(open_scan(folder / "scan.zarr"), load_predictors([path]), INFERENCE, range(60, 64))
    save_checkpoint(path, model, replace(card, threshold=torch.stack([p for _, p in found]).median().item()))
    single = plan(folder, folder / "single.zarr")
    return folder, segment_scan(single), read(open_mask(folder / "single.zarr"))


def plan(bench, output_path, **settings):
    scan = open_scan(bench / "scan.zarr")
    return plan_run(scan, output_path, [bench / "small.safetensors"], replace(INFERENCE, **settings))


@pytest.fixture(scope="module")
def cluster():
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0) as found:
        yield found


@pytest.mark.slow
def test_two_workers_give_the_mask_of_one_process(bench, cluster, tmp_path):
    folder, share, expected = bench
    assert 0.1 < expected.mean() < 0.9
    output = tmp_path / "blocks.zarr"
    assert segment_blocks(plan(folder, output), 0, cluster.scheduler_address) == share
    np.testing.assert_array_equal(read(open_mask(output)), expected)
    assert open_mask(output).voxel_size_um == (50, 50, 50)
    ours, theirs = (zarr.open_group(path, mode="r") for path in (output, folder / "single.zarr"))
    assert ours.attrs["ome"]["multiscales"][0]["datasets"] == theirs.attrs["ome"]["multiscales"][0]["datasets"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["blocks.zarr", "blocks.zarr.json"]


@pytest.mark.slow
def test_workers_open_the_scan_as_it_was_opened(bench, cluster, tmp_path):
    """An array in another order, of floating-point numbers whose range is that of the whole scan."""
    folder, _, _ = bench
    scan = np.stack([*open_scan(folder / "scan.zarr")])[:50].astype(np.float32) / 30000
    np.save(tmp_path / "scan.npy", scan.transpose(2, 1, 0))
    checkpoints = [folder / "small.safetensors"]
    found = open_scan(tmp_path / "scan.npy", axes="xyz", voxel_size_um=50)
    segment_scan(plan_run(found, tmp_path / "single.zarr", checkpoints, INFERENCE))
    segment_blocks(plan_run(found, tmp_path / "m.zarr", checkpoints, INFERENCE), 0, cluster.scheduler_address)
    expected = read(open_mask(tmp_path / "single.zarr"))
    assert 0.1 < expected.mean() < 0.9
    np.testing.assert_array_equal(read(open_mask(tmp_path / "m.zarr")), expected)


@pytest.mark.slow
def test_a_killed_worker_does_not_cost_the_run(bench, cluster, tmp_path):
    folder, share, expected = bench
    output, killed = tmp_path / "blocks.zarr", []

    def kill():
        while not [*tmp_path.glob(".blocks.zarr.unfinished/block-*")]:
            time.sleep(0.005)
        killed.append(next(iter(cluster.workers.values())).process.pid)
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert segment_blocks(plan(folder, output), 0, cluster.scheduler_address) == share
    killer.join(1)
    assert killed
    np.testing.assert_array_equal(read(open_mask(output)), expected)


@pytest.mark.slow
def test_a_killed_run_keeps_its_blocks(bench, cluster, tmp_path, monkeypatch):
    folder, share, expected = bench
    output = tmp_path / "blocks.zarr"
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="stopped here"):
        patched.setattr("sennet_kaggle.scans.ome_zarr_writing.ZarrOutput.finish", stop)
        segment_blocks(plan(folder, output), 0, cluster.scheduler_address)
    kept = sorted((tmp_path / ".blocks.zarr.unfinished").glob("block-*"))
    assert len(kept) == 5 and not output.exists()
    kept[0].unlink()  # as if this block had not been finished
    stamps = [path.stat().st_mtime_ns for path in kept[1:]]
    shares = []
    watcher = threading.Thread(target=lambda: shares.append([path.stat().st_mtime_ns for path in kept[1:]]))
    watcher.start()
    assert segment_blocks(plan(folder, output), 0, cluster.scheduler_address) == share
    watcher.join()
    assert shares == [stamps]
    np.testing.assert_array_equal(read(open_mask(output)), expected)


def stop(self):
    raise RuntimeError("stopped here")


@pytest.mark.slow
def test_a_block_that_cannot_be_read_is_one_line(bench, cluster, tmp_path):
    folder, _, _ = bench
    scan = np.stack([*open_scan(folder / "scan.zarr")])
    path = write(tmp_path / "scan.zarr", scan, (50.0, 50.0, 50.0))
    chunk = path / "0" / "c" / "1" / "0" / "0"
    run = plan_run(open_scan(path), tmp_path / "m.zarr", [folder / "small.safetensors"], INFERENCE)
    chunk.write_bytes(b"no chunk at all" * 3)
    with pytest.raises(InputError, match="scan.zarr is damaged at slice 3") as error:
        segment_blocks(run, 0, cluster.scheduler_address)
    assert "\n" not in str(error.value) and not (tmp_path / "m.zarr").exists()


@pytest.mark.slow
def test_the_command_starts_a_cluster_of_its_own(bench, tmp_path, capsys):
    folder, share, expected = bench
    arguments = ["--input", folder / "scan.zarr", "--output", tmp_path / "m.zarr", "--device", "cpu", "--tta", "none"]
    arguments += ["--extra-scales"]  # none, as in the expected mask
    arguments += ["--checkpoint", folder / "small.safetensors", "--workers", "2"]
    assert main(["segment", *map(str, arguments)]) == 0
    np.testing.assert_array_equal(read(open_mask(tmp_path / "m.zarr")), expected)
    assert f"vessel {share:.3%}" in capsys.readouterr().out


def test_what_blocks_cannot_do(bench, tmp_path):
    folder, _, _ = bench
    with pytest.raises(InputError, match="axes must be z, got zyx"):
        segment_blocks(plan(folder, tmp_path / "m.zarr", axes="zyx"), 2, None)
    with pytest.raises(InputError, match="the output must be a .zarr, got"):
        segment_blocks(plan(folder, tmp_path / "m.tif"), 2, None)
    with pytest.raises(InputError, match="workers must be a number of processes, got -1"):
        segment_blocks(plan(folder, tmp_path / "m.zarr"), -1, None)
    assert list(tmp_path.iterdir()) == []


def test_a_scheduler_that_does_not_answer(bench, tmp_path, monkeypatch):
    folder, _, _ = bench
    monkeypatch.setattr(dask_cluster, "_CONNECT_SECONDS", 0.5)
    with pytest.raises(InputError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        segment_blocks(plan(folder, tmp_path / "m.zarr"), 0, "tcp://127.0.0.1:9")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def empty_cluster(monkeypatch):
    """A scheduler in this process, still without workers."""
    from distributed import LocalCluster

    monkeypatch.setattr(dask_cluster, "_CHECK_SECONDS", 0.1)
    with LocalCluster(n_workers=0, processes=False, dashboard_address=None) as found:
        yield found


def test_a_cluster_without_workers_is_said_and_waited_for(bench, empty_cluster, tmp_path):
    folder, share, expected = bench
    said = []

    def start_one(text):
        said.append(text)
        empty_cluster.scale(1)

    show_messages(start_one)
    address = empty_cluster.scheduler_address
    assert segment_blocks(plan(folder, tmp_path / "m.zarr"), 0, address) == share
    assert said == [f"waiting for a Dask worker: start one with dask worker {address}"]
    np.testing.assert_array_equal(read(open_mask(tmp_path / "m.zarr")), expected)


def other_version() -> str:
    return hash_package() if threading.current_thread() is threading.main_thread() else "0123"


def no_package() -> str:
    if threading.current_thread() is threading.main_thread():
        return hash_package()
    raise ModuleNotFoundError("No module named 'sennet_kaggle'")


@pytest.mark.parametrize(
    ("there", "message"),
    [
        (no_package, "cannot use sennet_kaggle .No module named 'sennet_kaggle'.: start it in an environment that has"),
        (other_version, "has another version of sennet_kaggle: install the same version there"),
    ],
)
def test_a_worker_without_this_package_is_named(bench, empty_cluster, tmp_path, monkeypatch, there, message):
    folder, _, _ = bench
    monkeypatch.setattr(dask_cluster, "hash_package", there)
    empty_cluster.scale(1)
    with pytest.raises(InputError, match=f"the Dask worker at .* {message}") as error:
        segment_blocks(plan(folder, tmp_path / "m.zarr"), 0, empty_cluster.scheduler_address)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


STARTED, OVER = threading.Event(), threading.Event()


def wait_until_over(job, first: int) -> int:
    STARTED.set()
    OVER.wait(60)
    return 0


def test_a_scheduler_that_ends_is_one_line(bench, empty_cluster, tmp_path, monkeypatch):
    """Nothing had been finished, so nothing stays."""
    folder, _, _ = bench
    monkeypatch.setattr(scan_blocks, "segment_block", wait_until_over)
    empty_cluster.scale(1)
    threading.Thread(target=lambda: STARTED.wait(60) and empty_cluster.close(), daemon=True).start()
    threading.Thread(target=lambda: STARTED.wait(60) and OVER.wait(0.5) or OVER.set(), daemon=True).start()
    with pytest.raises(InputError, match="the Dask scheduler at .* has ended: start it and its workers") as error:
        segment_blocks(plan(folder, tmp_path / "m.zarr"), 0, empty_cluster.scheduler_address)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []
