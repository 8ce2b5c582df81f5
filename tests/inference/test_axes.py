"""Three axes, memory-mapped: what each contributes, resampling, and what is left on disk."""

import numpy as np
import pytest
import torch
from test_predictor import images_of, predictor_of, random_slices

from sennet_kaggle.config import Inference, Preprocessing
from sennet_kaggle.data import padding
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.errors import InputError
from sennet_kaggle.inference.axes import add_along, mean_over_axes, planes_along, resample_along
from sennet_kaggle.inference.loading import create_predictor
from sennet_kaggle.inference.predict import predict_probabilities
from sennet_kaggle.models import create_model


@pytest.fixture(autouse=True)
def one_thread():
    """Thousands of small planes gain nothing from threads, and wait for one another where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Slices(list):
    """Slices in memory with the face of a Volume."""

    name = "k"

    @property
    def slice_ids(self):
        return [f"k_{z:04d}" for z in range(len(self))]

    def slice_size(self, z):
        return self[z].shape


def predict(slices, function, *, members=1, inference, **settings):
    predictors = [predictor_of(function, inference, **settings)] * members
    return np.stack([p for _, p in predict_probabilities(Slices(slices), predictors, inference)])


@pytest.mark.parametrize("average", ["probability", "logit"])
@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("size", [(3, 33, 41), (20, 40, 35), (1, 9, 70)])
def test_a_model_without_direction_says_along_three_axes_what_it_says_along_z(average, members, size):
    """Float16 keeps 3 digits of a sum of three."""
    slices = random_slices(size[0], size[1:])
    along_z, along_all = (
        predict(
            slices,
            lambda tensor: 6 * tensor - 3,
            members=members,
            inference=Inference(axes=axes, average=average, device="cpu"),
            roi_size=32,
        )
        for axes in ("z", "zyx")
    )
    assert along_all.dtype == np.float32 and along_all.shape == size
    np.testing.assert_allclose(along_all, along_z, atol=1.5e-3)


def test_each_axis_has_its_say(monkeypatch):
    """Logits that rise down the rows of a plane: 0 along z where rows are y, 1 along y and x where rows are z."""
    monkeypatch.setattr(padding, "find_padding", lambda slice_: np.zeros(slice_.shape, bool))  # these slices are blank
    slices = [np.full((40, 48), 3 * z, np.uint8) for z in range(20)]  # rises by 3/255 a slice

    def slope(tensor):
        rows = tensor[:, :1]
        return nn_pad(rows[..., 1:, :] - rows[..., :-1, :]) * 85

    def nn_pad(difference):
        return torch.nn.functional.pad(difference, (0, 0, 0, 1), mode="replicate")

    inference = Inference(axes="zyx", average="logit", overlap=0.5, device="cpu", skip_background=False)
    probabilities = predict(slices, slope, inference=inference, roi_size=64)
    logits = np.log(probabilities / (1 - probabilities))
    np.testing.assert_allclose(logits[:-1], 2 / 3, atol=2e-3)


def test_neighbours_lie_along_each_axis():
    """A model that answers with the plane before its own: the mean of the three voxels before each."""
    slices = random_slices(6, (34, 40))
    images = images_of(slices)
    inference = Inference(axes="zyx", average="logit", device="cpu")
    probabilities = predict(slices, lambda t: t[:, :1], inference=inference, offsets=(-1, 0))
    before = [np.take(images, np.clip(np.arange(n) - 1, 0, None), axis) for axis, n in enumerate(images.shape)]
    np.testing.assert_allclose(np.log(probabilities / (1 - probabilities)), np.mean(before, axis=0), atol=3e-3)


@pytest.mark.parametrize("axes", ["z", "zyx"])
@pytest.mark.parametrize("scale", [0.5, 63.08 / 50, 2])
@pytest.mark.parametrize("size", [(1, 40, 51), (3, 40, 51), (12, 31, 40)])
def test_rescaling_comes_back_to_the_size_and_the_place(axes, scale, size):
    """A smooth volume through the identity at another voxel size: nearly itself, at its exact size."""
    z, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in size), indexing="ij")
    volume = (120 + 60 * np.sin(2 * y + 1) + 40 * x + 20 * z).astype(np.uint8)
    inference = Inference(axes=axes, scale=scale, average="logit", device="cpu", skip_background=False)
    shown = []
    probabilities = predict(list(volume), lambda t: shown.append(t.shape) or t, inference=inference, roi_size=32)
    assert probabilities.shape == size
    logits = np.log(probabilities / (1 - probabilities))
    inner = logits[:, 4:-4, 4:-4] - images_of(volume)[:, 4:-4, 4:-4]
    assert np.abs(inner).max() < (0.02 if scale > 1 else 0.03)


def test_scale_of_a_single_kidney():
    inference = Inference(scale=0.5, scales={"kidney_6": 1.26})
    assert (inference.scale_of("kidney_5"), inference.scale_of("kidney_6")) == (0.5, 1.26)


@pytest.mark.parametrize(
    ("depth", "new_depth", "expected"),
    [
        (3, 3, [0, 10, 20]),
        (2, 4, [0, 2.5, 7.5, 10]),
        (4, 2, [5, 25]),
        (1, 3, [0, 0, 0]),
        (3, 1, [10]),
        (2, 3, [0, 5, 10]),
    ],
)
def test_resampling_along_the_stream(depth, new_depth, expected):
    """Planes 0, 10, 20, ...: cells of the new stream have their centres where the old ones have theirs."""
    planes = (np.full((1, 1), 10 * z, np.uint16) for z in range(depth))
    assert [float(plane[0, 0]) for plane in resample_along(planes, depth, new_depth)] == pytest.approx(expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_are_read_and_added_in_blocks(axis):
    volume = np.random.default_rng(0).integers(0, 9, (18, 33, 40)).astype(np.uint16)
    planes = list(planes_along(volume, axis))
    np.testing.assert_array_equal(np.moveaxis(np.stack(planes), 0, axis), volume)
    total = np.ones(volume.shape, np.float16)
    add_along(total, axis, (plane.astype(np.float32) / 2 for plane in planes))
    np.testing.assert_array_equal(total, 1 + volume / 2)


def test_the_scratch_folder_is_left_empty(tmp_path):
    """Also when the stream is left in the middle, or the model fails."""
    slices = Slices(random_slices(3, (40, 40)))

    def score(planes):
        assert sorted(path.name for path in tmp_path.glob("*/*")) == ["grey.npy", "scores.npy"]
        return (plane.astype(np.float32) for plane in planes)

    def fail(planes):
        raise RuntimeError("out of memory")

    next(mean_over_axes(slices, score, 1.0, tmp_path))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError, match="out of memory"):
        next(mean_over_axes(slices, fail, 1.0, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_errors(tmp_path, monkeypatch):
    odd = Slices([np.zeros((40, 40), np.uint16), np.zeros((40, 41), np.uint16)])
    with pytest.raises(InputError, match=r"slice 2 is uint16 \(40, 41\) but the first is .*choose axes z"):
        next(mean_over_axes(odd, iter, 1.0, tmp_path))
    along_z = predict_probabilities(odd, [predictor_of(torch.clone, Inference())], Inference())
    assert [probability.shape for _, probability in along_z] == [(40, 40), (40, 41)]
    with pytest.raises(InputError, match="scratch_dir .*nowhere is missing"):
        next(mean_over_axes(odd, iter, 1.0, tmp_path / "nowhere"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10_000}))
    with pytest.raises(InputError, match="has .* MB free but axes zyx needs .* MB"):
        next(mean_over_axes(odd, iter, 1.0, tmp_path))


@pytest.mark.parametrize(
    ("preprocessing", "inference"),
    [
        pytest.param({"region": "windows", "roi_size": 512}, {}, id="z"),
        pytest.param({"region": "windows", "roi_size": 512, "offsets": (-1, 0, 1)}, {}, id="2.5D"),
        pytest.param({"region": "windows", "roi_size": 256}, {"scale": 0.6}, id="rescaled"),
        pytest.param({"roi_size": 32, "offsets": (-2, 0, 2)}, {"axes": "zyx"}, id="zyx, whole", marks=pytest.mark.slow),
        pytest.param(
            {"region": "windows", "roi_size": 128, "offsets": (-1, 0, 1), "outputs": "all"},
            {"axes": "zyx", "scale": 0.25, "sw_batch_size": 32, "average": "logit"},
            id="zyx, 2.5D, rescaled",
        ),
    ],
)
def test_the_three_slices_of_the_visible_test_folder(data_dir, preprocessing, inference):
    torch.manual_seed(0)
    preprocessing, inference = Preprocessing(**preprocessing), Inference(device="cpu", **inference)
    model = create_model("unet", widths=[2], bottleneck=2)
    if preprocessing.outputs == "all":
        model.head = torch.nn.Conv2d(2, 3, 1)
    kidney = open_volume(data_dir / "test" / "kidney_6")
    predicted = list(predict_probabilities(kidney, [create_predictor(model, preprocessing, 0.5, inference)], inference))
    assert [slice_id for slice_id, _ in predicted] == kidney.slice_ids
    for _, probability in predicted:
        assert probability.shape == (1303, 912) and probability.dtype == torch.float32
        assert 0 < probability.min() < probability.max() < 1


@pytest.mark.parametrize("planes", [2, 3, 6, 9])
def test_cut_short_each_voxel_is_the_mean_over_what_reached_it(planes):
    """A volume of 3 x 4 x 5 whose score is 1 along z, 2 along y and 3 along x, told to stop after some planes."""
    asked, along = iter(range(100)), iter((1, 2, 3))

    def score(slices):
        value = next(along)
        return (np.full(slice_.shape, value, np.float32) for slice_ in slices)

    maps = list(mean_over_axes([np.zeros((4, 5), np.uint8)] * 3, score, 1.0, None, lambda: next(asked) < planes))
    if planes == 2:
        assert len(maps) == 2  # the third slice has nothing
        return
    y, x = np.mgrid[:4, :5]
    reached_y, reached_x = y < planes - 3, x < planes - 3 - 4
    expected = (1 + 2 * reached_y + 3 * reached_x) / (1 + reached_y + reached_x)
    np.testing.assert_allclose(maps, np.broadcast_to(expected, (3, 4, 5)), rtol=1e-6)
