"""The GPU's code on a stand-in against the CPU's; docs/gpu.md lists what only a real GPU shows."""

import copy
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from stand_in_gpu import GPU, stand_in_gpu
from torch import nn

from sennet_kaggle.config import Inference, Preprocessing
from sennet_kaggle.data.bits import fetch_mask
from sennet_kaggle.data.intensity import IntensityRange
from sennet_kaggle.data.resizing import resize_map
from sennet_kaggle.data.transforms import image_to_tensor
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.inference.loading import create_predictor, pick_device
from sennet_kaggle.inference.predict import predict_masks, predict_probabilities
from sennet_kaggle.inference.windows import cut_windows, plan_windows
from sennet_kaggle.kernel.faults import Faults
from sennet_kaggle.kernel.oom_fallback import OutOfMemoryFallback
from sennet_kaggle.kernel.settings import KernelSettings
from sennet_kaggle.kernel.submit import run_kernel
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, save_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")
MEBIBYTE = 2**20
EIGHT_BIT = IntensityRange(0, 255)
UNET = {"widths": [4, 8], "bottleneck": 8}
FLOAT32 = Inference(precision="float32")


@pytest.fixture
def gpu(monkeypatch):
    with stand_in_gpu(monkeypatch, 64 * MEBIBYTE) as gpu:
        yield gpu


@pytest.fixture
def volume(tmp_path, write_kidney):
    write_kidney(tmp_path / "kidney", depth=5, size=(61, 95), labels=False)
    return open_volume(tmp_path / "kidney")


class Greedy(nn.Module):
    """Logits that are the image; takes so many MiB for weights and for each input, and tells what it is shown."""

    def __init__(self, per_input=0, weights=0):
        super().__init__()
        self.per_input, self.shown = per_input, []
        self.weights = nn.Parameter(torch.zeros(weights * MEBIBYTE // 4))

    def forward(self, tensor):
        self.shown.append((len(tensor), tensor.device.type))
        features = torch.zeros(len(tensor) * self.per_input * MEBIBYTE, dtype=torch.uint8, device=tensor.device)
        del features
        return tensor[:, :1]


class Disc(nn.Module):
    """As Segment Anything: an 8-bit image to a mask, which is a disc here."""

    def segment(self, image):
        y, x = np.ogrid[: image.shape[0], : image.shape[1]]
        return (y - 30) ** 2 + (x - 40) ** 2 < 20**2


def lively_unet(in_channels=3):
    """Of random weights, whose probabilities spread out as those of a trained one do."""
    torch.manual_seed(0)
    model = create_model("unet", in_channels=in_channels, **UNET)
    nn.init.normal_(model.head.weight, std=30)
    return model


def unet_predictor(inference, region="windows", **settings):
    preprocessing = Preprocessing(region=region, roi_size=64, **settings)
    return create_predictor(lively_unet(preprocessing.in_channels), preprocessing, 0.5, inference)


def greedy_predictor(model, inference):
    preprocessing = Preprocessing(intensity="eight_bit", roi_size=64, mean=(0.0,), std=(1.0,))
    return create_predictor(model, preprocessing, 0.5, inference)


def bright_slices(count, size=(64, 64)):
    return list(np.random.default_rng(0).integers(0, 256, (count, *size), dtype=np.uint8))


def on(device, inference=FLOAT32):
    return replace(inference, device=device)


@pytest.mark.parametrize("size", [(97, 61), (20, 30), (40, 40)], ids=["smaller", "larger", "as it is"])
@pytest.mark.parametrize("region", ["whole", "windows"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_slice_becomes_the_same_tensor(gpu, region, channels, size):
    """Also where it is reduced, for which the GPU has torch's antialiasing and the CPU our own."""
    preprocessing = Preprocessing(region=region, roi_size=40, mean=(0.4, 0.5, 0.6)[:channels], std=(0.2,))
    slice_ = np.random.default_rng(0).integers(20000, 30000, size, dtype=np.uint16)
    expected, found = (
        image_to_tensor(slice_, preprocessing, device, IntensityRange(21000, 29000)) for device in ("cpu", GPU)
    )
    assert found.device == GPU and found.dtype == torch.float32
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=2e-5)


def test_a_slice_is_pinned_and_nobody_waits_for_its_copy(gpu):
    slices = np.zeros((2, 40, 30), np.uint16)
    for slice_ in slices:
        image_to_tensor(slice_, Preprocessing(roi_size=16), GPU, EIGHT_BIT)
    assert gpu.pinned == 2
    assert [copy.is_waited_for for copy in gpu.copies if copy.size == 40 * 30] == [False, False]
    assert len(gpu.copies) == 4  # factors and shifts once


@pytest.mark.parametrize("size", [(97, 127), (20, 31), (64, 48)], ids=["larger", "smaller", "as it is"])
def test_a_map_is_resized_where_it_is(gpu, size):
    map_ = torch.rand(64, 48, generator=torch.Generator().manual_seed(0))
    expected, found = resize_map(map_, *size), resize_map(map_.to(GPU), *size)
    assert found.device == GPU and [copy.to for copy in gpu.copies] == ["cuda"]
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (3, 8), (61, 95)])
def test_only_bits_of_a_mask_come_back(gpu, size):
    probability = torch.rand(size, generator=torch.Generator().manual_seed(0))
    probability[0, 0], probability[-1, -1] = 0.5, float("nan")
    on_gpu = probability.to(GPU)
    gpu.copies.clear()
    np.testing.assert_array_equal(fetch_mask(on_gpu, 0.5), probability.numpy() > 0.5)
    assert [copy[:3] for copy in gpu.copies] == [("cpu", torch.uint8, -(-np.prod(size) // 8))]


def test_the_border_is_repeated_where_the_slice_is(gpu):
    tensor, windows = torch.rand(3, 40, 50), plan_windows(40, 50, 128, 0)
    (expected,), (found,) = cut_windows(tensor, windows), cut_windows(tensor.to(GPU), windows)
    assert found.shape == (3, 64, 64) and found.device == GPU
    assert [copy.to for copy in gpu.copies] == ["cuda"]
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("weights", "per_input", "batch"), [(0, 1, 16), (8, 5, 4), (8, 15, 2), (8, 40, 1)], ids=lambda value: str(value)
)
def test_batches_fill_half_of_the_memory(gpu, weights, per_input, batch):
    """Of 64 MiB; what the weights take is not counted as an input's."""
    model = Greedy(per_input, weights)
    gpu.memory.peak = 60 * MEBIBYTE  # of something before
    list(greedy_predictor(model, Inference()).score(bright_slices(20), EIGHT_BIT, FLOAT32))
    assert model.shown == [(1, "cuda")] + [(batch, "cuda")] * -(-20 // batch)
    assert gpu.memory.peak <= (weights + max(32, per_input) + 1) * MEBIBYTE


def test_a_gpu_computes_in_float16_and_channels_last(gpu):
    seen = []

    class Convolution(nn.Conv2d):
        def forward(self, tensor):
            logits = super().forward(tensor)
            layout = {"memory_format": torch.channels_last}
            seen.append((tensor.is_contiguous(**layout), self.weight.is_contiguous(**layout), logits.dtype))
            return logits

    preprocessing = Preprocessing(intensity="eight_bit", roi_size=64, mean=(0.0,) * 3, std=(1.0,))
    for precision, dtype in (("auto", torch.float16), ("float32", torch.float32)):
        inference = Inference(precision=precision, batch_size=1)
        predictor = create_predictor(Convolution(3, 1, 3, padding=1), preprocessing, 0.5, inference)
        (score,) = predictor.score(bright_slices(1), EIGHT_BIT, inference)
        assert predictor.device == GPU and predictor.threads == 1
        assert seen.pop() == (True, True, dtype) and not seen
        assert score.device == GPU and score.dtype == torch.float32


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_only_a_gpus_scores_are_made_ahead(gpu, volume, device):
    """There the model has a thread of its own, beside the one that reads and the one that writes rows."""
    names = []

    class Named(Greedy):
        def forward(self, tensor):
            names.append(threading.current_thread().name)
            return super().forward(tensor)

    predictor = replace(greedy_predictor(Named(), on(device)), threads=1)
    assert len(list(predict_masks(volume, [predictor], on(device)))) == 5
    assert {name.startswith("prefetch") for name in names} == {device != "cpu"}


@pytest.mark.parametrize("region", ["whole", "windows"])
@pytest.mark.parametrize(
    "inference",
    [
        FLOAT32,
        replace(FLOAT32, tta="d4", average="logit", importance="constant"),
        replace(FLOAT32, scale=0.7),
        replace(FLOAT32, axes="zyx"),
        Inference(precision="float16"),
    ],
    ids=["plain", "views", "scaled", "three axes", "float16"],
)
def test_probabilities_are_the_cpus(gpu, volume, region, inference):
    """Those in float32, whatever the GPU's precision; the sums of three axes are kept in float16."""
    settings = {"offsets": (-1, 0, 1), "mean": (0.4,), "std": (0.3,)}
    on_cpu, on_gpu = (
        list(predict_probabilities(volume, [unet_predictor(each, region, **settings)], each))
        for each in (replace(inference, device="cpu", precision="float32"), inference)
    )
    tolerance = 2e-3 if inference.precision == "float16" or inference.axes == "zyx" else 1e-5
    for (slice_id, expected), (name, found) in zip(on_cpu, on_gpu, strict=True):
        assert name == slice_id and found.device.type == ("cpu" if inference.axes == "zyx" else "cuda")
        torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=tolerance)
        assert expected.std() > 0.03


def test_background_is_answered_where_the_gpu_is(gpu):
    """Two slices of background, which no model sees, after one that it sees."""
    slices = [*bright_slices(1), *np.zeros((2, 64, 64), np.uint8)]
    predictor = greedy_predictor(Greedy(), FLOAT32)
    predictor = replace(predictor, preprocessing=replace(predictor.preprocessing, region="windows"))
    scores = list(predictor.score(slices, EIGHT_BIT, FLOAT32, np.float32(-np.inf)))
    assert [(score.device, score.any().item()) for score in scores] == [(GPU, True), (GPU, False), (GPU, False)]


@pytest.mark.parametrize("order", [1, -1], ids=["first", "last"])
def test_segment_anything_stands_beside_another_model(gpu, volume, order):
    """The mean of a mask and of probabilities, where the GPU is, as on the CPU."""
    probabilities = {}
    for device in ("cpu", "cuda:0"):
        members = [
            create_predictor(Disc(), Preprocessing(), 0.5, on(device)),
            unet_predictor(on(device), mean=(0.4,), std=(0.3,)),
        ]
        found = list(predict_probabilities(volume, members[::order], on(device)))
        assert {probability.device.type for _, probability in found} == {torch.device(device).type}
        probabilities[device] = torch.stack([probability.cpu() for _, probability in found])
    torch.testing.assert_close(*probabilities.values(), rtol=0, atol=1e-5)
    assert (probabilities["cpu"][:, 30, 40] >= 0.5).all() and (probabilities["cpu"][:, 0, 0] < 0.5).all()


@pytest.mark.parametrize(
    ("per_input", "shown"),
    [
        (16, [(8, "cuda"), (4, "cuda"), (2, "cuda"), (2, "cuda"), (2, "cuda"), (2, "cuda")]),
        (60, [(8, "cuda"), (4, "cuda"), (2, "cuda"), (1, "cuda"), *[(1, "cpu")] * 8]),
    ],
    ids=["halves", "to the CPU"],
)
def test_too_little_memory_changes_no_mask(gpu, per_input, shown):
    """Of 64 MiB the weights take 8."""
    slices, inference = bright_slices(8), replace(FLOAT32, batch_size=8)
    expected = greedy_predictor(Greedy(), on("cpu"))(slices, EIGHT_BIT, inference)
    model, faults = Greedy(per_input, weights=8), Faults(strict=False, say=lambda _: None)
    predictor = greedy_predictor(model, inference)
    fallback = replace(predictor, model=OutOfMemoryFallback(predictor.model, faults))
    scores = list(fallback.score(slices, EIGHT_BIT, inference))
    np.testing.assert_allclose([score.cpu() for score in scores], expected, atol=1e-6)
    assert {score.device for score in scores} == {GPU}
    assert model.shown == shown and faults.noted
    assert model.weights.device.type == shown[-1][1]


def test_the_notebook_gives_the_cpus_rows(gpu, tmp_path, write_kidney):
    write_kidney(tmp_path / "input/blood-vessel-segmentation/test/kidney_5", depth=5, size=(61, 95), labels=False)
    card = Card("unet", UNET, Preprocessing(region="windows", roi_size=64), 0.5)
    (tmp_path / "input/sennet-kaggle-checkpoints").mkdir()
    save_checkpoint(tmp_path / "input/sennet-kaggle-checkpoints/a.safetensors", lively_unet(), card)
    settings = KernelSettings(tmp_path / "input", tmp_path / "submission.csv", strict=True)
    rows = {}
    for device in ("cpu", "auto"):
        run_kernel(replace(settings, inference=on(device, FLOAT32)))
        rows[device] = settings.submission_path.read_bytes()
    assert rows["auto"] == rows["cpu"] and len(rows["cpu"]) > 1000
    assert gpu.copies


def test_the_stand_in_is_as_strict_as_a_gpu(gpu):
    """Else the tests above would show nothing."""
    there, here = torch.ones(3, device=GPU), torch.ones(3)
    with pytest.raises(RuntimeError, match="same device"):
        torch.stack([there, here])
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    with pytest.raises(torch.OutOfMemoryError):
        torch.ones(20 * MEBIBYTE, device=GPU)
    assert pick_device("auto") == GPU == (there + 1).device
    before = gpu.memory.allocated
    copy.deepcopy(here).to(GPU)
    assert gpu.memory.allocated == before
