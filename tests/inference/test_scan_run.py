"""Scans of any format through `segment`: the masks of `predict`, at the scan's voxels, also after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from input_cases import UNET
from scan_files import NAMES, make_image, read, write

from sennet_kaggle.__main__ import main
from sennet_kaggle.config import DEFAULT_INFERENCE, Preprocessing
from sennet_kaggle.data.phantom import Phantom, phantom_slices, write_phantom
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.errors import InputError
from sennet_kaggle.inference import scan_run
from sennet_kaggle.inference.loading import load_predictors
from sennet_kaggle.inference.predict import predict_probabilities
from sennet_kaggle.inference.scan_run import peak_bytes, plan_run, segment_scan
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, save_checkpoint
from sennet_kaggle.scans.opening import open_mask, open_scan
from sennet_kaggle.submission.rle import rle_decode
from sennet_kaggle.submission.submission import read_submission

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE = (5, 96, 80)
SIZE_UM = (25.0, 50.0, 50.0)
WHOLE = Preprocessing(roi_size=64, offsets=(-1, 0, 1))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A phantom as a test set, `scan` of it as an array, and a small checkpoint that sees neighbours and windows."""
    folder = tmp_path_factory.mktemp("bench")
    write_phantom(folder, "k", Phantom(SHAPE), split="test", with_labels=False)
    path = folder / "small.safetensors"
    torch.manual_seed(0)
    model = create_model("unet", **UNET)
    preprocessing = Preprocessing(region="windows", roi_size=64, offsets=(-1, 0, 1))
    card = Card("unet", UNET, preprocessing, 0.5, trained_on=("kidney_1_dense_0000",))
    save_checkpoint(path, model, card)
    found = predict_probabilities(open_volume(folder / "test" / "k"), load_predictors([path]), DEFAULT_INFERENCE)
    threshold = torch.stack([probability for _, probability in found]).median().item()
    save_checkpoint(path, model, replace(card, threshold=threshold))
    return folder


@pytest.fixture(scope="module")
def scan():
    return np.stack([slice_ for slice_, _ in phantom_slices(Phantom(SHAPE))])


def predicted(bench, tmp_path, *options) -> np.ndarray:
    """The masks of the competition's layout."""
    output = tmp_path / "s.csv"
    checkpoint = ("--checkpoint", str(bench / "small.safetensors"))
    assert main(["predict", "--data-dir", str(bench), "--output", str(output), *checkpoint, *map(str, options)]) == 0
    return np.stack([rle_decode(rle, *SHAPE[1:]) for _, rle in read_submission(output)])


def segmented(bench, input_path, output_path, *options):
    arguments = ["--input", input_path, "--output", output_path, "--checkpoint", bench / "small.safetensors", *options]
    assert main(["segment", *map(str, arguments)]) == 0
    return output_path


def plan(bench, input_path, output_path, **settings):
    return plan_run(open_scan(input_path), output_path, [bench / "small.safetensors"], DEFAULT_INFERENCE, **settings)


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_masks_of_predict(bench, scan, tmp_path, name, capsys):
    expected = predicted(bench, tmp_path)
    assert 0.1 < expected.mean() < 0.9
    (tmp_path / "out").mkdir()
    output = segmented(bench, write(tmp_path / name, scan, SIZE_UM), tmp_path / "out" / name)
    mask = open_mask(output)
    np.testing.assert_array_equal(read(mask), expected)
    assert mask.voxel_size_um == (None if name == "scan.npy" else SIZE_UM)
    said = capsys.readouterr()
    assert f"5 slices of {SHAPE[1]}x{SHAPE[2]}, uint16" in said.out and "at most, however many slices" in said.out
    assert f"vessel {expected.mean():.3%}" in said.out
    assert ("does not say how large its voxels are" in said.err) == (name == "scan.npy")
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == sorted([name, f"{name}.json"])
    note = json.loads((tmp_path / "out" / f"{name}.json").read_bytes())
    assert note["checkpoints"][0]["file"] == "small.safetensors" and note["made_by"] == "segment"


def test_memory_follows_the_pixels_that_a_model_is_shown(bench, scan, tmp_path):
    """Of 1 + 4 + 1/4 times a slice's pixels at three scales."""
    run = plan(bench, write(tmp_path / "scan.npy", scan, SIZE_UM), tmp_path / "out.npy")
    at_one, at_three, at_two = (
        peak_bytes(replace(run, inference=replace(run.inference, extra_scales=scales)))
        for scales in ((), (2.0, 0.5), (0.5,))
    )
    assert at_three - at_one == pytest.approx(17 * (at_two - at_one), abs=9)
    save_checkpoint(tmp_path / "whole.safetensors", create_model("unet", **UNET), Card("unet", UNET, WHOLE, 0.5))
    whole = replace(run, checkpoint_paths=(tmp_path / "whole.safetensors",))
    assert peak_bytes(whole) == at_one < peak_bytes(run)


@pytest.mark.parametrize("version", [2, 3])
def test_the_label_of_an_image(bench, scan, tmp_path, version, capsys):
    image_path = tmp_path / "image.zarr"
    make_image(image_path, scan, version)
    output = segmented(bench, image_path, image_path / "labels" / "vessels", "--voxel-size-um", 50)
    np.testing.assert_array_equal(read(open_mask(output)), predicted(bench, tmp_path))
    assert (tmp_path / "image.zarr.vessels.json").is_file()
    assert sorted(each.name for each in (image_path / "labels").iterdir() if each.is_dir()) == ["vessels"]


@pytest.mark.slow
def test_eight_bits_and_the_probability(bench, scan, tmp_path, capsys):
    eight = (scan >> 8).astype(np.uint8)
    path = write(tmp_path / "scan.npy", eight)
    output = segmented(bench, path, tmp_path / "p.tif", "--probability")
    predictors = load_predictors([bench / "small.safetensors"])
    found = [p.numpy() for _, p in predict_probabilities(open_scan(path), predictors, DEFAULT_INFERENCE)]
    np.testing.assert_array_equal(read(open_scan(output)), np.rint(np.stack(found) * 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "scale"), [(25, 0.5), pytest.param(63.08, 63.08 / 50, marks=pytest.mark.slow), (50.001, 1)]
)
def test_the_voxel_size_is_the_scale(bench, scan, tmp_path, size, scale, capsys):
    expected = predicted(bench, tmp_path, "--scale", scale)
    path = write(tmp_path / "scan.nii", scan, (size,) * 3)
    np.testing.assert_array_equal(read(open_mask(segmented(bench, path, tmp_path / "a.nii"))), expected)
    bare = write(tmp_path / "scan.npy", scan)
    for option in (("--voxel-size-um", size), ("--scale", scale)):
        output = segmented(bench, bare, tmp_path / "b.npy", *option)
        np.testing.assert_array_equal(read(open_mask(output)), expected)


def test_scale_auto_is_found_by_size_or_name(bench, scan, tmp_path, caplog):
    """Nearly the same size is the same; a kidney of the competition has no size in its files."""

    def scale_of(path, name):
        auto = replace(DEFAULT_INFERENCE, scale="auto")
        return plan_run(open_scan(path), tmp_path / name, [bench / "small.safetensors"], auto).scale

    sizes = {63.08: 63.08 / 50, 50.28: 1, 25: 0.5}
    for size, expected in sizes.items():
        assert scale_of(write(tmp_path / f"{size}.nii", scan, (size,) * 3), "m.tif") == pytest.approx(expected)
    shutil.copytree(bench / "test" / "k" / "images", tmp_path / "kidney_6")
    shutil.copytree(bench / "test" / "k" / "images", tmp_path / "mine")
    assert scale_of(tmp_path / "kidney_6", "m.tif") == pytest.approx(63.08 / 50)
    assert scale_of(tmp_path / "mine", "m.tif") == 1
    assert "mine does not say how large its voxels are" in caplog.text


@pytest.mark.slow
def test_axes_along_which_the_model_looks(bench, scan, tmp_path, capsys):
    expected = predicted(bench, tmp_path, "--axes", "zyx", "--tta", "none")
    path = write(tmp_path / "scan.tif", scan, (50.0, 50.0, 50.0))
    output = segmented(bench, path, tmp_path / "m.npy", "--axes", "zyx", "--tta", "none")
    np.testing.assert_array_equal(read(open_mask(output)), expected)


@pytest.mark.slow
def test_voxels_that_are_far_from_those_of_training(bench, scan, tmp_path, capsys):
    path = write(tmp_path / "scan.npy", scan)
    segmented(bench, path, tmp_path / "m.npy", "--voxel-size-um", 120)
    assert "voxels of 120 µm are far from the 50 µm that the checkpoint was trained at" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "axes", "message"),
    [
        ((50.0, 50.0, 60.0), "z", "must be squares in the slice, found 50 x 60 µm"),
        ((25.0, 50.0, 50.0), "zyx", "axes zyx needs cubes, found voxels of 25 x 50 x 50 µm"),
        ((2.0, 2.0, 2.0), "z", "within a factor of 10 of the 50"),
    ],
)
def test_voxels_that_the_model_cannot_be_shown(bench, scan, tmp_path, size, axes, message):
    path = write(tmp_path / "scan.tif", scan, size)
    with pytest.raises(InputError, match=message):
        plan_run(
            open_scan(path), tmp_path / "m.tif", [bench / "small.safetensors"], replace(DEFAULT_INFERENCE, axes=axes)
        )


def test_a_checkpoint_of_unknown_voxel_size(bench, scan, tmp_path, caplog):
    path, checkpoint = write(tmp_path / "scan.tif", scan, SIZE_UM), tmp_path / "other.safetensors"
    card = Card("unet", UNET, Preprocessing(region="windows", roi_size=32), 0.5)
    save_checkpoint(checkpoint, create_model("unet", **UNET), card)
    assert plan_run(open_scan(path), tmp_path / "m.tif", [checkpoint], DEFAULT_INFERENCE).inference.scale == 1
    assert "does not say at which voxel size it was trained" in caplog.text
    with pytest.raises(InputError, match="names nothing"):
        plan_run(open_scan(path), tmp_path / "m.tif", [checkpoint], DEFAULT_INFERENCE, voxel_size_given=True)


class Stop(Exception):
    """Ends a run in its middle."""


def stopping_after(monkeypatch, slices):
    """Lets a run fail after so many slices; counts those that are predicted."""
    counted, predict = [], scan_run.predict_probabilities

    def some(*arguments, **settings):
        for found in predict(*arguments, **settings):
            if len(counted) == slices:
                raise Stop
            counted.append(found[0])
            yield found

    monkeypatch.setattr(scan_run, "predict_probabilities", some)
    return counted


@pytest.mark.parametrize("probability", [False, True])
def test_a_stopped_run_goes_on(bench, scan, tmp_path, monkeypatch, probability):
    path = write(tmp_path / "scan.npy", scan)
    run = plan(bench, path, tmp_path / "m.tif", probability=probability)
    with monkeypatch.context() as patched:
        stopping_after(patched, 3)
        with pytest.raises(Stop):
            segment_scan(run)
    assert not (tmp_path / "m.tif").exists() and (tmp_path / ".m.tif.unfinished").is_dir()
    counted = stopping_after(monkeypatch, 100)
    share = segment_scan(run)
    assert counted == ["scan_0003", "scan_0004"]
    whole = plan(bench, path, tmp_path / "whole.tif", probability=probability)
    assert segment_scan(whole) == share
    np.testing.assert_array_equal(read(open_scan(tmp_path / "m.tif")), read(open_scan(tmp_path / "whole.tif")))
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]


def change_the_input(path, run):
    array = np.load(path)
    array[0] += 1
    np.save(path, array)
    return run


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_the_input, "input changed"),
        (lambda path, run: replace(run, inference=replace(run.inference, tta="none")), "settings changed"),
        (lambda path, run: replace(run, probability=True), "probability changed"),
    ],
    ids=["input", "settings", "kind"],
)
def test_another_run_does_not_go_on_from_it(bench, scan, tmp_path, monkeypatch, caplog, change, said):
    path = write(tmp_path / "scan.npy", scan)
    run = plan(bench, path, tmp_path / "m.npy")
    with monkeypatch.context() as patched:
        stopping_after(patched, 3)
        with pytest.raises(Stop):
            segment_scan(run)
    counted = stopping_after(monkeypatch, 100)
    segment_scan(change(path, run))
    assert len(counted) == 5 and f"is of another run ({said}" in caplog.text


def test_a_slice_that_was_damaged_since_is_made_anew(bench, scan, tmp_path, monkeypatch):
    path = write(tmp_path / "scan.npy", scan)
    run = plan(bench, path, tmp_path / "m.npy")
    with monkeypatch.context() as patched:
        stopping_after(patched, 3)
        with pytest.raises(Stop):
            segment_scan(run)
    kept = tmp_path / ".m.npy.unfinished" / "slices.npy"
    content = bytearray(kept.read_bytes())
    content[-4 * 96 * 10 - 1] ^= 1  # in the last byte of slice 0
    kept.write_bytes(content)
    counted = stopping_after(monkeypatch, 100)
    segment_scan(run)
    assert counted == ["scan_0000", "scan_0003", "scan_0004"]
    whole = plan(bench, path, tmp_path / "whole.npy")
    segment_scan(whole)
    np.testing.assert_array_equal(np.load(tmp_path / "m.npy"), np.load(tmp_path / "whole.npy"))


def test_nothing_stays_of_a_run_that_finished_nothing(bench, scan, tmp_path, monkeypatch):
    path = write(tmp_path / "scan.npy", scan)
    (tmp_path / ".m.npy.12345.tmp").write_text("of a run that was killed while it wrote")
    stopping_after(monkeypatch, 0)
    with pytest.raises(Stop):
        segment_scan(plan(bench, path, tmp_path / "m.npy"))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["scan.npy"]


@pytest.mark.slow
def test_a_killed_process_goes_on(bench, scan, tmp_path):
    deep = np.concatenate([scan] * 8)
    path, checkpoint = write(tmp_path / "scan.npy", deep), bench / "small.safetensors"
    arguments = ["--input", path, "--output", tmp_path / "m.nii.gz", "--checkpoint", checkpoint]
    command = [sys.executable, "-m", "sennet_kaggle", "segment", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    journal = tmp_path / ".m.nii.gz.unfinished" / "finished.txt"
    while process.poll() is None and not (journal.is_file() and journal.read_bytes().count(b" ") > 4):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (tmp_path / "m.nii.gz").exists()
    finished = journal.read_bytes().count(b" ")
    assert 4 < finished < len(deep)
    again = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert f"{finished}/40" in again.stderr  # the bar begins there
    segmented(bench, path, tmp_path / "whole.nii.gz")
    assert (tmp_path / "m.nii.gz").read_bytes() == (tmp_path / "whole.nii.gz").read_bytes()


def test_the_command_closes_with_what_ran_and_how_much_it_found(bench, scan, tmp_path, capsys):
    path = write(tmp_path / "s.tif", scan)
    segmented(bench, path, tmp_path / "m.tif", "--voxel-size-um", 50)
    lines = capsys.readouterr().out.splitlines()[3:]  # the first three say what is to be done
    beginnings = ["package: ", "model: small", "device: cpu (", "versions: ", "settings: views flips, axes z", "time: "]
    assert [line.startswith(begin) for line, begin in zip(lines, beginnings, strict=False)] == 6 * [True]
    share = read(open_mask(tmp_path / "m.tif")).mean()
    found = f"{tmp_path / 'm.tif'}: {len(scan)} slices, vessel {share:.3%} of all voxels"
    assert lines[6:] == [f"{found}; {tmp_path / 'm.tif'}.json says what made them"]


@pytest.mark.slow
def test_real_slices_give_the_masks_of_predict(data_dir, tmp_path, capsys):
    """kidney_2's two slices with the shipped checkpoint, through a folder, a stack and a Zarr."""
    kidney = open_volume(data_dir / "train" / "kidney_2")
    output = tmp_path / "s.csv"
    assert main(["predict", "--data-dir", str(data_dir), "--volume", "kidney_2", "--output", str(output)]) == 0
    expected = np.stack([rle_decode(rle, *kidney.slice_size(0)) for _, rle in read_submission(output)])
    assert expected.any()
    inputs = [data_dir / "train" / "kidney_2" / "images"]
    inputs += [write(tmp_path / name, np.stack([*kidney]), (50.0, 50.0, 50.0)) for name in ("s.tif", "s.ome.zarr")]
    for each in inputs:
        mask_path = tmp_path / f"mask{each.suffix}"
        assert main(["segment", "--input", str(each), "--output", str(mask_path), "--voxel-size-um", "50"]) == 0
        np.testing.assert_array_equal(read(open_mask(mask_path)), expected)
