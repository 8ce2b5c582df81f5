"""The scale of a kidney, from its voxel size and that of the slices that checkpoints learned from."""

import pytest

from sennet_kaggle.config import Inference, Preprocessing
from sennet_kaggle.errors import InputError
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, save_checkpoint
from sennet_kaggle.models.voxel_size import VOXEL_SIZES_UM, scaled_to_training, settle_scale

UNET = {"widths": [4, 8], "bottleneck": 8}
AUTO = Inference(scale="auto")


@pytest.fixture
def checkpoint(tmp_path):
    """Of kidney_1_dense, 50 um."""
    return saved(tmp_path / "c.safetensors", ("kidney_1_dense_0000",))


def saved(path, trained_on):
    save_checkpoint(path, create_model("unet", **UNET), Card("unet", UNET, Preprocessing(), 0.5, trained_on))
    return path


def test_the_competitions_kidneys_are_known_by_name(checkpoint, caplog):
    caplog.set_level("INFO", "sennet_kaggle")
    settled = settle_scale(AUTO, VOXEL_SIZES_UM, [checkpoint])
    assert settled.scales == {"kidney_1_voi": pytest.approx(0.104), "kidney_6": pytest.approx(1.2616)}
    assert (settled.scale_of("kidney_2"), settled.scale_of("kidney_5"), settled.scale_of("kidney_3_dense")) == (1, 1, 1)
    assert "kidney_6: voxels of 63.08 µm, those learned from have 50 µm: scale 1.262" in caplog.text
    assert "kidney_5" not in caplog.text and "kidney_2" not in caplog.text  # nothing changes for them


def test_an_unknown_kidney_is_seen_as_it_is(checkpoint, caplog):
    caplog.set_level("INFO", "sennet_kaggle")
    assert settle_scale(AUTO, ["phantom_1"], [checkpoint]).scale_of("phantom_1") == 1
    assert "phantom_1: its voxel size is not known" in caplog.text


def test_a_kidneys_own_scale_goes_before(checkpoint):
    inference = Inference(scale="auto", scales={"kidney_6": 1.1, "mine": 2.0})
    settled = settle_scale(inference, ["kidney_6", "mine", "kidney_1_voi"], [checkpoint])
    assert settled.scales == {"kidney_6": 1.1, "mine": 2.0, "kidney_1_voi": pytest.approx(0.104)}


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_number_stays(checkpoint, scale):
    assert settle_scale(Inference(scale=scale), ["kidney_6"], [checkpoint]) == Inference(scale=scale)


@pytest.mark.parametrize(("size", "expected"), [(50.28, 1), (63.08, 63.08 / 50), (47.6, 1), (25, 0.5)])
def test_a_known_size_of_a_scan(checkpoint, size, expected):
    """Within 5 percent nothing is resized; a size that is given without auto is taken at its word."""
    assert scaled_to_training(AUTO, size, [checkpoint]).scale == pytest.approx(expected)
    assert scaled_to_training(Inference(), size, [checkpoint]).scale == pytest.approx(size / 50)


@pytest.mark.parametrize("learned", [(), ("kidney_1_dense_0000", "kidney_1_voi_0000")])
def test_checkpoints_of_no_one_voxel_size(tmp_path, learned):
    with pytest.raises(InputError, match="a scale from voxel sizes needs"):
        settle_scale(AUTO, ["kidney_6"], [saved(tmp_path / "c.safetensors", learned)])


def test_what_nobody_has_settled_is_refused():
    with pytest.raises(InputError, match="scale auto is for predict, segment and the notebook"):
        AUTO.scale_of("kidney_6")
    AUTO.check()
    with pytest.raises(InputError, match="scale must be a number in 0.1..10, got 'big'"):
        Inference(scale="big").check()
