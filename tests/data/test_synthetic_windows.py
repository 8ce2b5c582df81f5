"""Windows of synthetic vessels: what is in them, and that chance alone decides it."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from sennet_kaggle.config import Preprocessing, Training
from sennet_kaggle.data.dataset import SliceDataset
from sennet_kaggle.data.synthetic_windows import Tubes, _fill, draw_look, draw_synthetic_window
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.errors import InputError

WINDOWS = Preprocessing(region="windows", roi_size=32, mean=(0.0,), std=(1.0,))
FORK = "ignore:This process .* is multi-threaded:DeprecationWarning"


@pytest.fixture
def volume(tmp_path, write_kidney):
    write_kidney(tmp_path / "k", depth=4, size=(50, 40))
    return open_volume(tmp_path / "k")


def draw(seed, side=96, offsets=(0,)):
    return draw_synthetic_window(side, offsets, np.random.default_rng(seed))


def test_a_tube_by_hand():
    """Radius 1 round the line y = 2 from x = 2 to x = 4, with round ends; above it by 2 slices there is nothing."""
    y, x = np.mgrid[:5, :8].astype(np.float32)
    tube = Tubes(*(np.array(each, np.float32) for each in ([[0, 2, 2]], [[0, 2, 4]], [1.1])))
    drawing = """
        ........
        ..###...
        .#####..
        ..###...
        ........
    """
    expected = [[pixel == "#" for pixel in row] for row in drawing.split()]
    assert np.array_equal(_fill(tube, tube.radius, 0, y, x), expected)
    assert np.array_equal(_fill(tube, tube.radius, 1, y, x), np.isin(np.arange(5), 2)[:, None] & (abs(x - 3) < 2))
    assert not _fill(tube, tube.radius, 2, y, x).any()


def test_lumens_of_every_width_are_labelled():
    shares = [mask.mean() for _, mask in map(draw, range(60))]
    assert min(shares) < 0.02 and max(shares) > 0.5


def test_a_wall_differs_from_tissue_and_lumen():
    looks = [draw_look(np.random.default_rng(seed)) for seed in range(200)]
    for look in looks:
        assert min(abs(look.wall - look.tissue), abs(look.wall - look.lumen), abs(look.lumen - look.tissue)) > 0.11
    kinds = {(look.lumen < look.tissue, look.wall > look.tissue, look.beyond > look.tissue) for look in looks}
    assert len(kinds) > 4  # lumens, walls and surroundings brighter and darker, in most combinations


def test_the_label_is_what_differs_from_the_tissue():
    """The lumen's mean differs from that of the rest, and less so where the label is moved by 40 pixels."""
    differences = []
    for image, mask in map(draw, range(40)):
        if 0.02 < mask.mean() < 0.6:
            shifted = np.roll(mask, 40, 2)
            differences.append([abs(image[each].mean() - image[~each].mean()) for each in (mask, shifted)])
    aligned, moved = np.mean(differences, axis=0)
    assert aligned > 2 * moved


def test_neighbouring_planes_go_on():
    """A plane is the same whichever are asked for with it, but for its noise, and alike its neighbours."""
    for seed in range(5):
        one, three = draw(seed)[1], draw(seed, offsets=(-1, 0, 1))[1]
        assert np.array_equal(one[0], three[1])
        assert (three[0] != three[1]).mean() < 0.05
    image, mask = draw(0, offsets=(-1, 0, 1))
    assert image.shape == mask.shape == (3, 96, 96) and (image.dtype, mask.dtype) == (np.float32, np.bool_)
    assert np.isfinite(image).all()


def pairs_of(volume, **settings):
    dataset = SliceDataset([volume], WINDOWS, augment=True, **settings)
    dataset.epoch = 1
    return dataset


def test_a_fraction_of_the_windows_is_drawn(volume, monkeypatch):
    drawn = []
    monkeypatch.setattr(SliceDataset, "_synthetic_window", lambda self, rng: drawn.append(0))
    pixels = np.zeros((1, 2, 2), np.float32)
    monkeypatch.setattr(SliceDataset, "_window", lambda self, index, rng: (pixels, [pixels[0] > 0], None))
    dataset = pairs_of(volume, synthetic=0.25)
    for index in range(400):
        dataset[index]
    assert 75 < len(drawn) < 125


def test_without_them_windows_are_as_before(volume, monkeypatch):
    monkeypatch.setattr(SliceDataset, "_synthetic_window", None)
    plain = [*pairs_of(volume), *pairs_of(volume, synthetic=0.0)]
    assert torch.equal(torch.stack([image for image, _ in plain[:4]]), torch.stack([image for image, _ in plain[4:]]))


@pytest.mark.filterwarnings(FORK)
def test_any_number_of_workers_draws_the_same(volume):
    expected = [*pairs_of(volume, synthetic=0.9)]
    loader = DataLoader(pairs_of(volume, synthetic=0.9), batch_size=None, num_workers=2, multiprocessing_context="fork")
    for (image, target), (other, label) in zip(expected, loader, strict=True):
        assert torch.equal(image, other) and torch.equal(target, label)
    different = pairs_of(volume, synthetic=0.9)
    different.epoch = 2
    assert not torch.equal(expected[0][0], different[0][0])


def test_channels_and_targets_follow_the_offsets(volume):
    stack = Preprocessing(
        region="windows", roi_size=32, offsets=(-1, 0, 1), outputs="all", mean=(0.0,), std=(1.0,), intensity="eight_bit"
    )
    image, target = SliceDataset([volume], stack, synthetic=0.999)[0]
    assert image.shape == target.shape == (3, 32, 32)
    assert set(target.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"synthetic": 0.25},
            "synthetic go with region windows, got planes z, oblique 0, synthetic 0.25 and region whole",
        ),
        ({"synthetic": 1.0, "preprocessing": WINDOWS}, r"synthetic must lie in 0..1 \(1 excluded\), got 1.0"),
        ({"synthetic": -0.1, "preprocessing": WINDOWS}, r"synthetic must lie in 0..1 \(1 excluded\), got -0.1"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(InputError, match=message):
        Training(**changes).check()
