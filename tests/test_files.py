"""Files on full disks and in forbidden places; the disk is filled by the system's limit on a file's size."""

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_tiff
from input_cases import PREDICT, TRAIN, UNET
from safetensors.torch import save_file

from sennet_kaggle.__main__ import main
from sennet_kaggle.config import Preprocessing
from sennet_kaggle.errors import InputError, OutputError
from sennet_kaggle.files import (
    check_output,
    check_output_dir,
    format_size,
    make_dir,
    open_reserved,
    replacing,
    replacing_dir,
    write_whole,
)
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, save_checkpoint

ROOM = 20_000


@pytest.fixture
def little_room():
    """No file may have more than ROOM bytes: the write itself fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def folder(tmp_path, write_kidney, monkeypatch):
    """Two kidneys of slices that do not fit into ROOM together, and a checkpoint."""
    for kidney in ("test/kidney_5", "train/kidney_1"):
        write_kidney(tmp_path / "data" / kidney, depth=4, size=(90, 80))
    card = Card("unet", UNET, Preprocessing(roi_size=32), 0.5)
    save_checkpoint(tmp_path / "small.safetensors", create_model("unet", **UNET), card)
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (f"{PREDICT} --save-probability new", "the disk of new has no room for 0.029 MB"),
        (f"{PREDICT} --axes zyx --scratch-dir scratch", "has no room for 0.058 MB"),
        ("phantom new --shape 3 120 120", "0000.tif: the disk has no room (File too large)"),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(command, says, folder, little_room, capsys):
    before = contents(folder)
    assert main(command.split()) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and says in error
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("--roi-size 64 --model-arguments {'widths':[4],'bottleneck':4}", "out/cache has no room for 0.066 MB"),
        ("--roi-size 16 --model-arguments {'widths':[16],'bottleneck':32}", "cannot write out/checkpoint.safetensors"),
        ("--roi-size 16 --model-arguments {'widths':[4],'bottleneck':8}", "cannot write out/training-state.pt"),
    ],
)
def test_a_full_disk_in_training_is_one_line(settings, says, folder, little_room, capsys):
    """The cache; the checkpoint, which safetensors writes; the state, which torch writes."""
    command = f"{TRAIN} --epochs 1 --workers 0 {settings}".replace("'", '"')
    assert main(command.split()) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and says in error and "has no room" in error
    assert not [path for path in contents(folder) if path.endswith(".tmp")]


def test_room_for_the_probabilities_is_looked_for_before_the_work(folder, monkeypatch, capsys):
    monkeypatch.setattr(
        "sennet_kaggle.inference.probability.shutil.disk_usage", lambda _: type("Usage", (), {"free": 4 * 90 * 80 - 1})
    )
    monkeypatch.setattr("sennet_kaggle.inference.loading.load_predictors", lambda *_: pytest.fail("the work has begun"))
    assert main(f"{PREDICT} --save-probability kept".split()) == 2
    assert "save_probability needs 0.029 MB and kept has 0.029 MB free" in capsys.readouterr().err
    assert not (folder / "kept").exists()


def test_reserved_room_is_zeros(tmp_path):
    array = open_reserved(tmp_path / "a.npy", np.dtype(np.uint16), (3, 5))
    assert array.shape == (3, 5) and array.dtype == np.uint16 and not array.any()
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 30


def test_a_name_as_long_as_a_name_may_be(tmp_path):
    path = tmp_path / ("é" * 127)
    check_output(path)
    write_whole(path, b"x")
    assert path.read_bytes() == b"x"
    with pytest.raises(InputError, match="a name may have 255 bytes, .* has 256"):
        check_output(tmp_path / ("é" * 128))


def test_checking_an_output_leaves_the_file_that_is_there(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    check_output(path, inputs=[tmp_path / "missing", tmp_path])
    check_output_dir(tmp_path, ["a.csv", "b.csv"])
    check_output_dir(tmp_path / "not" / "there")
    assert contents(tmp_path) == {"a.csv"} and path.read_text() == "old"


def test_a_full_disk_is_found_before_the_work(tmp_path, monkeypatch):
    resource_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource_limit[1]))
    try:
        with pytest.raises(OutputError, match=r"out: the disk has no room \(File too large\)") as caught:
            check_output_dir(tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, resource_limit)
    assert caught.value.errno == errno.EFBIG and isinstance(caught.value, OSError)
    assert contents(tmp_path) == set()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_way_of_being_full_is_named(tmp_path, number):
    with pytest.raises(OutputError, match="a.csv: the disk has no room"), replacing(tmp_path / "a.csv"):
        raise OSError(number, os.strerror(number))


def test_an_input_that_cannot_be_read_is_not_taken_for_an_output(tmp_path):
    with pytest.raises(FileNotFoundError, match="slice.tif"), replacing(tmp_path / "a.csv"):
        open(tmp_path / "slice.tif", "rb")


def test_other_libraries_say_no_room_in_their_own_ways(tmp_path, little_room):
    tensors = {"a": torch.zeros(ROOM)}
    with pytest.raises(OutputError, match="a.safetensors: the disk has no room"):  # noqa: SIM117
        with replacing(tmp_path / "a.safetensors") as path:
            save_file(tensors, path)
    with pytest.raises(OutputError, match="a.pt: the disk has no room"):  # noqa: SIM117
        with replacing(tmp_path / "a.pt") as path, open(path, "wb") as file:
            torch.save(tensors, file)
    assert contents(tmp_path) == set()


def test_a_new_folder_is_whole_or_not_there(tmp_path):
    with pytest.raises(RuntimeError), replacing_dir(tmp_path / "a" / "b") as folder:
        write_tiff(folder / "images" / "0.tif", np.zeros((4, 4), np.uint16))
        raise RuntimeError
    assert contents(tmp_path) == set()
    (tmp_path / "a" / "mine").mkdir(parents=True)
    with pytest.raises(RuntimeError), replacing_dir(tmp_path / "a" / "b"):
        raise RuntimeError
    assert contents(tmp_path) == {"a", "a/mine"}
    with replacing_dir(tmp_path / "a" / "b") as folder:
        (folder / "x").write_text("x")
    assert contents(tmp_path) == {"a", "a/mine", "a/b", "a/b/x"}


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"cannot make the folder .*file \(File exists\): choose another"):
        make_dir(tmp_path / "file")


@pytest.mark.parametrize(("size", "text"), [(29_000, "0.029 MB"), (99_000_000, "99 MB"), (6_500_000_000, "6.5 GB")])
def test_sizes(size, text):
    assert format_size(size) == text
