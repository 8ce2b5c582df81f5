"""Starting from a checkpoint of ours, and settings that contradict the model."""

import dataclasses

import pytest
import torch

from sennet_kaggle.config import Preprocessing, Training
from sennet_kaggle.errors import InputError, show_messages
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, read_card, replace_card, save_checkpoint
from sennet_kaggle.models.identity import what_was_seen
from sennet_kaggle.training.train import fit
from sennet_kaggle.training.training_model import check_model, check_shared, create_initial_model

UNET = {"widths": [4], "bottleneck": 8}
TINY = Training(
    model_arguments=UNET,
    preprocessing=Preprocessing(roi_size=32),
    train_volumes=("k",),
    epochs=1,
    batch_size=2,
    workers=0,
)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(3)
    model = create_model("unet", in_channels=3, **UNET)
    card = Card("unet", {"in_channels": 3, **UNET}, TINY.preprocessing, 0.5, trained_on=("j_0000", "k_0001"))
    save_checkpoint(tmp_path / "start.safetensors", model, card)
    return tmp_path / "start.safetensors", model


def test_training_starts_from_a_checkpoint(checkpoint, tmp_path, write_kidney):
    """Its weights; and what it has learned from has been learned from."""
    path, model = checkpoint
    training = dataclasses.replace(TINY, init_from=str(path), held_out_slices=("k_0001",))
    initial = create_initial_model(training)
    assert all(parameter.requires_grad for parameter in initial.parameters())
    torch.testing.assert_close(initial.state_dict(), model.state_dict(), rtol=0, atol=0)
    write_kidney(tmp_path / "data" / "train" / "k", depth=3)
    said = []
    show_messages(said.append)
    card = read_card(fit(training, tmp_path / "data", tmp_path / "out"))
    assert card.trained_on == ("j_0000", "k_0001", "k_0000", "k_0002")
    assert card.training["init_from"] == str(path) and card.training["slices"] == 2
    assert len(said) == 1 and "k_0001 is held out, but" in said[0] and "has learned from it" in said[0]


def test_our_own_checkpoint_as_weights_has_learned_too(checkpoint, tmp_path, write_kidney):
    path, _ = checkpoint
    write_kidney(tmp_path / "data" / "train" / "k", depth=3)
    said = []
    show_messages(said.append)
    training = dataclasses.replace(TINY, weights_path=str(path), held_out_slices=("k_0001",))
    card = read_card(fit(training, tmp_path / "data", tmp_path / "out"))
    assert card.trained_on == ("j_0000", "k_0001", "k_0000", "k_0002") and card.says_what_it_learned
    assert len(said) == 1 and "k_0001 is held out, but" in said[0]


def test_what_is_not_known_of_a_source_stays_unknown(checkpoint, tmp_path, write_kidney):
    path, _ = checkpoint
    replace_card(path, dataclasses.replace(read_card(path), trained_on=()))
    write_kidney(tmp_path / "data" / "train" / "k", depth=3)
    for step in ("first", "second"):
        path = fit(dataclasses.replace(TINY, init_from=str(path)), tmp_path / "data", tmp_path / step)
        seen = what_was_seen([read_card(path)], {})
        assert seen.unknown and "not every checkpoint says" in seen.claim()


def test_defaults_need_not_be_written_out(checkpoint):
    """Arguments as the builder takes them: a list for a tuple, a default that is named."""
    path, _ = checkpoint
    arguments = {"widths": (4,), "bottleneck": 8, "unshuffle": 1, "in_channels": 3}
    create_initial_model(dataclasses.replace(TINY, model_arguments=arguments, init_from=str(path)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_arguments": {"widths": [8], "bottleneck": 8}},
            r"made with widths \[4\], this run has \[8\]: give the",
        ),
        ({"model_arguments": {**UNET, "prior": 0.1}}, "made with prior 0.5, this run has 0.1"),
        (
            {"preprocessing": Preprocessing(roi_size=32, mean=(0.5,), std=(0.2,))},
            "made with in_channels 3, this run has 1",
        ),
        ({"model": "segformer", "model_arguments": {}}, "is a 'unet', but this run trains a 'segformer'"),
    ],
)
def test_a_checkpoint_of_another_model(checkpoint, changes, message):
    with pytest.raises(InputError, match=message):
        create_initial_model(dataclasses.replace(TINY, init_from=str(checkpoint[0]), **changes))


TIMM = {"encoder": "tf_efficientnet_lite0", "decoder_widths": [8, 8, 8, 8, 8], "stem_width": 8}


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("unet", UNET),
        ("unet", {**UNET, "unshuffle": 2}),
        ("segformer", {"hidden_sizes": [8, 16, 40, 64], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}),
        ("timm_unet", TIMM),
    ],
)
def test_every_model_has_an_output_per_channel(model, arguments):
    preprocessing = Preprocessing(roi_size=64, offsets=(-1, 0, 1), outputs="all")
    training = dataclasses.replace(TINY, model=model, model_arguments=arguments, preprocessing=preprocessing)
    random_state = torch.get_rng_state()
    check_model(training)
    assert torch.equal(torch.get_rng_state(), random_state)  # a check, not a part of the run
    assert create_initial_model(training)(torch.zeros(2, 3, 64, 64)).shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("unet", {"in_channels": 1}, "in_channels 1, but the preprocessing makes it 3"),
        ("unet", {"out_channels": 3}, r"outputs 'centre' needs 1 output\(s\) of 32 x 32 per image"),
        ("unet", {"widths": [10**5] * 3}, "parameters, too many to train in this machine's"),
        ("unet", {"width": [4]}, "has no argument 'width'"),
        ("resnet", {}, "unknown model 'resnet'"),
        ("timm_unet", {"encoder_arguments": {"img_size": "a"}}, "encoder"),
        ("segformer", {"hidden_sizes": [8, 16]}, "hidden_sizes must be four"),
    ],
)
def test_a_model_that_does_not_fit_its_settings(model, arguments, message):
    with pytest.raises(InputError, match=message):
        check_model(dataclasses.replace(TINY, model=model, model_arguments=arguments))


def test_a_norm_that_several_processes_do_not_share():
    from timm.layers import BatchNormAct2d, EvoNorm2dB0

    check_shared(torch.nn.Sequential(BatchNormAct2d(4)))
    with pytest.raises(
        InputError, match="EvoNorm2dB0 takes statistics over the slices of one process alone: train with"
    ):
        check_shared(torch.nn.Sequential(EvoNorm2dB0(4)))


@pytest.mark.parametrize(
    ("model", "arguments", "part"),
    [
        ("sam_segmenter", {"encoder": "frozen", "tile": 2}, "image_encoder"),
        ("sam_segmenter", {"encoder": "adapted", "tile": 2}, "image_encoder.*bn"),
        ("timm_unet", {"encoder": "test_efficientnet", "frozen_norm": True}, "encoder.*bn"),
    ],
)
def test_what_stays_as_it_is_needs_published_weights(model, arguments, part, tmp_path):
    """Fresh, it would never learn, and the training would look like any other."""
    settings = dataclasses.replace(TINY, model=model, model_arguments=arguments)
    with pytest.raises(
        InputError, match=f"does not train its {part}.*, and no .* weights are given: give --weights-path"
    ):
        check_model(settings)
    check_model(dataclasses.replace(settings, weights_path=str(tmp_path / "published.safetensors")))
