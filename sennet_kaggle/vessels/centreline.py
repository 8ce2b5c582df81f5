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
        nodes: numbers of the nodes at its two ends.
        kinds: what these are: "branch", "free", "border" (the vessel leaves the volume there) or "ring".
        points: (K, 3) float64, the centre line from the first to the second node, z y x in the unit of the voxel size.
        wall: (K,) float64, distance of the path's voxels to the nearest background voxel.
        radius: (K,) float64, of the lumen.
        volume: of the voxels nearest to this segment.
    """

    nodes: tuple[int, int]
    kinds: tuple[str, str]
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
        """Along the centre line."""
        return float(self.steps.sum())

    @property
    def mean_radius(self) -> float:
        """Over the length."""
        steps = self.steps
        between = (self.radius[1:] + self.radius[:-1]) / 2
        return float(np.average(between, weights=steps)) if steps.any() else float(self.radius.mean())


def segments_of(graph: nx.MultiGraph, spacing: np.ndarray, shape: tuple[int, int, int]) -> list[Segment]:
    """The centre lines of a graph's edges, each from its smaller to its larger node, in order of the nodes.

    Args:
        graph: what `skeleton_graph` gives, its nodes numbered in the order wanted.
        spacing: (3,) size of a voxel.
        shape: D, H, W of the volume.
    """
    segments = []
    for a, b, key in sorted((min(a, b), max(a, b), key) for a, b, key in graph.edges(keys=True)):
        path = path_from(graph, a, b, key)
        points, wall = smooth(path[:, :3]), path[:, 3].copy()
        start, end = (
            _kind(graph.degree[node], a == b, line, wall, spacing, shape)
            for node, line in ((a, points[::-1]), (b, points))
        )
        segments.append(Segment((a, b), (start, end), points * spacing, wall, wall.copy()))
    return segments


def _kind(degree: int, is_loop: bool, line: np.ndarray, wall: np.ndarray, spacing: np.ndarray, shape) -> str:
    """What the last point of a line (K, 3) in voxels is."""
    if degree > 1:
        return "ring" if degree == 2 and is_loop else "branch"
    # It leaves the volume where it would be outside one radius, and a voxel, further on.
    direction = (line[-1] - line[max(len(line) - 4, 0)]) * spacing
    reach = (float(np.median(wall)) + spacing.mean()) * direction / np.linalg.norm(direction)
    ahead = line[-1] + reach / spacing
    return "border" if ((ahead < -0.5) | (ahead > np.array(shape) - 0.5)).any() else "free"


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
