import dataclasses
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from sennet_kaggle.config import Preprocessing
from sennet_kaggle.errors import InputError
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, load_checkpoint, read_card, save_checkpoint

ARGUMENTS = {"in_channels": 2, "widths": [4, 8], "bottleneck": 16}
CARD = Card(
    model="unet",
    model_arguments=ARGUMENTS,
    preprocessing=Preprocessing(
        region="windows", roi_size=64, offsets=(-1, 0), outputs="all", mean=(0.1, 0.2), std=(0.3, 0.4)
    ),
    threshold=0.35,
    trained_on=("kidney_1_dense_0049",),
    scores={"held_out_dice_pooled": 0.5},
    training={"epochs": 3, "seed": 1},
)


@pytest.fixture
def checkpoint_path(tmp_path):
    save_checkpoint(tmp_path / "c.safetensors", create_model("unet", **ARGUMENTS), CARD)
    return tmp_path / "c.safetensors"


def test_a_file_alone_gives_back_model_and_card(tmp_path):
    torch.manual_seed(0)
    model = create_model("unet", **ARGUMENTS).train()
    model(torch.randn(4, 2, 16, 16))  # BatchNorm's statistics move
    save_checkpoint(tmp_path / "c.safetensors", model, CARD)
    loaded, card = load_checkpoint(tmp_path / "c.safetensors")
    assert card == CARD
    assert not loaded.training
    image = torch.randn(1, 2, 30, 41)
    torch.testing.assert_close(loaded(image), model.eval()(image), rtol=0, atol=0)


def test_a_missing_package_is_no_fault_of_the_file(tmp_path, monkeypatch):
    card = dataclasses.replace(CARD, model="timm_unet", model_arguments={"encoder": "test_convnext"})
    save_checkpoint(tmp_path / "c.safetensors", create_model("unet", **ARGUMENTS), card)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="timm"):
        load_checkpoint(tmp_path / "c.safetensors")


def test_half_halves_the_file_and_keeps_statistics(tmp_path):
    model = create_model("unet", **ARGUMENTS)
    model.encoders[0][1].running_var.fill_(1e6)  # beyond float16
    save_checkpoint(tmp_path / "full.safetensors", model, CARD)
    save_checkpoint(tmp_path / "half.safetensors", model, CARD, half=True)
    sizes = [sum(t.nbytes for t in load_file(tmp_path / f"{n}.safetensors").values()) for n in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded, _ = load_checkpoint(tmp_path / "half.safetensors")
    assert loaded.head.weight.dtype == torch.float32
    assert loaded.encoders[0][1].running_var[0] == 1e6
    torch.testing.assert_close(loaded.head.weight, model.head.weight, rtol=1e-3, atol=1e-6)


def test_same_model_same_bytes(tmp_path):
    model = create_model("unet", **ARGUMENTS)
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, model, CARD)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_truncated(checkpoint_path, keep):
    content = checkpoint_path.read_bytes()
    checkpoint_path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(InputError, match="c.safetensors is truncated or not a safetensors file") as caught:
        load_checkpoint(checkpoint_path)
    assert "\n" not in str(caught.value)


def test_missing_or_foreign(tmp_path):
    with pytest.raises(InputError, match="checkpoint .*nowhere is missing"):
        load_checkpoint(tmp_path / "nowhere")
    save_file({"a": torch.ones(1)}, tmp_path / "f.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="has no card: .* found safetensors metadata .'format'."):
        load_checkpoint(tmp_path / "f.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "resnet"}, "unknown model 'resnet'"),
        (
            {"model_arguments": {**ARGUMENTS, "widths": [4, 9]}},
            "does not fit the model 'unet' it names: .*size mismatch",
        ),
        ({"model_arguments": {**ARGUMENTS, "widths": [4, 8, 8]}}, "does not fit the model 'unet'"),
        ({"model_arguments": {**ARGUMENTS, "widths": [2**20, 2**20]}}, "size mismatch"),  # petabytes
        (
            {"model": "sam", "model_arguments": {"depth": "2"}},
            "model 'sam' it names: sam: depth must be int .* None, found '2'",
        ),
        ({"model": "segformer", "model_arguments": {"weights_path": "x.pth"}}, "names a further file of weights"),
    ],
)
def test_a_card_of_another_model(tmp_path, change, message):
    save_checkpoint(tmp_path / "c.safetensors", create_model("unet", **ARGUMENTS), dataclasses.replace(CARD, **change))
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": "0.5"}, "threshold must be float, found '0.5'"),
        ({"threshold": True}, "threshold must be float, found True"),
        ({"model": ["unet"]}, r"model must be str, found \['unet'\]"),
        ({"trained_on": (1,)}, r"trained_on must be tuple.*, found \(1,\)"),
        ({"scores": {"dice": "high"}}, "scores must be dict"),
        ({"preprocessing": Preprocessing(intensity="nine_bit")}, "intensity must be one of .*, got 'nine_bit'"),
        ({"preprocessing": Preprocessing(roi_size=0)}, "roi_size must be at least 1"),
        ({"preprocessing": Preprocessing(roi_size=64.5)}, "roi_size must be int, found 64.5"),
        ({"preprocessing": Preprocessing(low_percentile=99.9)}, "percentiles .* the low one below"),
        ({"preprocessing": Preprocessing(mean=(0.1,), std=(0.2, 0.2))}, "std must have 1 value"),
        ({"preprocessing": Preprocessing(mean=(float("nan"),), std=(1.0,))}, "finite numbers"),
        ({"preprocessing": Preprocessing(offsets=(-1, 1))}, "offsets must have a 0"),
        ({"preprocessing": Preprocessing(mean=(0.1,), std=(0.0,))}, "std above 0"),
    ],
)
def test_a_card_with_a_wrong_value(tmp_path, change, message):
    save_checkpoint(tmp_path / "c.safetensors", create_model("unet", **ARGUMENTS), dataclasses.replace(CARD, **change))
    with pytest.raises(InputError, match=f"has a card that this version cannot read: .*{message}"):
        read_card(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    "card",
    ["{", "[]", "{}", '{"preprocessing": []}', '{"preprocessing": {"size": 3}, "trained_on": []}', "[" * 100_000],
)
def test_a_damaged_card(tmp_path, card):
    save_file({"a": torch.ones(1)}, tmp_path / "c.safetensors", {"sennet_kaggle": card})
    with pytest.raises(InputError, match="has a card that this version cannot read"):
        read_card(tmp_path / "c.safetensors")
