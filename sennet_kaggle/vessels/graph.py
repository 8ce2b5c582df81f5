"""Skeleton voxels → a graph: ends and junctions, and the paths of voxels between them, without thinning's twigs.

The graph is a `networkx.MultiGraph`, so that loops and two vessels between the same junctions stay what they are. A
node has `point`, and an edge `path`, the points from node `start` to the other one, both included. A point is
(4,) float64: z y x in voxels, and the distance there from the background in the unit of the voxel size.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product

import networkx as nx
import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

_FORWARD = [step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0)]


def skeleton_graph(points: np.ndarray) -> nx.MultiGraph:
    """Traces a skeleton.

    Voxels are neighbours that share a face, an edge or a corner. One with a single neighbour, or none, is a node;
    those with three or more are junctions, and touching ones are one node, at the voxel farthest from the background.

    Args:
        points: (N, 4), what `skeleton_voxels` gives.

    Returns:
        The graph; a ring without a junction has one node, at its first voxel.
    """
    links = _links(points[:, :3].astype(np.int64))
    degree = np.diff(links.indptr)
    node_of = _node_of_voxel(links, degree)
    graph = nx.MultiGraph()
    order = np.argsort(points[:, 3], kind="stable")
    for at in order[node_of[order] >= 0].tolist():  # the last, of the largest radius, stays
        graph.add_node(int(node_of[at]), point=points[at])
    neighbours = [row.tolist() for row in np.split(links.indices, links.indptr[1:-1])]
    for chain in _chains(neighbours, node_of.tolist()):
        _add_path(graph, points, node_of, chain)
    return graph


def _links(voxels: np.ndarray) -> csr_array:
    """Which voxels are neighbours: (N, N) bool."""
    if not len(voxels):
        return csr_array((0, 0), dtype=np.bool_)
    size = voxels.max(axis=0) + 3  # one voxel of frame, so that a step never ends in another row
    flat = np.ravel_multi_index(tuple((voxels + 1).T), tuple(size.tolist()))
    pairs = []
    for step in _FORWARD:
        target = flat + (step[0] * size[1] + step[1]) * size[2] + step[2]
        at = np.minimum(np.searchsorted(flat, target), len(flat) - 1)
        here = np.flatnonzero(flat[at] == target)
        pairs.append(np.stack([here, at[here]]))
    a, b = np.concatenate(pairs, axis=1)
    ones = np.ones(2 * len(a), np.bool_)
    return csr_array(coo_array((ones, (np.r_[a, b], np.r_[b, a])), shape=(len(voxels), len(voxels))))


def _node_of_voxel(links: csr_array, degree: np.ndarray) -> np.ndarray:
    """The node that a voxel belongs to, (N,) int64; -1 for those of paths."""
    node_of = np.full(len(degree), -1, np.int64)
    junction = np.flatnonzero(degree > 2)
    count, cluster = connected_components(links[junction][:, junction], directed=False)
    node_of[junction] = cluster
    ends = np.flatnonzero(degree < 2)
    node_of[ends] = count + np.arange(len(ends))
    # A ring has neither: its first voxel serves.
    _, component = connected_components(links, directed=False)
    has_node = np.zeros(component.max(initial=-1) + 1, np.bool_)
    has_node[component[node_of >= 0]] = True
    _, first = np.unique(component, return_index=True)
    rings = first[~has_node]
    node_of[rings] = count + len(ends) + np.arange(len(rings))
    return node_of


def _chains(neighbours: Sequence[list[int]], node_of: Sequence[int]) -> Iterator[list[int]]:
    """Each path from node to node as indices of its voxels, the nodes' own included."""
    walked = set()
    for start in (at for at, node in enumerate(node_of) if node >= 0):
        for step in neighbours[start]:
            if step in walked or (node_of[step] >= 0 and (node_of[step] == node_of[start] or step < start)):
                continue
            chain = [start, step]
            while node_of[chain[-1]] < 0:
                walked.add(chain[-1])
                following = [at for at in neighbours[chain[-1]] if at != chain[-2]]
                chain.append(following[0])
            yield chain


def _add_path(graph, points, node_of, chain) -> None:
    a, b = int(node_of[chain[0]]), int(node_of[chain[-1]])
    if a == b and len(chain) == 3 and chain[0] != chain[-1]:
        return  # one voxel beside a junction, part of it
    path = [graph.nodes[a]["point"], *points[chain], graph.nodes[b]["point"]]
    distinct = [path[0], *(to for at, to in pairwise(path) if (at != to).any())]
    graph.add_edge(a, b, start=a, path=np.array(distinct))


def merge_chains(graph: nx.MultiGraph) -> None:
    """Joins the two paths at each node where only two meet, and removes the node."""
    for node in [node for node, degree in graph.degree if degree == 2]:
        edges = [*graph.edges(node, keys=True, data="path")]
        if len(edges) == 2:
            (_, a, a_key, _), (_, b, b_key, _) = edges
            path = np.concatenate([path_from(graph, a, node, a_key), path_from(graph, node, b, b_key)[1:]])
            graph.remove_node(node)
            graph.add_edge(a, b, start=a, path=path)


def path_from(graph: nx.MultiGraph, a: int, b: int, key: int) -> np.ndarray:
    """The path of an edge in the direction from a to b, (K, 4)."""
    edge = graph.edges[a, b, key]
    return edge["path"] if edge["start"] == a else edge["path"][::-1]


def prune_twigs(graph: nx.MultiGraph, spacing: np.ndarray) -> int:
    """Removes twigs of thinning: those with a free end that do not leave the vessel from which they come.

    The end of a twig is less than the radius of the junction, and half a voxel, away from it. Of several at one
    junction the shortest goes first, and then what is left is looked at anew, so that a vessel keeps its own end.

    Args:
        graph: changed in place; nodes where only two paths meet are joined as well.
        spacing: (3,) voxel size in the unit of the nodes' radii.

    Returns:
        How many were removed.
    """
    merge_chains(graph)
    removed = 0
    while True:
        shortest: dict[int, tuple[float, int]] = {}
        for tip in (node for node, degree in graph.degree if degree == 1):
            (base,) = graph.neighbors(tip)
            if graph.degree[base] < 3:
                continue
            step = graph.nodes[tip]["point"] - graph.nodes[base]["point"]
            length = float(np.linalg.norm(step[:3] * spacing))
            if length <= graph.nodes[base]["point"][3] + 0.5 * spacing.mean():
                shortest[base] = min(shortest.get(base, (np.inf, tip)), (length, tip))
        if not shortest:
            return removed
        graph.remove_nodes_from([tip for _, tip in shortest.values()])
        removed += len(shortest)
        merge_chains(graph)
