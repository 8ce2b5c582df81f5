"""Vessels → the texts of files: segments as CSV, totals as JSON, the tree as SWC and GraphML."""

import json
from collections import defaultdict
from collections.abc import Iterator

import networkx as nx
import numpy as np

from .measure import Vessels

_UNDEFINED = 0  # SWC's type of a point that is no part of a nerve cell


def segments_csv(vessels: Vessels) -> str:
    """A row for each segment (see `Vessels.table`)."""
    return vessels.table().to_csv(index=False, float_format="%.6g", lineterminator="\n")


def totals_json(vessels: Vessels) -> str:
    """The totals as one object."""
    return json.dumps(vessels.totals, indent=1) + "\n"


def swc(vessels: Vessels) -> str:
    """The centre lines in the SWC format: a point in each line, with its number, type, x, y, z, radius and parent.

    Each connected part is a tree whose root is its thickest end, or its first branch point where it has no end. A tree
    cannot have loops: a vessel that would close one ends with a point of its own at the place of the node that it
    reaches.
    """
    lines = [f"# vessels, unit: {vessels.unit}, number type x y z radius parent"]
    point_of: dict[int, int] = {}
    for at, parent_node, end_node, reversed_ in _walk(vessels):
        segment = vessels.segments[at]
        order = slice(None, None, -1 if reversed_ else 1)
        rows = np.column_stack([segment.points[:, ::-1], segment.radius])[order]
        parent = point_of.get(parent_node, -1)
        for row in rows[0 if parent < 0 else 1 :].tolist():
            number = len(lines)
            lines.append(f"{number} {_UNDEFINED} {' '.join(f'{value:.6g}' for value in row)} {parent}")
            point_of.setdefault(parent_node, number)
            parent = number
        point_of.setdefault(end_node, parent)
    return "\n".join(lines) + "\n"


def graphml(vessels: Vessels) -> str:
    """The nodes with their places and the segments with their measures as GraphML, for networkx, igraph or Gephi."""
    graph = nx.MultiGraph(unit=vessels.unit)
    for node, place in vessels.nodes.items():
        graph.add_node(node, **dict(zip((f"{axis}_{vessels.unit}" for axis in "zyx"), place.tolist(), strict=True)))
    for row in vessels.table().to_dict("records"):
        measures = {name: value for name, value in row.items() if name.startswith(("length", "mean", "min", "volume"))}
        ends = row["start_node"], row["end_node"]
        graph.add_edge(*ends, key=row["segment"], segment=row["segment"], **measures)
        for node, kind in zip(ends, (row["start_kind"], row["end_kind"]), strict=True):
            graph.nodes[node]["kind"] = kind
    for node in (node for node, degree in graph.degree if not degree):
        graph.nodes[node]["kind"] = "speck"
    return "\n".join(nx.generate_graphml(graph)) + "\n"


def _walk(vessels: Vessels) -> Iterator[tuple[int, int, int, bool]]:
    """Every segment once, from roots outwards: its index, the node it comes from, the other, and whether reversed."""
    around = defaultdict(list)
    for at, segment in enumerate(vessels.segments):
        for node in segment.nodes:
            around[node].append(at)
    walked: set[int] = set()
    for root in _roots(vessels):
        waiting = [root]
        while waiting:
            node = waiting.pop()
            for at in around[node]:
                if at not in walked:
                    walked.add(at)
                    a, b = vessels.segments[at].nodes
                    yield at, node, (b if node == a else a), node != a
                    waiting.append(b if node == a else a)


def _roots(vessels: Vessels) -> list[int]:
    """Nodes in the order in which they may serve as roots: ends before branch points, thick before thin."""
    ranks: dict[int, tuple[bool, float, int]] = {}
    for segment in vessels.segments:
        for node, kind, at in zip(segment.nodes, segment.kinds, (0, -1), strict=True):
            rank = (kind == "branch", -float(segment.radius[at]), node)
            ranks[node] = min(rank, ranks.get(node, rank))
    return sorted(ranks, key=ranks.__getitem__)
