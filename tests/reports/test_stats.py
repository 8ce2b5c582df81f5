import math

import numpy as np
import pytest
from conftest import write_tiff

from sennet_kaggle.config import Preprocessing
from sennet_kaggle.data.intensity import measure_intensity, slice_to_image
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.errors import InputError
from sennet_kaggle.reports.stats import format_stats, measure_stats

EIGHT_BIT = Preprocessing(intensity="eight_bit")
PERCENTILE = Preprocessing()


def write_slice(kidney_dir, stem, image, mask=None):
    write_tiff(kidney_dir / "images" / f"{stem}.tif", np.array(image, np.uint16))
    if mask is not None:
        write_tiff(kidney_dir / "labels" / f"{stem}.tif", np.array(mask, np.uint8) * 255)


@pytest.fixture
def tiny(tmp_path):
    """Grey 0, 51, 102, 255 in the top byte and 7 below; one vessel pixel; then an unlabelled slice of 255."""
    greys = np.array([[0, 51], [102, 255]]) * 256 + 7
    write_slice(tmp_path / "a", "0000", greys, [[0, 0], [0, 1]])
    write_slice(tmp_path / "a", "0001", np.full((2, 2), 255 * 256))
    return open_volume(tmp_path / "a")


@pytest.fixture
def larger(tmp_path):
    """A slice of another size, black, three of its six pixels vessel."""
    write_slice(tmp_path / "b", "0000", np.zeros((2, 3)), [[1, 1, 1], [0, 0, 0]])
    return open_volume(tmp_path / "b")


def test_by_hand(tiny):
    row, pooled = measure_stats([tiny], EIGHT_BIT, progress=False).to_dict("records")
    mean = (0 + 0.2 + 0.4 + 1 + 4 * 1) / 8
    squares = (0.04 + 0.16 + 1 + 4) / 8
    assert row["kidney"] == "a" and pooled["kidney"] == "all"
    assert (row["slices"], row["labelled"], row["unlabelled"], row["size"]) == (2, 1, 1, "2x2")
    assert (row["grey_min"], row["grey_max"], row["low"], row["high"]) == (7, 255 * 256 + 7, 0, 255)
    assert row["mean"] == pytest.approx(mean) and row["std"] == pytest.approx(math.sqrt(squares - mean**2))
    assert row["vessel_fraction"] == 1 / 4 and row["pos_weight"] == 3
    apart = {"kidney", "low", "high"}
    assert {name: row[name] for name in row.keys() - apart} == {name: pooled[name] for name in row.keys() - apart}


def test_kidneys_are_pooled_by_pixels(tiny, larger):
    table = measure_stats([tiny, larger], EIGHT_BIT, progress=False).set_index("kidney")
    assert table["size"].tolist() == ["2x2", "2x3", "mixed"]
    assert table["slices"].tolist() == [2, 1, 3] and table["unlabelled"].tolist() == [1, 0, 1]
    assert table.loc["b", ["mean", "std", "grey_min", "grey_max"]].tolist() == [0, 0, 0, 0]
    mean, squares = 5.6 / 14, 5.2 / 14  # not the mean of 5.6 / 8 and 0
    assert table.loc["all", "mean"] == pytest.approx(mean)
    assert table.loc["all", "std"] == pytest.approx(math.sqrt(squares - mean**2))
    assert table.loc["all", "vessel_fraction"] == 4 / 10 and table.loc["all", "pos_weight"] == 6 / 4


@pytest.mark.parametrize("preprocessing", [EIGHT_BIT, PERCENTILE], ids=["eight_bit", "percentile"])
def test_equals_numpy_on_everything_concatenated(tmp_path, write_kidney, preprocessing):
    images_a, masks_a = write_kidney(tmp_path / "a", depth=20)
    images_b, masks_b = write_kidney(tmp_path / "b", depth=3, size=(21, 52), labels=False)
    table = measure_stats([open_volume(tmp_path / name) for name in "ab"], preprocessing, False).set_index("kidney")
    values = {}
    for name, images in (("a", images_a), ("b", images_b)):
        intensity = measure_intensity(images, preprocessing)
        assert table.loc[name, ["low", "high"]].tolist() == [intensity.low, intensity.high]
        pixels = np.concatenate([slice_to_image(image, intensity, preprocessing).ravel() for image in images])
        values[name] = pixels.astype(np.float64)
        assert table.loc[name, ["grey_min", "grey_max"]].tolist() == [images.min(), images.max()]
    values["all"] = np.concatenate(list(values.values()))
    for name, pixels in values.items():
        assert table.loc[name, "mean"] == pytest.approx(pixels.mean(), rel=1e-12)
        assert table.loc[name, "std"] == pytest.approx(pixels.std(), rel=1e-12)
    assert table.loc["all", "vessel_fraction"] == table.loc["a", "vessel_fraction"] == pytest.approx(masks_a.mean())
    assert np.isnan(table.loc["b", ["vessel_fraction", "pos_weight"]].astype(float)).all()
    assert np.isnan(table.loc["all", ["low", "high"]].astype(float)).all()


@pytest.mark.parametrize("depth", [1, 3, 20])
def test_each_slice_is_read_once(tmp_path, write_kidney, monkeypatch, depth):
    write_kidney(tmp_path / "k", depth=depth)
    volume = open_volume(tmp_path / "k")
    reads = []
    monkeypatch.setattr(type(volume), "__getitem__", lambda self, z: reads.append(z) or np.eye(4, 5, dtype=np.uint8))
    monkeypatch.setattr(type(volume), "label", lambda self, z: np.ones((4, 5), bool))
    table = measure_stats([volume], PERCENTILE, progress=False)
    assert sorted(reads) == list(range(depth))
    assert table["slices"].tolist() == [depth, depth] and table["size"][0] == "4x5"


def test_without_a_vessel_there_is_no_weight(tmp_path):
    write_slice(tmp_path / "k", "0000", np.ones((2, 2)), np.zeros((2, 2)))
    table = measure_stats([open_volume(tmp_path / "k")], EIGHT_BIT, progress=False)
    assert table["vessel_fraction"].tolist() == [0, 0] and table["pos_weight"].isna().all()
    assert format_stats(table).splitlines()[-1].endswith("--std (once per channel)")


def test_text(tiny, larger, capsys):
    lines = format_stats(measure_stats([tiny, larger], EIGHT_BIT)).splitlines()
    assert "measuring: 100%" in capsys.readouterr().err
    assert lines[0].split()[:5] == ["kidney", "slices", "labelled", "unlabelled", "size"]
    assert lines[1].split()[-6:] == ["0.0", "255.0", "0.7000", "0.4000", "0.250000", "3.0"]
    assert len({len(line) for line in lines[:-1]}) == 1 and "nan" not in "".join(lines)
    assert lines[-1] == (
        "mean 0.4000 and std 0.4598, for --mean and --std (once per channel); "
        "1.5 background pixels per vessel pixel, for loss weighted_bce's pos_weight"
    )


def test_a_label_that_does_not_fit(tmp_path):
    write_slice(tmp_path / "k", "0000", np.ones((2, 2)), np.zeros((2, 3)))
    with pytest.raises(InputError, match="is 2x3 but its image"):
        measure_stats([open_volume(tmp_path / "k")], EIGHT_BIT, progress=False)


def test_real_slices(data_dir):
    volume = open_volume(data_dir / "train" / "kidney_1_dense")
    table = measure_stats([volume], PERCENTILE, progress=False)
    assert table["size"][0] == "1303x912" and table["labelled"][0] == len(volume)
    assert 0 < table["mean"][0] < 1 and 20 < table["pos_weight"][0] < 5000
