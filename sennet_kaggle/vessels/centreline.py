"""Paths of voxels → centre lines: smooth, and as long as the vessel, not as its stairs."""

from dataclasses import dataclass

import networkx as nx
import numpy as np
from scipy.signal import savgol_filter

from .graph import path_from

WINDOW = 11  # points of a path, about 15 voxels


@dataclass
class Segment:
    """A vessel between two nodes, or a ring.

    Args:
        nodes: the graph's nodes at its two ends.
        points: (K, 3) float64, the centre line from the first to the second node, z y x in the unit of the spacing.
        wall: (K,) float64, distance of the path's voxels to the nearest background voxel.
        radius: (K,) float64, of the lumen.
        volume: of the voxels nearest to this segment.
    """

    nodes: tuple[int, int]
    points: np.ndarray
    wall: np.ndarray
    radius: np.ndarray
    volume: float = 0.0

    @property
    def steps(self) -> np.ndarray:
        """(K - 1,) distances from point to point."""
        return np.linalg.norm(np.diff(self.points, axis=0), axis=1)

    @property
    def length(self) -> float:
        return float(self.steps.sum())


def segments_of(graph: nx.MultiGraph, spacing: np.ndarray) -> list[Segment]:
    """The centre lines of a graph's edges, each from its smaller to its larger node."""
    segments = []
    for a, b, key in sorted((min(a, b), max(a, b), key) for a, b, key in graph.edges(keys=True)):
        path = path_from(graph, a, b, key)
        segments.append(Segment((a, b), smooth(path[:, :3]) * spacing, path[:, 3].copy(), path[:, 3].copy()))
    return segments


def smooth(path: np.ndarray) -> np.ndarray:
    """Takes the stairs off a path of voxels; its ends stay where they are.

    A path of neighbouring voxels is 8 to 10 % longer than the curve that it follows. Each point is put on the parabola
    that fits the eleven points around it best (Savitzky and Golay 1964), which, unlike a moving average, does not cut
    bends. Beyond the ends the path goes on as its mirror image through the end.

    Args:
        path: (K, 3) in voxels, K >= 2.
    """
    reach = min(WINDOW // 2, len(path) - 1)
    if reach < 2:
        return path
    before, after = 2 * path[0] - path[reach:0:-1], 2 * path[-1] - path[-2 : -reach - 2 : -1]
    return savgol_filter(np.concatenate([before, path, after]), 2 * reach + 1, 2, axis=0)[reach:-reach]
