"""U-Net with BatchNorm (Ronneberger 2015; Ioffe 2015), as in the report."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import InputError
from .prior import set_prior
from .weights import check_fit, load_weights_file, match_names


class UNet(nn.Module):
    """An encoder that halves the resolution at each width, a bottleneck, and a decoder with skip connections.

    With the defaults it has 31,037,633 parameters, and 31,036,481 with one input channel.

    Args:
        in_channels: C, at least 1.
        widths: channels per encoder level, from full resolution down; their number is the depth.
        bottleneck: channels at the lowest resolution.
        unshuffle: side of the squares of pixels that become channels before the first level, and pixels again
            after the last (Shi 2016): that much less work for the same widths, and a wider view.
        prior: the probability of a vessel that fresh weights answer, see `set_prior`.
        out_channels: logits per pixel.

    Raises:
        InputError: a number below 1, no width, or a prior outside 0..1.
    """

    def __init__(
        self,
        in_channels: int = 3,
        widths: Sequence[int] = (64, 128, 256, 512),
        bottleneck: int = 1024,
        unshuffle: int = 1,
        prior: float = 0.5,
        out_channels: int = 1,
    ):
        super().__init__()
        if not widths or min(in_channels, *widths, bottleneck, unshuffle, out_channels) < 1:
            raise InputError(
                f"unet: in_channels, widths (not empty), bottleneck, unshuffle and out_channels must be at least 1, "
                f"got {in_channels}, {widths}, {bottleneck}, {unshuffle} and {out_channels}"
            )
        self.unshuffle = unshuffle
        widths = list(widths)
        below = [*widths[1:], bottleneck]
        self.encoders = nn.ModuleList(map(DoubleConv, [in_channels * unshuffle**2, *widths], widths))
        self.pool = nn.MaxPool2d(2)
        self.bottleneck = DoubleConv(widths[-1], bottleneck)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(b, w, 2, stride=2) for b, w in zip(below, widths, strict=True))
        self.decoders = nn.ModuleList(DoubleConv(2 * width, width) for width in widths)
        self.head = nn.Conv2d(widths[0], out_channels * unshuffle**2, 1)
        set_prior(self.head, prior, "unet")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Maps an image to logits.

        Args:
            image: (N, C, h, w) float, normalised; any h and w.

        Returns:
            (N, out_channels, h, w), of the image's dtype.
        """
        height, width = image.shape[-2:]
        step = self.unshuffle * 2 ** len(self.encoders)
        # Pooling needs multiples of 2**depth; the border is repeated up to the next one and cut off again.
        features = F.pad(image, (0, -width % step, 0, -height % step), mode="replicate")
        features = F.pixel_unshuffle(features, self.unshuffle)  # (N, C * unshuffle**2, h/unshuffle, w/unshuffle)
        skips = []
        for encoder in self.encoders:
            skips.append(encoder(features))
            features = self.pool(skips[-1])  # (N, width, h/2, w/2)
        features = self.bottleneck(features)  # (N, bottleneck, h/step, w/step)
        for up, decoder, skip in zip(self.ups[::-1], self.decoders[::-1], skips[::-1], strict=True):
            features = decoder(torch.cat((skip, up(features)), dim=1))
        return F.pixel_shuffle(self.head(features), self.unshuffle)[..., :height, :width]


def create_unet(
    in_channels: int = 3,
    widths: Sequence[int] = (64, 128, 256, 512),
    bottleneck: int = 1024,
    unshuffle: int = 1,
    prior: float = 0.5,
    weights_path: Path | str | None = None,
    out_channels: int = 1,
) -> UNet:
    """Builds a U-Net.

    Args:
        in_channels: see `UNet`, as for the next four.
        weights_path: a U-Net of the same arguments, such as one of our own checkpoints; see `load_pretrained`.
        out_channels: logits per pixel.

    Raises:
        InputError: as `UNet` and `load_pretrained`.
    """
    model = UNet(in_channels, widths, bottleneck, unshuffle, prior, out_channels)
    if weights_path is not None:
        load_pretrained(model, weights_path)
    return model


def load_pretrained(model: UNet, weights_path: Path | str) -> tuple[list[str], list[str]]:
    """Loads a U-Net of ours, whole.

    Args:
        model: changed in place.
        weights_path: see `load_weights_file`; the names may have any prefix.

    Returns:
        Names of the model's tensors that were loaded, and an empty list: none is left fresh.

    Raises:
        InputError: as `load_weights_file`, or the weights are of another model.
    """
    own = model.state_dict()
    match = match_names(load_weights_file(weights_path, "unet"), own)
    remedy = "give the arguments that the model was made with"
    check_fit(weights_path, match, own, "are not of this U-Net", remedy, whole=True)
    model.load_state_dict(match.tensors, strict=False)
    return list(own), []


class DoubleConv(nn.Sequential):
    """Twice: 3x3 convolution, BatchNorm, ReLU. No bias, since BatchNorm has one."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )
