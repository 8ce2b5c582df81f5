"""The image encoder of MobileSAM (Zhang 2023) and LiteMedSAM: timm's TinyViT-5M with Segment Anything's neck."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

# Modules of timm and segment_anything. To a type checker any attribute of an nn.Module may be a tensor as well.
Layer = Any

PATCH_STRIDES = (4, 1)
"""Strides of the patch embedding: two 3x3 convolutions of stride 2 in MobileSAM, two 1x1 of stride 1 in LiteMedSAM."""
_REDUCTION = 4  # of the stages: two downsamplings by 2, and a third that has stride 1 here
_OUT_CHANNELS, _FEATURES = 256, 320
_LAYER = re.compile(r"(?<![^.])image_encoder\.layers\.(\d)\.(.+)")
_PATCH = re.compile(r"(?<![^.])image_encoder\.patch_embed\.seq\.([02])\.")


class TinyViTEncoder(nn.Module):
    """Maps an image to Segment Anything's embedding of it.

    Args:
        image_size: side of the square that a whole `Sam` gives it, in pixels; other sizes are taken as well.
        patch_stride: one of `PATCH_STRIDES`.
    """

    body: Layer

    def __init__(self, image_size: int, patch_stride: int):
        super().__init__()
        import timm

        self.img_size = image_size  # segment_anything's name for it
        self.stride = _REDUCTION * patch_stride
        self.body = timm.create_model("tiny_vit_5m_224", pretrained=False, num_classes=0)
        del self.body.head
        self.body.stages[3].downsample.conv2.conv.stride = (1, 1)
        if patch_stride == 1:
            for layer in (self.body.patch_embed.conv1, self.body.patch_embed.conv2):
                layer.conv = nn.Conv2d(layer.conv.in_channels, layer.conv.out_channels, 1, bias=False)
        self.neck = _neck()
        self.register_load_state_dict_post_hook(_forget_attention_biases)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Maps (N, 3, h, w) float32, normalised, to (N, 256, h / stride, w / stride)."""
        return self.neck(self.body.forward_features(image))


def freeze_batch_norms(encoder: nn.Module) -> None:
    """Leaves BatchNorm as it was published: its statistics may be folded into the convolutions and would be lost."""
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().requires_grad_(False)


def to_timm(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Renames the tensors of a MobileSAM or LiteMedSAM from their authors' names to `TinyViTEncoder`'s.

    The downsampling at the end of their layer N begins timm's stage N + 1. Other files come back as they are.
    """
    if not any(_PATCH.search(name) for name in tensors):
        return dict(tensors)
    return {_name_in_timm(name): tensor for name, tensor in tensors.items() if not _is_left_out(name)}


def _forget_attention_biases(encoder: Layer, _: object) -> None:
    """Lets an encoder use attention biases that were loaded just now: in evaluation mode timm keeps the old ones."""
    for module in encoder.modules():
        if hasattr(module, "attention_bias_cache"):
            module.attention_bias_cache = {}


def _is_left_out(name: str) -> bool:
    """ImageNet's head, which MobileSAM's file still has, and indices that follow from the window's size."""
    return bool(re.search(r"image_encoder\.(norm_head|head)\.|\.attention_bias_idxs$", name))


def _name_in_timm(name: str) -> str:
    before = name.partition("image_encoder.")[0]
    if match := _LAYER.search(name):
        stage, rest = int(match[1]), match[2]
        if rest.startswith("downsample."):
            stage += 1
        name = f"{before}image_encoder.body.stages.{stage}.{rest}"
    elif match := _PATCH.search(name):
        conv = "conv1" if match[1] == "0" else "conv2"
        name = f"{before}image_encoder.body.patch_embed.{conv}.{name[match.end() :]}"
    return name.replace(".c.", ".conv.")


def _neck() -> nn.Sequential:
    """That of segment_anything's own image encoder."""
    from segment_anything.modeling.common import LayerNorm2d

    return nn.Sequential(
        nn.Conv2d(_FEATURES, _OUT_CHANNELS, 1, bias=False),
        LayerNorm2d(_OUT_CHANNELS),
        nn.Conv2d(_OUT_CHANNELS, _OUT_CHANNELS, 3, padding=1, bias=False),
        LayerNorm2d(_OUT_CHANNELS),
    )
