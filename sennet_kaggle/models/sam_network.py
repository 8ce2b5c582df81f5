"""Segment Anything's network of its own classes, for each variant of the image encoder, and its published weights."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MethodType

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import InputError
from .file_kinds import describe_tensors, sam_patch_stride, sam_variant
from .tiny_vit_sam import PATCH_STRIDES, Layer, TinyViTEncoder, to_timm
from .weights import check_fit, load_weights_file, match_names

TINY = "vit_t"
"""MobileSAM's variant, whose image encoder is a TinyViT."""
# Width, blocks, heads and globally attending blocks of the image encoders.
_SIZES = {
    "vit_b": (768, 12, 12, (2, 5, 8, 11)),
    "vit_l": (1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": (1280, 32, 16, (7, 15, 23, 31)),
}
VARIANTS = (*_SIZES, TINY)
EMBED_DIM = 256
"""Channels of the embedding of an image."""
_PATCH_SIZE = 16
_LITE_IMAGE_SIZE = 256


def create_network(
    variant: str,
    image_size: int = 1024,
    embed_dim: int | None = None,
    depth: int | None = None,
    num_heads: int | None = None,
    global_attn_indexes: Sequence[int] | None = None,
    patch_stride: int | None = None,
) -> Layer:
    """Builds a `segment_anything.modeling.Sam` with fresh weights.

    Args:
        variant: one of `VARIANTS`.
        image_size: side of the square that it sees, in pixels; a multiple of 16.
        embed_dim: width of the image encoder, a multiple of `num_heads`, instead of the variant's; not of vit_t, as
            the next three.
        depth: blocks, instead of the variant's.
        num_heads: attention heads, instead of the variant's.
        global_attn_indexes: blocks that attend to the whole image (others: 14 x 14 patches), each below
            `depth`, instead of the variant's.
        patch_stride: of vit_t alone: 4 for MobileSAM's patch embedding, 1 for LiteMedSAM's; None takes
            LiteMedSAM's for its own image size, 256, and MobileSAM's for any other.

    Raises:
        InputError: an unknown variant, an image size that is no multiple of 16, or encoder sizes out of range.
    """
    if variant not in VARIANTS:
        raise InputError(f"unknown SAM variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    if image_size < _PATCH_SIZE or image_size % _PATCH_SIZE:
        raise InputError(f"image_size must be a multiple of {_PATCH_SIZE}, got {image_size}")
    overrides = (embed_dim, depth, num_heads, global_attn_indexes)
    if variant == TINY:
        if any(override is not None for override in overrides):
            raise InputError("sam: vit_t has one size: leave embed_dim, depth, num_heads and global_attn_indexes out")
        network = _create_tiny(image_size, patch_stride)
    else:
        if patch_stride is not None:
            raise InputError(f"sam: patch_stride is of vit_t alone, got {patch_stride} with {variant}: leave it out")
        its_width, its_depth, its_heads, its_indexes = _SIZES[variant]
        sizes = (
            its_width if embed_dim is None else embed_dim,
            its_depth if depth is None else depth,
            its_heads if num_heads is None else num_heads,
            its_indexes if global_attn_indexes is None else global_attn_indexes,
        )
        _check_encoder(*sizes)
        network = _assemble(_create_vit(image_size, *sizes), image_size, _PATCH_SIZE)
    network.variant = variant
    return network


def load_network(network: Layer, weights_path: Path | str, model: str) -> list[str]:
    """Loads official weights, or those in one of our own checkpoints, whole.

    Args:
        network: of `create_network`; changed in place.
        weights_path: see `load_weights_file`.
        model: the name of the model that it is part of; one of our own checkpoints must be of it.

    Returns:
        The names of the network's tensors.

    Raises:
        InputError: as `load_weights_file`, or the weights are another model's or another variant's.
    """
    tensors = load_weights_file(weights_path, model)
    own = network.state_dict()
    match = match_names(to_timm(tensors), own)._replace(source=tensors)
    check_fit(weights_path, match, own, f"do not fit SAM {network.variant}", _remedy(network, tensors), whole=True)
    network.load_state_dict(match.tensors, strict=False)  # old files lack BatchNorm's counters
    return list(own)


def _remedy(network: Layer, tensors: Mapping[str, torch.Tensor]) -> str:
    """What to do about a file that does not fit."""
    variant, stride = sam_variant(tensors), sam_patch_stride(tensors)
    if variant is None and describe_tensors(tensors) != "Segment Anything":
        return f"give the official file of {', '.join(VARIANTS)}, which alone fit"
    if variant != network.variant:
        lite = f" with image_size {_LITE_IMAGE_SIZE}" if stride == 1 else ""
        return f"choose their variant{f', {variant}{lite}' if variant else ''}"
    if stride is not None and stride != network.patch_stride:
        other = f"image_size {_LITE_IMAGE_SIZE}" if stride == 1 else "image_size 1024"
        return f"choose {other} or patch_stride {stride}, with which they were made"
    return "give the whole file, and the image_size and encoder that it was made with"


def _check_encoder(embed_dim: int, depth: int, num_heads: int, global_attn_indexes: Sequence[int]) -> None:
    if min(embed_dim, depth, num_heads) < 1 or embed_dim % num_heads:
        raise InputError(
            f"sam: embed_dim, depth and num_heads must be positive and embed_dim a multiple of num_heads, "
            f"got {embed_dim}, {depth} and {num_heads}"
        )
    if not all(0 <= index < depth for index in global_attn_indexes):
        raise InputError(f"sam: global_attn_indexes must lie in 0..{depth - 1}, got {list(global_attn_indexes)}")


def _create_tiny(image_size: int, patch_stride: int | None) -> Layer:
    if patch_stride is None:
        patch_stride = 1 if image_size == _LITE_IMAGE_SIZE else PATCH_STRIDES[0]
    if patch_stride not in PATCH_STRIDES:
        raise InputError(f"sam: patch_stride must be {' or '.join(map(str, PATCH_STRIDES))}, got {patch_stride!r}")
    encoder = TinyViTEncoder(image_size, patch_stride)
    network = _assemble(encoder, image_size, encoder.stride)
    network.patch_stride = patch_stride
    if patch_stride == 1:
        network.preprocess = MethodType(_scale_and_pad, network)
    return network


def _scale_and_pad(network: Layer, image: torch.Tensor) -> torch.Tensor:
    """LiteMedSAM's input instead of Segment Anything's: (..., 3, h, w) scaled to 0..1, zeros below and to the right."""
    low, high = image.amin((-3, -2, -1), keepdim=True), image.amax((-3, -2, -1), keepdim=True)
    image = (image - low) / (high - low).clamp(min=1e-8)
    size = network.image_encoder.img_size
    return F.pad(image, (0, size - image.shape[-1], 0, size - image.shape[-2]))


def _create_vit(image_size: int, embed_dim: int, depth: int, num_heads: int, global_attn_indexes: Sequence[int]):
    """segment_anything's own recipe (its build_sam module), which fixes the image size at 1024."""
    from segment_anything.modeling import ImageEncoderViT

    return ImageEncoderViT(
        depth=depth,
        embed_dim=embed_dim,
        img_size=image_size,
        mlp_ratio=4,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_heads=num_heads,
        patch_size=_PATCH_SIZE,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=tuple(global_attn_indexes),
        window_size=14,
        out_chans=EMBED_DIM,
    )


def _assemble(image_encoder: nn.Module, image_size: int, stride: int) -> Layer:
    """Segment Anything with an image encoder of that stride."""
    from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    grid = image_size // stride
    prompt_encoder = PromptEncoder(
        embed_dim=EMBED_DIM,
        image_embedding_size=(grid, grid),
        input_image_size=(image_size, image_size),
        mask_in_chans=16,
    )
    mask_decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(depth=2, embedding_dim=EMBED_DIM, mlp_dim=2048, num_heads=8),
        transformer_dim=EMBED_DIM,
        iou_head_depth=3,
        iou_head_hidden_dim=256,
    )
    return Sam(image_encoder, prompt_encoder, mask_decoder)
