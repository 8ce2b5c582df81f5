"""Slices larger than the model's window: windows that cover them, and one map from the answers for each."""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

Window = tuple[slice, slice]
"""Rows and columns of a slice; they may reach beyond its end."""

# A slice smaller than the window is padded up to a multiple of this only: models halve their input that often.
_STEP = 32


def plan_windows(height: int, width: int, roi_size: int, overlap: float) -> list[Window]:
    """Covers a slice with windows of one size, evenly spread, in reading order.

    Args:
        height, width: of the slice, in pixels.
        roi_size: side of a window; where the slice is shorter, its length rounded up to a multiple of 32.
        overlap: share of a window that its neighbour covers as well, at least; 0..1, 1 excluded.

    Returns:
        At least one window; only those at the end of an axis shorter than roi_size reach beyond the slice.
    """
    rows, columns = (_spread(length, roi_size, overlap) for length in (height, width))
    return [(row, column) for row in rows for column in columns]


@lru_cache(maxsize=8)
def importance_map(height: int, width: int, kind: str, device: torch.device | str = "cpu") -> torch.Tensor:
    """Weight of a window's pixels.

    Args:
        height, width: of the window.
        kind: "constant" (1 everywhere), or "gaussian" with a sigma of 1/8 of the side, as in nnU-Net
            (Isensee 2021), and never under 0.001, so that no pixel is without weight.
        device: where it is kept.

    Returns:
        (height, width) float32, at most 1.
    """
    if kind == "constant":
        return torch.ones(height, width, device=device)
    rows, columns = (
        torch.exp(-0.5 * ((torch.arange(size) - (size - 1) / 2) / (size / 8)) ** 2) for size in (height, width)
    )
    return (rows[:, None] * columns).clamp(min=1e-3).to(device)


def cut_windows(tensor: torch.Tensor, windows: list[Window]) -> list[torch.Tensor]:
    """Cuts windows out of a slice whose border is repeated as far as they reach.

    Args:
        tensor: (C, H, W).

    Returns:
        Views (C, h, w), one per window.
    """
    height, width = tensor.shape[-2:]
    below = max([0, *(rows.stop - height for rows, _ in windows)])
    right = max([0, *(columns.stop - width for _, columns in windows)])
    if below or right:
        tensor = _repeat_border(tensor, below, right)
    return [tensor[:, rows, columns] for rows, columns in windows]


class Blend:
    """The weighted mean of what the windows say about one slice.

    Sums are kept in float64, so that windows which agree average to exactly what each says.

    Args:
        height, width: of the slice.
        device: where the scores come from.
    """

    def __init__(self, height: int, width: int, device: torch.device | str = "cpu"):
        self.size, self.device = (height, width), device
        self.alone: tuple[torch.Tensor, torch.Tensor] | None = None
        """Scores and weights of the first window where it covers the slice: until a second comes nothing is summed."""
        self.sums: tuple[torch.Tensor, torch.Tensor] | None = None
        """Of scores times weights, and of weights."""

    def add(self, score: torch.Tensor, window: Window, importance: torch.Tensor) -> None:
        """Adds a window's scores (h, w) float32 with the weights (h, w) float32; what lies beyond the slice is cut."""
        height, width = (min(axis.stop, length) - axis.start for axis, length in zip(window, self.size, strict=True))
        score, importance = score[:height, :width], importance[:height, :width]
        if self.sums is None and self.alone is None and (height, width) == self.size:
            self.alone = score, importance
            return
        if self.sums is None:
            total, weight = (torch.zeros(self.size, dtype=torch.float64, device=self.device) for _ in range(2))
            self.sums = total, weight
            if self.alone is not None:
                _sum(self.sums, (slice(None), slice(None)), *self.alone)
        _sum(self.sums, window, score, importance)

    def mean(self, uncovered: float) -> torch.Tensor:
        """Returns (H, W) float32, `uncovered` where no window has been."""
        if self.sums is None:
            return torch.full(self.size, uncovered, device=self.device) if self.alone is None else self.alone[0]
        total, weight = self.sums
        return torch.where(weight > 0, total / weight, uncovered).float()


def _sum(
    sums: tuple[torch.Tensor, torch.Tensor], window: Window, score: torch.Tensor, importance: torch.Tensor
) -> None:
    total, weight = sums
    total[window] += score.double() * importance
    weight[window] += importance


def _repeat_border(tensor: torch.Tensor, below: int, right: int) -> torch.Tensor:
    """Pads (C, H, W) with its last row and column."""
    if tensor.is_cuda:
        return F.pad(tensor, (0, right, 0, below), mode="replicate")
    return torch.from_numpy(np.pad(tensor.numpy(), ((0, 0), (0, below), (0, right)), "edge"))  # see `ensemble_score`


def _spread(length: int, roi_size: int, overlap: float) -> list[slice]:
    size = min(roi_size, -(-length // _STEP) * _STEP)
    stride = max(1, int(size * (1 - overlap)))
    steps = -(-max(0, length - size) // stride)
    starts = np.linspace(0, max(0, length - size), steps + 1).round().astype(int)
    return [slice(start, start + size) for start in starts.tolist()]
