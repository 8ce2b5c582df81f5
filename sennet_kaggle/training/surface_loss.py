"""The competition's metric made differentiable: 2 x 2 x 2 neighbourhoods of a stack, with marching cubes' areas."""

import torch

from ..distributed import sum_over_processes
from ..scoring.surface_dice import AREA_OF_CODE


def surface_loss_3d(
    logits: torch.Tensor, target: torch.Tensor, valid_mask: torch.Tensor | None = None, smooth: float = 1.0
) -> torch.Tensor:
    """1 - Surface Dice at tolerance 0 of a stack of slices, in expectation over independent voxels.

    A corner where eight voxels meet has the area that the metric gives their code (`scoring.surface_dice`), and is on
    the surface unless all or none of them are vessel. Of both the expected value over the 256 codes is taken, so for
    probabilities of 0 and 1 this is the metric itself, but for what closes the stack at its sides. Corners with an
    ignored voxel are left out.

    Args:
        logits: (N, K, h, w), K neighbouring slices in their order; one slice has no corner, and the loss is 0.
        target: of that shape, 0 or 1.
        valid_mask: of that shape, bool; None counts all.
        smooth: squared voxels added to both sides of the fraction.
    """
    if valid_mask is not None:
        logits = logits.masked_fill(~valid_mask, 0.0)  # else a NaN there reaches the corners' gradient
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    areas = torch.from_numpy(AREA_OF_CODE).to(logits)
    area_pred, on_surface_pred = _expected_area(logits.sigmoid(), areas)
    area_gt = areas[_codes(target)]
    common = torch.where(area_gt > 0, area_pred + on_surface_pred * area_gt, 0.0)
    both = area_pred + area_gt
    if valid_mask is not None:
        whole = _all_of_eight(valid_mask)
        common, both = common[whole], both[whole]
    common, both = sum_over_processes(torch.stack((common.sum(), both.sum())))
    return 1 - (common + smooth) / (both + smooth)


def _expected_area(probability: torch.Tensor, areas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Expected area of each corner, and its probability to be on the surface: (N, K-1, h-1, w-1) each."""
    vessel, other = probability, 1 - probability
    # Probabilities of the 4 codes of two pixels side by side, then of the 16 codes of the squares of a slice.
    pairs = [a[..., :-1] * b[..., 1:] for a in (other, vessel) for b in (other, vessel)]
    squares = torch.stack([a[..., :-1, :] * b[..., 1:, :] for a in pairs for b in pairs], -1)  # (N, K, h-1, w-1, 16)
    above, below = squares[:, :-1], squares[:, 1:]
    area = (above @ areas.view(16, 16) * below).sum(-1)
    return area, 1 - above[..., 0] * below[..., 0] - above[..., 15] * below[..., 15]


def _codes(target: torch.Tensor) -> torch.Tensor:
    """The code of each corner, (N, K-1, h-1, w-1) int64: its first voxel in C order is the highest bit."""
    bits = target.long()
    pairs = 2 * bits[..., :-1] + bits[..., 1:]
    squares = 4 * pairs[..., :-1, :] + pairs[..., 1:, :]
    return 16 * squares[:, :-1] + squares[:, 1:]


def _all_of_eight(valid_mask: torch.Tensor) -> torch.Tensor:
    pairs = valid_mask[..., :-1] & valid_mask[..., 1:]
    squares = pairs[..., :-1, :] & pairs[..., 1:, :]
    return squares[:, :-1] & squares[:, 1:]
