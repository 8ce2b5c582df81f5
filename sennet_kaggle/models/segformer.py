"""SegFormer (Xie 2021) in HuggingFace's implementation, with one logit at full resolution."""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import InputError
from .prior import set_prior
from .published_names import to_huggingface
from .segformer_pass import segformer_logits
from .weights import check_fit, describe_loaded, fits, load_weights_file, match_names

logger = logging.getLogger(__name__)

_HEADS = (1, 2, 5, 8)
_STRIDES = (1, 2, 4)
_MOST = 4096  # of blocks or channels: such a model is too large for any machine, and takes minutes to be found so
_INPUT_PROJECTION = "segformer.encoder.patch_embeddings.0.proj.weight"
# Hidden sizes, blocks per stage and decoder width of the Mix Transformers B0 to B5 (the paper's appendix).
_B0_SIZES, _B1_SIZES = (32, 64, 160, 256), (64, 128, 320, 512)
VARIANTS = {
    "b0": (_B0_SIZES, (2, 2, 2, 2), 256),
    "b1": (_B1_SIZES, (2, 2, 2, 2), 256),
    "b2": (_B1_SIZES, (3, 4, 6, 3), 768),
    "b3": (_B1_SIZES, (3, 4, 18, 3), 768),
    "b4": (_B1_SIZES, (3, 8, 27, 3), 768),
    "b5": (_B1_SIZES, (3, 6, 40, 3), 768),
}


class Segformer(nn.Module):
    """HuggingFace's SegformerForSemanticSegmentation, its logits brought to full resolution.

    Args:
        config: HuggingFace's, with out_channels * shuffle**2 labels.
        shuffle: see `create_segformer`.
    """

    def __init__(self, config, shuffle: int = 1):
        from transformers import SegformerForSemanticSegmentation

        super().__init__()
        self.network, self.shuffle = SegformerForSemanticSegmentation(config), shuffle
        self.stride = config.strides[0]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Maps an image to logits.

        Args:
            image: (N, C, h, w) float, normalised; h and w at least 29, below which the first
                stage's attention has no 8 x 8 patch left to reduce.

        Returns:
            (N, out_channels, h, w), of the image's dtype.
        """
        height, width = image.shape[-2:]
        logits = segformer_logits(self.network, image)  # (N, out_channels * shuffle**2, h/stride, w/stride)
        logits = F.pixel_shuffle(logits, self.shuffle)
        if self.shuffle == self.stride:
            return logits[..., :height, :width]
        return F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)


def create_segformer(
    in_channels: int = 3,
    variant: str = "b0",
    weights_path: Path | str | None = None,
    hidden_sizes: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    num_attention_heads: Sequence[int] | None = None,
    decoder_hidden_size: int | None = None,
    out_channels: int = 1,
    stride: int = 4,
    shuffle: int = 1,
    prior: float = 0.5,
    fan_out: bool = False,
    dropout: float = 0.1,
) -> Segformer:
    """Builds a SegFormer from its configuration.

    Args:
        in_channels: C, at least 1.
        variant: "b0" to "b5".
        weights_path: a local folder or file of mit-b0 … mit-b5, of a fine-tuned SegFormer, or one of our own
            checkpoints, see `load_pretrained`.
        hidden_sizes: instead of the variant's, four multiples of the attention heads.
        depths: instead of the variant's, four numbers of blocks.
        num_attention_heads: instead of 1, 2, 5 and 8.
        decoder_hidden_size: instead of the variant's.
        out_channels: logits per pixel.
        stride: of the first patch embedding, the paper's 4, or 2 or 1: twice the resolution is four times the work.
        shuffle: side of the square of pixels that the head answers for at each of its places, a logit for each
            (Shi 2016); at most `stride`. 1 is the paper's one logit, interpolated.
        prior: the probability of a vessel that fresh weights answer, see `set_prior`.
        fan_out: fresh convolutions get the authors' weights, normal with variance 2 / (kernel area x outputs per
            group), in place of HuggingFace's, normal with 0.02: next to nothing for one kernel per channel.
        dropout: part of the decode head's features that each training step leaves out, below 1.

    Raises:
        InputError: an unknown variant, a number that is no positive integer or out of range, sizes that the attention
            heads do not divide, or weights of another variant.
    """
    from transformers import SegformerConfig

    if variant not in VARIANTS:
        raise InputError(f"unknown SegFormer variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    own_sizes, blocks, decoder_size = VARIANTS[variant]
    sizes = _four("hidden_sizes", own_sizes if hidden_sizes is None else hidden_sizes)
    heads = _four("num_attention_heads", _HEADS if num_attention_heads is None else num_attention_heads)
    if any(size % head for size, head in zip(sizes, heads, strict=True)):
        raise InputError(f"hidden_sizes must be four multiples of num_attention_heads {heads}, got {sizes}")
    decoder_size = decoder_size if decoder_hidden_size is None else decoder_hidden_size
    if min(in_channels, decoder_size, out_channels) < 1:
        raise InputError(
            f"segformer: in_channels, decoder_hidden_size and out_channels must be at least 1, "
            f"got {in_channels}, {decoder_size} and {out_channels}"
        )
    if stride not in _STRIDES or shuffle not in _STRIDES or shuffle > stride:
        raise InputError(
            f"segformer: stride must be 1, 2 or 4, and shuffle one of them, no larger, got {stride} and {shuffle}"
        )
    if not 0 <= dropout < 1:
        raise InputError(f"segformer: dropout must lie in 0..1, below 1, got {dropout}")
    config = SegformerConfig(
        num_channels=in_channels,
        num_labels=out_channels * shuffle**2,
        strides=[stride, 2, 2, 2],
        hidden_sizes=sizes,
        depths=_four("depths", blocks if depths is None else depths),
        num_attention_heads=heads,
        decoder_hidden_size=decoder_size,
        classifier_dropout_prob=dropout,
    )
    model = Segformer(config, shuffle)
    if fan_out:
        _draw_by_fan_out(model.network)
    set_prior(model.network.decode_head.classifier, prior, "segformer")
    if weights_path is not None:
        load_pretrained(model, weights_path)
    return model


def load_pretrained(model: Segformer, weights_path: Path | str) -> tuple[list[str], list[str]]:
    """Loads what fits by name and shape of a published SegFormer or of its encoder alone.

    The decode head stays fresh where it does not fit, and so does the input projection, whose shape
    follows in_channels. The rest of the encoder must fit: half an encoder is the wrong variant's.

    Args:
        model: changed in place.
        weights_path: see `load_weights_file`; in the names of HuggingFace or of SegFormer's authors, with any prefix
            or without "segformer.". An ImageNet head ("classifier.*") is passed over.

    Returns:
        Names of the model's tensors that were loaded, and of those left fresh.

    Raises:
        InputError: as `load_weights_file`, or an encoder tensor is missing or has another shape.
    """
    source = to_huggingface(load_weights_file(weights_path, "segformer"))
    own = model.network.state_dict()
    match = match_names(source, own, ("", "segformer.", "segformer.encoder."))
    needed = {name: own[name] for name in own if name.startswith("segformer.") and name != _INPUT_PROJECTION}
    variant = _variant_of(match.tensors)
    remedy = f"choose the variant they were made for{f', {variant}' if variant else ''}"
    check_fit(weights_path, match, needed, "are not of this SegFormer", remedy)
    fitting = {name: tensor for name, tensor in match.tensors.items() if fits(tensor, own[name])}
    fresh = [name for name in own if name not in fitting]
    model.network.load_state_dict(fitting, strict=False)
    logger.info("%s: %s", weights_path, describe_loaded(fitting, fresh))
    return list(fitting), fresh


def _draw_by_fan_out(network: Any) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer is not network.decode_head.classifier:
            fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))


def _variant_of(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The variant that has an encoder's widths and depths."""
    blocks = {
        match.groups() for name in tensors if (match := re.match(r"segformer\.encoder\.block\.(\d)\.(\d+)\.", name))
    }
    depths = tuple(sum(stage == str(i) for stage, _ in blocks) for i in range(4))
    biases = (tensors.get(f"segformer.encoder.patch_embeddings.{i}.proj.bias") for i in range(4))
    widths = tuple(0 if bias is None else len(bias) for bias in biases)
    return next((name for name, (*sizes, _) in VARIANTS.items() if tuple(sizes) == (widths, depths)), None)


def _four(argument: str, numbers: Sequence[int]) -> list[int]:
    if len(numbers) != 4 or not all(0 < n <= _MOST for n in numbers):
        raise InputError(f"segformer: {argument} must be four positive integers up to {_MOST}, got {numbers}")
    return list(numbers)
