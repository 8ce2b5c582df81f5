"""The files about vessels: read back by others' readers, and one line where there is nothing to measure."""

import csv
import json

import cv2
import networkx as nx
import numpy as np
import pytest
import tifffile

from sennet_kaggle.__main__ import main
from sennet_kaggle.data.tubes import ring, tube_mask
from sennet_kaggle.errors import InputError
from sennet_kaggle.vessels.export import graphml, segments_csv, swc
from sennet_kaggle.vessels.measure import measure_vessels
from sennet_kaggle.vessels.run import NAMES, write_vessels

ARMS = [np.array([[0.2, 0.3, 0.4], np.multiply(30, to) + 0.3]) for to in ((0.8, 0.36, 0.48), (-0.8, 0.36, -0.48))]
CIRCLE = ring(12, np.eye(3))


@pytest.fixture(scope="module")
def mask() -> np.ndarray:
    """A ring that two tubes come out of, and a speck."""
    mask = np.pad(tube_mask([CIRCLE, *(arm + CIRCLE[at] for arm, at in zip(ARMS, (0, 120), strict=True))], 2), 3)
    mask[1, 1, 1] = True
    return mask


@pytest.fixture(scope="module")
def vessels(mask):
    return measure_vessels(mask, (20, 20, 20))


def test_the_ring_and_its_two_tubes(vessels):
    """Four segments: the two halves of the ring and the tubes."""
    names = ("segments", "branch_points", "free_ends", "loops", "connected_components", "specks")
    assert [vessels.totals[name] for name in names] == [4, 2, 2, 1, 2, 1]


def test_segments_read_back(vessels):
    rows = [*csv.DictReader(segments_csv(vessels).splitlines())]
    assert [*rows[0]][:7] == [
        "segment",
        "start_node",
        "end_node",
        "start_kind",
        "end_kind",
        "length_um",
        "mean_radius_um",
    ]
    for row, segment in zip(rows, vessels.segments, strict=True):
        assert float(row["length_um"]) == pytest.approx(segment.length, rel=1e-5)
        assert float(row["end_x_voxel"]) * 20 == pytest.approx(float(row["end_x_um"]), rel=1e-4)
        assert float(row["min_radius_um"]) <= float(row["mean_radius_um"])


def test_columns_are_in_voxels_without_a_voxel_size(mask):
    table = measure_vessels(mask).table()
    assert [name for name in table if "um" in name.split("_")] == []
    assert {"length_voxel", "volume_voxel3", "start_z_voxel"} <= {*table}


def test_swc_holds_every_segment_once(vessels):
    """Points have parents before them, and the pieces between them add up to the length of all centre lines."""
    rows = [line.split() for line in swc(vessels).splitlines() if not line.startswith("#")]
    numbers = [int(row[0]) for row in rows]
    assert numbers == [*range(1, len(rows) + 1)]
    parents = [int(row[6]) for row in rows]
    assert all(parent == -1 or parent < number for number, parent in zip(numbers, parents, strict=True))
    assert parents.count(-1) == 1
    places = np.array([[float(value) for value in row[2:5]] for row in rows])
    steps = places - places[np.array(parents) - 1]
    pieces = np.linalg.norm(steps, axis=1)[np.array(parents) > 0]
    assert pieces.sum() == pytest.approx(vessels.totals["total_length_um"], rel=1e-3)
    radii = [float(row[5]) for row in rows]
    assert np.median(radii) == pytest.approx(40, rel=0.05)


def test_graphml_reads_back(vessels):
    graph = nx.parse_graphml(graphml(vessels), node_type=int, force_multigraph=True)
    assert graph.number_of_edges() == 4 and graph.number_of_nodes() == 5
    assert sorted(kind for _, kind in graph.nodes(data="kind")) == ["branch", "branch", "free", "free", "speck"]
    lengths = [length for *_, length in graph.edges(data="length_um")]
    assert sum(lengths) == pytest.approx(vessels.totals["total_length_um"])
    for node, values in graph.nodes(data=True):
        np.testing.assert_allclose([values["z_um"], values["y_um"], values["x_um"]], vessels.nodes[node])


def write_slices(folder, mask) -> None:
    folder.mkdir()
    for z, slice_ in enumerate(mask):
        tifffile.imwrite(folder / f"{z:04d}.tif", slice_.astype(np.uint8) * 255)


def test_the_command_writes_every_file(tmp_path, mask, vessels, capsys):
    write_slices(tmp_path / "mask", mask)
    command = ["vessels", "--mask", str(tmp_path / "mask"), "--output-dir", str(tmp_path / "a" / "out")]
    assert main([*command, "--voxel-size-um", "20"]) == 0
    assert sorted(path.name for path in (tmp_path / "a" / "out").iterdir()) == sorted(NAMES)
    totals = json.loads((tmp_path / "a" / "out" / "totals.json").read_text())
    assert totals == json.loads(json.dumps(vessels.totals))
    out = capsys.readouterr().out
    assert "segments: 4\n" in out
    assert out.endswith(f"{tmp_path / 'a' / 'out'}: {', '.join(NAMES)}\n")
    for name in ("radii.png", "tree.png"):
        picture = cv2.imread(str(tmp_path / "a" / "out" / name))
        assert picture is not None and len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_a_stack_gives_its_own_voxel_size(tmp_path, mask, vessels):
    resolution = (1 / 20, 1 / 20)
    tifffile.imwrite(
        tmp_path / "m.tif",
        mask.astype(np.uint8),
        imagej=True,
        resolution=resolution,
        metadata={"axes": "ZYX", "spacing": 20, "unit": "um"},
    )
    found = write_vessels(tmp_path / "m.tif", tmp_path / "out")
    assert found.table().equals(vessels.table())


def test_an_unknown_voxel_size_is_said(tmp_path, mask, caplog):
    np.save(tmp_path / "m.npy", mask)
    found = write_vessels(tmp_path / "m.npy", tmp_path / "out")
    assert found.unit == "voxel" and "lengths are in voxels" in caplog.text
    assert "length_voxel" in (tmp_path / "out" / "segments.csv").read_text()


@pytest.mark.parametrize(
    ("array", "sizes", "match"),
    [
        (np.full((3, 8, 9), 7, np.uint8), (), "must have background, found vessel in every voxel"),
        (np.arange(216, dtype=np.uint8).reshape(6, 6, 6), (), "is not a mask: expected 0 and one other value, found 1"),
        (np.zeros((3, 8, 9), np.uint8), (), "must mark vessels, found 0 in every voxel"),
        (np.zeros((3, 8, 9), np.uint8), (1.0, 2.0), "must be one number or three"),
        (np.zeros((3, 8, 9), np.uint8), (0.0,), "above 0"),
    ],
    ids=["full", "grey", "empty", "two sizes", "size 0"],
)
def test_bad_input_is_refused_and_nothing_is_left(tmp_path, array, sizes, match):
    np.save(tmp_path / "m.npy", array)
    with pytest.raises(InputError, match=match) as caught:
        write_vessels(tmp_path / "m.npy", tmp_path / "a" / "out", voxel_size_um=sizes)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m.npy"]


def test_a_missing_mask_is_one_line_and_status_2(tmp_path, capsys):
    assert main(["vessels", "--mask", str(tmp_path / "m.npy"), "--output-dir", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "m.npy is missing" in said and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
