"""A mask → its vessels: centre lines, radii, lengths, how they branch, and totals. Open this file first."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd

from ..errors import InputError, warn
from ..progress import progress_bar
from .bit_mask import BitMask, bit_mask
from .blocks import BLOCK_SIDE, skeleton_voxels
from .centreline import Segment, segments_of
from .graph import prune_twigs, skeleton_graph
from .lumen import measure_lumens

_INVERTED_ABOVE = 0.5
_AXES = "zyx"


@dataclass(frozen=True)
class Vessels:
    """The vessels of a mask.

    Args:
        segments: vessels between two nodes.
        nodes: where vessels branch or end, (3,) float64 z y x in the unit, by number.
        totals: figures of the whole mask, by name; the unit is part of the name.
        spacing: (3,) voxel size along z, y, x in the unit.
        unit: "um", or "voxel" where the voxel size is not known.
    """

    segments: list[Segment]
    nodes: dict[int, np.ndarray]
    totals: dict[str, Any]
    spacing: np.ndarray
    unit: str

    def table(self) -> pd.DataFrame:
        """A row for each segment: `segment`, `start_node`, `end_node`, `start_kind` and `end_kind` (see `Segment`),
        length, mean and minimal radius, volume, and the two ends in the unit and, if that is another, in voxels."""
        rows = [self._row(number, segment) for number, segment in enumerate(self.segments)]
        return pd.DataFrame(rows, columns=self._columns)

    @property
    def _columns(self) -> list[str]:
        names = [f"length_{self.unit}", f"mean_radius_{self.unit}", f"min_radius_{self.unit}", f"volume_{self.unit}3"]
        units = ("um", "voxel") if self.unit == "um" else ("voxel",)
        ends = [f"{end}_{axis}_{unit}" for end in ("start", "end") for unit in units for axis in _AXES]
        return ["segment", "start_node", "end_node", "start_kind", "end_kind", *names, *ends]

    def _row(self, number: int, segment: Segment) -> list[Any]:
        scales = (np.ones(3), self.spacing) if self.unit == "um" else (np.ones(3),)
        ends = [segment.points[at] / scale for at in (0, -1) for scale in scales]
        sizes = [segment.length, segment.mean_radius, float(segment.radius.min()), segment.volume]
        return [number, *segment.nodes, *segment.kinds, *sizes, *np.concatenate(ends).tolist()]


def measure_vessels(
    mask: Iterable[np.ndarray],
    voxel_size_um: float | tuple[float, float, float] | None = None,
    *,
    shape: tuple[int, int, int] | None = None,
    block_side: int = BLOCK_SIDE,
    scratch_dir: Path | None = None,
    progress: bool = False,
) -> Vessels:
    """Measures the vessels of a binary mask.

    The mask is read once, slice by slice, and kept as one bit per voxel in a temporary file; the work is done block by
    block, with the same result whatever the blocks.

    Args:
        mask: (D, H, W) bool, or its D slices (H, W) bool with a `shape`.
        voxel_size_um: of a cube, or along z, y, x, in micrometres; without it lengths are in voxels.
        shape: D, H, W, where the mask is no array.
        block_side: voxels along the side of a block.
        scratch_dir: where the temporary file is made; the system's folder for such when not given.
        progress: show progress bars.

    Returns:
        The vessels; none for an empty mask.

    Raises:
        InputError: not three axes, slices of unequal size, a voxel size that is not positive, a mask that is all
            vessel, or a region too thick to be a vessel.
    """
    shape = tuple(getattr(mask, "shape", ())) if shape is None else shape
    if len(shape) != 3 or 0 in shape:
        raise InputError(f"mask must have three axes (D, H, W), found shape {shape}")
    spacing = _spacing(voxel_size_um)
    slices = progress_bar("reading", shape[0], mask, shown=progress)
    with bit_mask(slices, shape, scratch_dir) as bits:
        _check_fraction(bits)
        points = skeleton_voxels(bits, spacing, block_side=block_side, progress=progress)
        _check_walls(points)
        graph = skeleton_graph(points)
        twigs = prune_twigs(graph, spacing)
        graph = _numbered(graph)
        segments = segments_of(graph, spacing, shape)
        lone = [point for node, point in graph.nodes(data="point") if not graph.degree[node]]
        specks = np.reshape([[*point[:3] * spacing, point[3]] for point in lone], (-1, 4))
        volume = measure_lumens(segments, specks, bits, spacing, block_side=block_side, progress=progress)
    nodes = {node: point[:3] * spacing for node, point in graph.nodes(data="point")}
    for segment in segments:
        nodes |= {
            node: segment.points[at]
            for node, kind, at in zip(segment.nodes, segment.kinds, (0, -1), strict=True)
            if kind in ("free", "border")
        }
    unit = "voxel" if voxel_size_um is None else "um"
    totals = _totals(bits, graph, segments, spacing, unit)
    totals |= {"specks": len(lone), f"speck_volume_{unit}3": volume, "twigs_pruned": twigs}
    return Vessels(segments, nodes, totals, spacing, unit)


def _spacing(voxel_size_um: float | tuple[float, float, float] | None) -> np.ndarray:
    sizes = np.broadcast_to(np.array(1.0 if voxel_size_um is None else voxel_size_um, np.float64), 3)
    if not ((sizes > 0) & (sizes < 1e6)).all():
        raise InputError(f"voxel_size_um must be one or three sizes in micrometres above 0, got {voxel_size_um}")
    return sizes


def _check_walls(points: np.ndarray) -> None:
    """Refuses a vessel without a wall: a skeleton point that is infinitely far from the background."""
    if np.isinf(points[:, 3]).any():
        raise InputError(
            "the mask must have background around its vessels, found none: is it inverted, or a slice of one vessel?"
        )


def _check_fraction(bits: BitMask) -> None:
    fraction = bits.vessel_voxels / np.prod(bits.shape)
    if fraction == 1:
        raise InputError("the mask must have background, found vessel in every voxel: give the mask of the vessels")
    if fraction > _INVERTED_ABOVE:
        warn(f"the mask marks {fraction:.0%} of the volume as vessel: if it is inverted, swap its two values")


def _numbered(graph: nx.MultiGraph) -> nx.MultiGraph:
    """The graph with its nodes numbered from 0 by their places, z first."""
    order = sorted(graph.nodes, key=lambda node: tuple(graph.nodes[node]["point"]))
    number = {node: at for at, node in enumerate(order)}
    numbered = nx.MultiGraph()
    numbered.add_nodes_from((number[node], graph.nodes[node]) for node in order)
    for a, b, edge in graph.edges(data=True):
        numbered.add_edge(number[a], number[b], start=number[edge["start"]], path=edge["path"])
    return numbered


def _totals(
    bits: BitMask, graph: nx.MultiGraph, segments: list[Segment], spacing: np.ndarray, unit: str
) -> dict[str, Any]:
    """Figures of the whole mask."""
    lengths = np.array([segment.length for segment in segments])
    kinds = Counter(kind for segment in segments for kind in segment.kinds if kind in ("free", "border"))
    components = nx.number_connected_components(graph)
    voxels = int(np.prod(bits.shape))
    length = float(lengths.sum())
    mean = float(np.average([each.mean_radius for each in segments], weights=lengths)) if length else None
    return {
        "shape": [*bits.shape],
        "voxel_size_um": spacing.tolist() if unit == "um" else None,
        "vessel_voxels": bits.vessel_voxels,
        "vessel_fraction": bits.vessel_voxels / voxels,
        f"vessel_volume_{unit}3": float(bits.vessel_voxels * spacing.prod()),
        f"total_length_{unit}": length,
        f"mean_radius_{unit}": mean,
        "segments": len(segments),
        "branch_points": sum(degree > 2 for _, degree in graph.degree),
        "free_ends": kinds["free"],
        "border_ends": kinds["border"],
        "loops": graph.number_of_edges() - graph.number_of_nodes() + components,
        "connected_components": components,
    }
