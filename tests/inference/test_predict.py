import json

import numpy as np
import pytest
import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from sennet_kaggle.config import Inference, Preprocessing
from sennet_kaggle.data.intensity import IntensityRange, measure_intensity, slice_to_image
from sennet_kaggle.data.resizing import resize_probability
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.errors import InputError
from sennet_kaggle.inference.loading import create_predictor, load_predictors, pick_device
from sennet_kaggle.inference.predict import predict_masks, predict_probabilities, predict_rows
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, save_checkpoint
from sennet_kaggle.submission.rle import rle_encode

PREPROCESSING = Preprocessing(roi_size=64)
MODELS = {
    "unet": {"widths": [4, 8], "bottleneck": 16},
    "segformer": {"hidden_sizes": [8, 16, 20, 16], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16},
    "sam": {
        "image_size": 128,
        "embed_dim": 32,
        "depth": 1,
        "num_heads": 2,
        "global_attn_indexes": [0],
        "points_per_side": 3,
        "pred_iou_thresh": -1e9,
        "stability_score_thresh": 0.0,
        "max_area_fraction": 1.0,
    },
}


class Brightness(nn.Module):
    """Logits that rise with the image: a vessel is whatever is brighter than 1/2."""

    def forward(self, image):
        return 50 * image[:, :1]


def bright_predictor(threshold=0.5):
    preprocessing = Preprocessing(intensity="eight_bit", roi_size=64, mean=(0.5,), std=(1.0,))
    return create_predictor(Brightness(), preprocessing, threshold, Inference())


@pytest.fixture
def volume(tmp_path, write_kidney):
    write_kidney(tmp_path / "k", depth=5, size=(61, 95), labels=False)
    return open_volume(tmp_path / "k")


@pytest.mark.parametrize("name", MODELS)
def test_every_model_stands_behind_the_same_seam(tmp_path, volume, name):
    """Real classes, small and random: from a checkpoint file to masks of the slices' own size."""
    torch.manual_seed(0)
    model = create_model(name, **MODELS[name])
    save_checkpoint(tmp_path / "c.safetensors", model, Card(name, MODELS[name], PREPROCESSING, 0.5))
    predictors = load_predictors([tmp_path / "c.safetensors"], Inference(device="cpu"))
    probabilities = predictors[0]([volume[0], volume[1]], IntensityRange(0, 65535))
    for probability in probabilities:
        assert probability.shape == (61, 95) and probability.dtype == np.float32
        assert 0 <= probability.min() <= probability.max() <= 1
    masks = dict(predict_masks(volume, predictors, Inference(batch_size=2)))
    assert list(masks) == volume.slice_ids
    assert all(mask.shape == (61, 95) and mask.dtype == np.bool_ for mask in masks.values())


@pytest.mark.parametrize(
    ("preprocessing", "inference"),
    [
        ({"region": "windows"}, {}),
        ({"offsets": (-1, 0, 1)}, {}),
        ({}, {"axes": "zyx"}),
        ({}, {"tta": "flips"}),
        ({}, {"average": "logit"}),
    ],
)
def test_segment_anything_takes_whole_slices(preprocessing, inference):
    sam = create_model("sam", **MODELS["sam"])
    with pytest.raises(InputError, match="Segment Anything proposes masks of whole slices"):
        create_predictor(sam, Preprocessing(**preprocessing), 0.5, Inference(**inference))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Inference(tta="d8"), "tta must be one of none, flips, d4, got 'd8'"),
        (Inference(overlap=float("nan")), "overlap must lie in 0..1"),
        (Preprocessing(region="window"), "region must be one of whole, windows, got 'window'"),
        (Preprocessing(offsets=(-1, 1, 2)), "offsets must have a 0"),
        (Preprocessing(offsets=(-1, 0)), "mean must have 1 value or 2, one per input channel"),
        (Preprocessing(roi_size=0), "roi_size must be at least 1"),
    ],
)
def test_settings_are_checked_before_any_work(settings, message):
    both = {"preprocessing": PREPROCESSING, "inference": Inference(), type(settings).__name__.lower(): settings}
    with pytest.raises(InputError, match=message):
        create_predictor(Brightness(), threshold=0.5, **both)


def test_an_old_checkpoint_gives_the_same_masks_as_before_windows(data_dir, tmp_path):
    """A card that knows no region, offsets or outputs; this was the whole of inference then."""
    torch.manual_seed(0)
    small = create_model("unet", in_channels=3, widths=[4, 8], bottleneck=8)
    arguments = {"in_channels": 3, "widths": [4, 8], "bottleneck": 8}
    save_checkpoint(tmp_path / "new.safetensors", small, Card("unet", arguments, Preprocessing(), 0.5))
    with safetensors.safe_open(tmp_path / "new.safetensors", "pt") as file:
        card = json.loads(file.metadata()["sennet_kaggle"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    for later in ("region", "offsets", "outputs"):
        del card["preprocessing"][later]
    save_file(tensors, tmp_path / "old.safetensors", {"sennet_kaggle": json.dumps(card)})
    volume = open_volume(data_dir / "test" / "kidney_6")
    inference = Inference(device="cpu", precision="float32")
    predictors = load_predictors([tmp_path / "old.safetensors"], inference)
    model, settings = predictors[0].model, predictors[0].preprocessing
    intensity = measure_intensity(volume, settings)
    images = torch.stack([torch.from_numpy(slice_to_image(slice_, intensity, settings))[None] for slice_ in volume])
    resized = torch.cat([F.interpolate(image[None], (512, 512), mode="bilinear", antialias=True) for image in images])
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (settings.mean, settings.std))
    with torch.inference_mode():
        maps = model((resized - mean) / std).sigmoid()[:, 0].numpy()
    expected = [resize_probability(map_, *images.shape[-2:]) for map_ in maps]
    found = [probability for _, probability in predict_probabilities(volume, predictors, inference)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)  # torch resized then, and rounded otherwise


def test_mask_follows_the_image():
    """A bright disc comes back as a mask in its place, at the slice's size."""
    y, x = np.mgrid[:300, :200]
    disc = (y - 90) ** 2 + (x - 140) ** 2 < 40**2
    slice_ = np.where(disc, 60000, 2000).astype(np.uint16)
    masks = dict(predict_masks(_Slices([slice_, slice_.T.copy()]), [bright_predictor()], Inference(batch_size=2)))
    for mask, expected in zip(masks.values(), (disc, disc.T), strict=True):
        assert mask.shape == expected.shape
        assert (mask ^ expected).sum() < 0.08 * expected.sum()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
def test_batch_size_changes_nothing(volume, batch_size):
    one = [rle_encode(mask) for _, mask in predict_masks(volume, [bright_predictor()], Inference(batch_size=1))]
    assert [rle for _, rle in predict_rows([volume], [bright_predictor()], Inference(batch_size=batch_size))] == one
    assert len(set(one)) == 5


def test_members_are_averaged():
    class Constant(nn.Module):
        def __init__(self, probability):
            super().__init__()
            self.logit = torch.logit(torch.tensor(probability))

        def forward(self, image):
            return self.logit.expand(len(image), 1, *image.shape[-2:])

    def any_vessel(*members):
        predictors = [create_predictor(Constant(p), PREPROCESSING, t, Inference()) for p, t in members]
        return next(predict_masks(_Slices([np.zeros((9, 9), np.uint16)]), predictors, Inference()))[1].any()

    assert not any_vessel((0.4, 0.5))
    assert any_vessel((0.4, 0.3))
    assert any_vessel((0.4, 0.5), (0.8, 0.5))  # mean 0.6 over 0.5
    assert not any_vessel((0.4, 0.6), (0.8, 0.7))  # mean 0.6 under 0.65


def test_threshold_of_the_settings_goes_first():
    assert create_predictor(Brightness(), PREPROCESSING, 0.5, Inference(threshold=0.2)).threshold == 0.2
    with pytest.raises(InputError, match="threshold must lie in 0..1"):
        create_predictor(Brightness(), PREPROCESSING, 0.5, Inference(threshold=1.5))


def test_reduced_precision_runs_and_agrees():
    torch.manual_seed(0)
    model = create_model("unet", widths=[8, 16], bottleneck=32)
    slices = [np.random.default_rng(0).integers(0, 2**16, (64, 64), dtype=np.uint16)]
    full, half = (
        create_predictor(model, PREPROCESSING, 0.5, Inference(device="cpu", precision=precision))(
            slices, IntensityRange(0, 65535)
        )[0]
        for precision in ("float32", "bfloat16")
    )
    assert not np.array_equal(full, half)  # it did run in another precision
    np.testing.assert_allclose(full, half, atol=0.05)


def test_errors(volume):
    with pytest.raises(InputError, match="no checkpoint given"):
        load_predictors([], Inference())
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        create_predictor(Brightness(), PREPROCESSING, 0.5, Inference(batch_size=0))
    for device in ("gpu", "cuda:99", "mps"):
        with pytest.raises(InputError, match="device"):
            pick_device(device)


class _Slices(list):
    """Slices in memory with the face of a Volume."""

    name = "k"

    @property
    def slice_ids(self):
        return [f"k_{z:04d}" for z in range(len(self))]


@pytest.mark.parametrize("offsets", [(0,), (-2, 0, 1), (0, 3)])
@pytest.mark.parametrize("outputs", ["centre", "all"])
@pytest.mark.parametrize("axes", ["z", "zyx"])
def test_a_part_comes_out_as_among_all(volume, offsets, outputs, axes):
    """Any run of slices, with the neighbours it needs."""

    class Weighted(nn.Module):
        def forward(self, tensor):
            return tensor * torch.arange(1, tensor.shape[1] + 1).view(1, -1, 1, 1)

    preprocessing = Preprocessing(
        intensity="eight_bit", region="windows", roi_size=64, offsets=offsets, outputs=outputs, mean=(0.0,), std=(1.0,)
    )
    predictors, inference = [create_predictor(Weighted(), preprocessing, 0.5, Inference())], Inference(axes=axes)
    whole = list(predict_probabilities(volume, predictors, inference))
    for zs in (range(0, 1), range(2, 4), range(4, 5), [1], [0, 2, 3], [4], []):
        part = list(predict_probabilities(volume, predictors, inference, zs))
        assert [slice_id for slice_id, _ in part] == [volume.slice_ids[z] for z in zs]
        for z, (_, probability) in zip(zs, part, strict=True):
            np.testing.assert_array_equal(probability, whole[z][1])


@pytest.mark.parametrize(
    ("offsets", "axes", "said"),
    [
        ((0,), "z", ""),
        ((-1, 0), "z", "between 0001 and 0003), but a model that sees several slices at once takes them"),
        ((0,), "zyx", "between 0001 and 0003), but axes zyx takes them for neighbours"),
    ],
)
def test_a_gap_is_said_where_neighbours_matter(volume, caplog, offsets, axes, said):
    volume.image_paths[2].unlink()
    preprocessing = Preprocessing(intensity="eight_bit", roi_size=64, offsets=offsets, mean=(0.5,), std=(1.0,))
    predictor = create_predictor(Brightness(), preprocessing, 0.5, Inference())
    next(predict_probabilities(open_volume(volume.image_paths[0].parents[1]), [predictor], Inference(axes=axes)))
    assert said in caplog.text and bool(said) == bool(caplog.text)
