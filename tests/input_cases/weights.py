"""Weights and checkpoints."""

import json

import torch
from conftest import SMALL_SAM
from safetensors.torch import load_file, save_file

from sennet_kaggle.config import Preprocessing
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, read_card, save_checkpoint

from . import PREDICT, TRAIN, UNET, Case

_SEGFORMER = {"hidden_sizes": [8, 16, 20, 16], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}
_TIMM = {"encoder": "test_convnext", "decoder_widths": [4, 8, 8, 8, 8], "stem_width": 4}
_ARGUMENTS = {"unet": UNET, "segformer": _SEGFORMER, "timm_unet": _TIMM, "sam": SMALL_SAM}


def _pack(model, file="w.safetensors", more="", **arguments):
    given = json.dumps(_ARGUMENTS[model] | arguments)
    return f"pack --model {model} --weights-path {file} --output packed.safetensors --model-arguments '{given}' {more}"


def _model(name, **arguments):
    torch.manual_seed(0)
    return create_model(name, **_ARGUMENTS[name] | arguments)


def _weights(name, change=lambda tensors: tensors, **arguments):
    """Writes w.safetensors: a small model's own tensors, changed."""
    return lambda folder: save_file(change(_model(name, **arguments).state_dict()), folder / "w.safetensors")


def _only(prefix, cut=""):
    def change(tensors):
        return {name.removeprefix(cut): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    return change


def _with(**values):
    return lambda tensors: tensors | values


def _other_labels(tensors):
    return tensors | {"network.decode_head.classifier.weight": torch.zeros(150, 16, 1, 1)}


def _names(*names):
    return lambda folder: save_file({name: torch.zeros(1) for name in names}, folder / "w.safetensors")


def _saved(content):
    """Writes w.pth."""
    return lambda folder: torch.save(content(), folder / "w.pth")


def _bytes(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def _checkpoint(**card):
    fields = {"model": "unet", "model_arguments": UNET, "preprocessing": Preprocessing(roi_size=32), "threshold": 0.3}
    return lambda folder: save_checkpoint(folder / "w.safetensors", _model("unet"), Card(**fields | card))


def _not_finite(folder):
    model = _model("unet")
    model.head.bias.data.fill_(float("inf"))
    save_checkpoint(folder / "small.safetensors", model, Card("unet", UNET, Preprocessing(roi_size=32), 0.5))


def _link(folder):
    (folder / "small.safetensors").unlink()
    (folder / "small.safetensors").symlink_to("nowhere.safetensors")


def _packed(model, **expected):
    """The packed checkpoint has the card that is expected, and exactly the tensors that were given."""

    def check(folder):
        card = read_card(folder / "packed.safetensors")
        assert {name: getattr(card, name) for name in expected} == expected
        tensors, given = load_file(folder / "packed.safetensors"), _model(model).state_dict()
        assert tensors.keys() == given.keys() and all(torch.equal(tensors[name], given[name]) for name in given)

    return check


_TRAINED = Preprocessing(roi_size=32, intensity="eight_bit")
_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n"

TITLE = "Weights and checkpoints"
CASES = [
    Case("a SegFormer's encoder, packed", _pack("segformer"),
         ("must be of a whole model, found none for 15 of its tensors (decode_head.", "train --weights-path"),
         _weights("segformer", _only("network.segformer."))),
    Case("a SegFormer of 150 labels, packed", _pack("segformer"),
         "none for 1 of its tensors (decode_head.classifier.weight), which would be random",
         _weights("segformer", _other_labels)),
    Case("a timm encoder, packed", _pack("timm_unet"), "found none for 44 of its tensors (stem.0.0.weight, ",
         _weights("timm_unet", _only("encoder.", "encoder."))),
    Case("a U-Net without its head, packed", _pack("unet"), "head.weight must be (1, 4, 1, 1), found nothing",
         _weights("unet", lambda tensors: {name: each for name, each in tensors.items() if "head" not in name})),
    Case("Segment Anything without its mask decoder, packed", _pack("sam"), "found nothing; choose their variant",
         _weights("sam", lambda tensors: {name: each for name, each in tensors.items() if "mask_decoder" not in name})),
    Case("weights of three channels for a model of one", _pack("segformer", more="--mean 0.5 --std 0.2", in_channels=1),
         "found none for 1 of its tensors (segformer.encoder.patch_embeddings.0.proj.weight)", _weights("segformer")),
    Case("a preprocessing of one channel for a model of three", _pack("segformer", more="--mean 0.5 --std 0.2"),
         "in_channels must be the channels of its input, found 3, but 1 by offsets (0, 0, 0) and mean (0.5,)",
         _weights("segformer")),
    Case("five offsets for a model of three channels", _pack("unet", more="--offsets -2 -1 0 1 2 --mean 0.5 --std 0.2"),
         "found 3, but 5 by offsets (-2, -1, 0, 1, 2)", _weights("unet")),
    Case("outputs for every channel of a model with one", _pack("unet", more="--outputs all"),
         "outputs 'all' needs a model with 3 outputs, one per input channel, found 1", _weights("unet")),
    Case("an input that is too small for the model", _pack("segformer", more="--roi-size 16"),
         "model 'segformer' cannot take 1 image(s) of 3 x 16 x 16", _weights("segformer")),
    Case("two outputs for one slice, packed", _pack("unet", out_channels=2), "outputs 'centre' needs 1 output(s)",
         _weights("unet", out_channels=2)),
    Case("a threshold of 1, packed", _pack("unet", more="--threshold 1"), "threshold must lie in 0..1",
         _weights("unet")),
    Case("percentiles that are crossed, packed", _pack("unet", more="--low-percentile 99.9"), "percentile",
         _weights("unet")),
    Case("a std of 0, packed", _pack("unet", more="--mean 0 0 0 --std 1 1 0"), "std", _weights("unet")),
    Case("windows for Segment Anything", _pack("sam", more="--region windows"),
         "leave region whole, offsets 0", _weights("sam")),
    Case("neighbours for Segment Anything", _pack("sam", more="--offsets -1 0 1"),
         "leave region whole, offsets 0", _weights("sam")),
    Case("an input size and normalisation for Segment Anything",
         _pack("sam", more="--roi-size 256 --mean 0.5 --std 0.2"),
         "found a setting of roi_size and mean and std, which it cannot follow", _weights("sam")),
    Case("an output that is a folder, packed", _pack("unet").replace("packed.safetensors", "data"),
         "cannot write data: it is a folder", _weights("unet")),
    Case("an output in no folder, packed", _pack("unet").replace("packed.", "no/packed."),
         "cannot write no/packed.safetensors: there is no folder no", _weights("unet")),
    Case("arguments of the wrong type, packed", _pack("sam", depth="2"), "sam: depth must be int | None, found '2'",
         _weights("sam")),
    Case("a threshold in percent, packed", _pack("sam", pred_iou_thresh=88),
         "pred_iou_thresh must be at most 1, got 88", _weights("sam")),
    Case("weights among the model's arguments", _pack("unet", weights_path="w.pth"),
         "leave weights_path out of the model's arguments", _weights("unet")),
    Case("weights that are not finite, packed", _pack("unet"), "must be finite numbers, found others in head.bias",
         _weights("unet", _with(**{"head.bias": torch.full((1,), float("nan"))}))),
    Case("weights in 8-bit integers", _pack("unet"), "must hold floating-point numbers, found torch.int8",
         _weights("unet", lambda tensors: {name: each.to(torch.int8) for name, each in tensors.items()})),
    Case("weights that are sparse", _pack("unet", "w.pth"), "must hold dense tensors, found a sparse one, head.weight",
         _saved(lambda: {"head.weight": torch.zeros(1, 4, 1, 1).to_sparse()})),
    Case("weights without values", _pack("unet", "w.pth"), "found one without values, head.weight",
         _saved(lambda: {"head.weight": torch.zeros(1, 4, 1, 1, device="meta")})),
    Case("weights of another variant of Segment Anything",
         "pack --model sam --weights-path w.safetensors --output packed.safetensors",
         "do not fit SAM vit_b: the file holds Segment Anything vit_l, ",
         lambda folder: save_file({"image_encoder.patch_embed.proj.weight": torch.zeros(1024, 3, 16, 16)},
                                  folder / "w.safetensors")),
    Case("MobileSAM's weights", _pack("sam"), "the file holds MobileSAM's architecture (a TinyViT image encoder)",
         _names("image_encoder.patch_embed.seq.0.c.weight")),
    Case("SAM 2's weights", _pack("sam", "w.pth"), "the file holds SAM 2, and ",
         _saved(lambda: {"model": {"image_encoder.trunk.pos_embed": torch.zeros(1)}})),
    Case("Segment Anything in HuggingFace's names", _pack("sam"), "Segment Anything in the names of HuggingFace",
         _names("vision_encoder.layers.0.attn.qkv.bias")),
    Case("another model's checkpoint of ours as weights", _pack("segformer", "small.safetensors"),
         "must be of the model 'segformer', found a checkpoint of this package of the model 'unet'"),
    Case("a model and its average in one file", _pack("unet", "w.pth"), "found them under 'model' and 'model_ema'",
         _saved(lambda: {"model": _model("unet").state_dict(), "model_ema": _model("unet").state_dict()})),
    Case("a git-lfs pointer as weights", _pack("unet"),
         "found a git-lfs pointer: fetch the file itself with git lfs pull",
         _bytes("w.safetensors", _LFS)),
    Case("an HTML page as weights", _pack("unet", "w.pth"), "found an HTML page: download the file itself",
         _bytes("w.pth", b"<!DOCTYPE html><html></html>")),
    Case("an empty file as weights", _pack("unet", "w.pth"), "found an empty file: copy it again",
         _bytes("w.pth", b"")),
    Case("an ONNX model as weights", _pack("unet", "w.onnx"), "found an ONNX model: give the PyTorch weights",
         _bytes("w.onnx", b"\x08\x07\x12\x07pytorch\x1a\x051.9.0")),
    Case("weights to start training from that are a git-lfs pointer",
         f"{TRAIN} --model segformer --weights-path w.safetensors",
         "found a git-lfs pointer: fetch the file itself", _bytes("w.safetensors", _LFS)),
    Case("a git-lfs pointer as checkpoint", PREDICT, "(a git-lfs pointer): fetch the file itself with git lfs pull",
         _bytes("small.safetensors", _LFS)),
    Case("an HTML page as checkpoint", PREDICT, "(an HTML page): download the file itself",
         _bytes("small.safetensors", b"\n<html>")),
    Case("a checkpoint that is a folder", PREDICT.replace("small.safetensors", "data"),
         "data is a folder: name the file"),
    Case("a checkpoint that is a broken link", PREDICT, "is a link to nowhere.safetensors, which is not there", _link),
    Case("a checkpoint that is not finite", PREDICT,
         "must hold finite numbers, found others in head.bias", _not_finite),
    Case("weights under module._orig_mod., packed", _pack("unet"), (),
         _weights("unet", lambda tensors: {f"module._orig_mod.{name}": each for name, each in tensors.items()}),
         refused=False, check=_packed("unet", preprocessing=Preprocessing(), threshold=0.5)),
    Case("weights in a training program's container, packed", _pack("segformer", "w.pth"), (),
         _saved(lambda: {"state_dict": _model("segformer").state_dict(), "epoch": 3}),
         refused=False, check=_packed("segformer")),
    Case("a checkpoint of ours, packed again",
         "pack --model unet --weights-path w.safetensors --output packed.safetensors --threshold 0.7", (),
         _checkpoint(preprocessing=_TRAINED, trained_on=("kidney_1_0000",), scores={"held_out_dice_pooled": 0.5}),
         refused=False,
         check=_packed("unet", model_arguments=UNET, preprocessing=_TRAINED, threshold=0.7,
                       trained_on=("kidney_1_0000",), scores={})),
    Case("a checkpoint of ours with another preprocessing",
         "pack --model unet --weights-path w.safetensors --output packed.safetensors --roi-size 64",
         "was trained with another preprocessing", _checkpoint(), refused=False,
         check=_packed("unet", preprocessing=Preprocessing(roi_size=64), threshold=0.3)),
]  # fmt: skip
