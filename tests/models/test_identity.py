"""Which slices are the same image, and what may be claimed of a checkpoint."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from conftest import write_tiff
from safetensors.torch import load_file

from sennet_kaggle.config import Preprocessing, Training
from sennet_kaggle.data.tiff import read_grey
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.errors import InputError
from sennet_kaggle.files import shipped_checkpoints
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, read_card, save_checkpoint
from sennet_kaggle.models.identity import (
    check_split,
    digest_slices,
    image_digest,
    record_images,
    same_images,
    what_was_seen,
)
from sennet_kaggle.training.train import fit

GREY = np.random.default_rng(1).integers(0, 2**16, (40, 31), dtype=np.uint16)


def card(*learned, digests=None, held_out=()):
    return Card(
        "unet", {}, Preprocessing(), 0.5, tuple(learned), {}, {"held_out": list(held_out)}, image_digests=digests or {}
    )


def places(kidney_dir):
    volume = open_volume(kidney_dir)
    return {slice_id: (volume, z) for z, slice_id in enumerate(volume.slice_ids)}


@pytest.fixture
def kidney(tmp_path, write_kidney):
    write_kidney(tmp_path / "train" / "kidney_3_sparse")
    return tmp_path / "train" / "kidney_3_sparse"


def copy_of(kidney, name):
    shutil.copytree(kidney, kidney.with_name(name))
    return kidney.with_name(name)


@pytest.mark.parametrize(
    "arguments",
    [{"compression": "zlib"}, {"byteorder": ">"}, {"rowsperstrip": 7}, {"tile": (16, 16)}, {"description": "copied"}],
    ids=str,
)
def test_a_copy_is_the_same_image_however_it_is_stored(tmp_path, arguments):
    tifffile.imwrite(tmp_path / "a.tif", GREY, **arguments)
    assert image_digest(read_grey(tmp_path / "a.tif")) == image_digest(GREY)


def test_another_pixel_or_shape_is_another_image():
    changed = GREY.copy()
    changed[3, 4] ^= 1
    grey_8 = (GREY >> 8).astype(np.uint8)
    digests = [image_digest(each) for each in (GREY, changed, GREY.reshape(31, 40), GREY[::-1], grey_8)]
    assert len({*digests}) == 5
    assert image_digest(grey_8) == image_digest(grey_8.astype(np.uint16))


def test_blank_slices_are_the_same_as_none(kidney, write_kidney):
    """Every scan has black slices at its ends; they make no two kidneys one."""
    other = copy_of(kidney, "other")
    for z in range(3):
        write_tiff(other / "images" / f"{z:04d}.tif", np.full((40, 31), 500, np.uint16))
        write_tiff(kidney / "images" / f"{z:04d}.tif", np.full((40, 31), 500, np.uint16))
    digests = [digest_slices(places(each)) for each in (kidney, other)]
    assert {*digests[0].values()} == {"blank"} and same_images(*digests) == {}
    check_split(places(kidney), places(other))


def test_a_split_must_not_share_images(kidney):
    dense = copy_of(kidney, "kidney_3_dense")
    shutil.rmtree(dense / "images")  # as in the competition's data
    with pytest.raises(InputError, match=r"kidney_3_dense_0000 is the same image as kidney_3_sparse_0000 \(3 of 3"):
        check_split(places(kidney), places(dense))
    check_split(places(kidney), {})


def test_a_file_that_changes_is_read_anew(kidney):
    before = digest_slices(places(kidney))
    write_tiff(kidney / "images" / "0001.tif", GREY)
    after = digest_slices(places(kidney))
    assert [id_ for id_ in before if before[id_] != after[id_]] == ["kidney_3_sparse_0001"]


def test_training_records_its_images_and_refuses_a_copy(kidney, tmp_path):
    settings = {"model_arguments": {"widths": [4], "bottleneck": 4}, "epochs": 1, "workers": 0, "held_out_fraction": 0}
    settings |= {"preprocessing": Preprocessing(roi_size=32), "train_volumes": ("kidney_3_sparse",)}
    training = Training(**settings, held_out_slices=("kidney_3_sparse_0002",))
    recorded = read_card(fit(training, tmp_path, tmp_path / "run")).image_digests
    assert recorded == digest_slices(places(kidney))

    copy_of(kidney, "b")
    training = Training(**settings, held_out_volumes=("b",))
    with pytest.raises(InputError, match="held-out slices must not be learned from as well, but b_0000 is the same"):
        fit(training, tmp_path, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_was_seen_goes_by_content(kidney, tmp_path):
    digests = digest_slices(places(kidney))
    renamed = copy_of(kidney, "renamed")
    learned_two = card(
        "kidney_3_sparse_0000", "kidney_3_sparse_0001", digests=digests, held_out=["kidney_3_sparse_0002"]
    )
    seen = what_was_seen([learned_two], places(renamed))
    assert seen.learned == {f"renamed_000{z}": f"kidney_3_sparse_000{z}" for z in (0, 1)}
    assert seen.chosen == {"renamed_0002": "kidney_3_sparse_0002"} and seen.by_content
    assert "2 of 3 slices were learned from, and epoch and threshold were chosen on 1" in seen.claim()

    for z in range(3):  # the name stays, the image is another one
        write_tiff(renamed / "images" / f"{z:04d}.tif", GREY + np.uint16(z))
    renamed.rename(kidney.with_name("again"))
    other = {id_.replace("again", "kidney_3_sparse"): at for id_, at in places(kidney.with_name("again")).items()}
    seen = what_was_seen([learned_two], other)
    assert seen.claim() == "which no model has seen (images compared by content)"


def test_without_digests_names_or_the_same_folder_tell(kidney, tmp_path):
    dense, renamed = copy_of(kidney, "kidney_3_dense"), copy_of(kidney, "renamed")
    old = card("kidney_3_sparse_0000", "kidney_3_sparse_0001", "kidney_3_sparse_0002")
    assert [*what_was_seen([old], places(dense)).learned] == [f"kidney_3_dense_000{z}" for z in range(3)]
    by_name = what_was_seen([old], places(renamed))
    assert by_name.claim() == "which no model has seen (by name only: their images were not compared)"
    assert len(what_was_seen([old], places(renamed), tmp_path).learned) == 3


def test_held_out_slices_and_foreign_weights_are_not_claimed(kidney):
    digests = digest_slices(places(kidney))
    held_out = card("x_0000", digests={**digests, "x_0000": "9x9-0"}, held_out=[*digests])
    assert what_was_seen([held_out], places(kidney)).claim() == (
        "which no model has learned from (images compared by content), but epoch and threshold were chosen on it"
    )
    unknown = what_was_seen([card()], places(kidney)).claim()
    assert unknown == "which no model is known to have seen (not every checkpoint says what it learned from)"


def test_slices_of_another_size_are_not_read(kidney, monkeypatch):
    from sennet_kaggle.models import identity

    monkeypatch.setattr(identity, "read_grey", None)
    assert what_was_seen([card("x_0000", digests={"x_0000": "1303x912-0"})], places(kidney)).by_content


def test_recording_images_changes_nothing_else(kidney, tmp_path):
    """Every tensor, in whatever type, and all the rest of the card."""
    path = tmp_path / "c.safetensors"
    arguments = {"in_channels": 1, "widths": [4], "bottleneck": 4}
    old = Card("unet", arguments, Preprocessing(mean=(0.5,), std=(0.1,)), 0.5, ("kidney_3_sparse_0001",), {"epoch": 3})
    save_checkpoint(path, create_model("unet", **arguments), old, half=True)
    tensors = load_file(path)
    record_images(path, tmp_path)
    recorded = read_card(path)
    assert recorded.image_digests == {"kidney_3_sparse_0001": digest_slices(places(kidney))["kidney_3_sparse_0001"]}
    assert replace(recorded, image_digests={}) == old
    after = load_file(path)
    assert all(after[name].dtype == each.dtype and torch.equal(after[name], each) for name, each in tensors.items())
    shutil.rmtree(kidney)
    record_images(path, tmp_path)  # it has them
    save_checkpoint(path, create_model("unet", **arguments), old)
    with pytest.raises(InputError, match="has no image of kidney_3_sparse_0001, which .*c.safetensors learned from"):
        record_images(path, tmp_path)


def test_what_is_shipped_knows_its_images_by_content(data_dir, tmp_path):
    """The competition's slices under any name; another kidney's are not among them."""
    cards = [read_card(path) for path in shipped_checkpoints()]
    shutil.copytree(data_dir / "train" / "kidney_1_dense", tmp_path / "renamed")
    assert len(what_was_seen(cards, places(tmp_path / "renamed")).learned) == 11
    seen = what_was_seen(cards, places(data_dir / "train" / "kidney_2"))
    assert seen.claim() == "which no model has seen (images compared by content)"
