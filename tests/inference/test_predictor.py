"""Every model behind one seam: windows, neighbours, views and precision, on predictors whose answer is known."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sennet_kaggle.config import Inference, Preprocessing
from sennet_kaggle.data.background import measure_background
from sennet_kaggle.data.intensity import IntensityRange
from sennet_kaggle.data.phantom import Phantom, phantom_slices
from sennet_kaggle.errors import InputError
from sennet_kaggle.inference.forward import to_probability
from sennet_kaggle.inference.loading import create_predictor
from sennet_kaggle.models import create_model

EIGHT_BIT = IntensityRange(0, 255)
LOGITS = {"device": "cpu", "average": "logit"}


class Model(nn.Module):
    """A model that is a function of its input (N, C, h, w); counts what it is shown."""

    def __init__(self, function):
        super().__init__()
        self.function, self.shown = function, []

    def forward(self, tensor):
        self.shown.append(tuple(tensor.shape))
        return self.function(tensor)


def predictor_of(function, inference, region="windows", roi_size=64, channels=1, **settings):
    preprocessing = Preprocessing(
        intensity="eight_bit", region=region, roi_size=roi_size, mean=(0.0,) * channels, std=(1.0,), **settings
    )
    return create_predictor(Model(function), preprocessing, 0.5, inference)


def random_slices(depth=3, size=(97, 127)):
    return list(np.random.default_rng(0).integers(0, 256, (depth, *size), dtype=np.uint8))


def images_of(slices):
    return np.stack(slices) * np.float32(1 / 255)


def first_channel(tensor):
    return tensor[:, :1]


@pytest.mark.parametrize("size", [(97, 127), (511, 513), (40, 2000)])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.6])
def test_identity_gives_back_the_slice(size, overlap):
    """The logits are the image, so the score is the image; a constant stays one."""
    slices = random_slices(2, size)
    for importance, rtol in (("constant", 0), ("gaussian", 1e-6)):
        inference = Inference(overlap=overlap, importance=importance, **LOGITS)
        scores = list(predictor_of(first_channel, inference).score(slices, EIGHT_BIT, inference))
        np.testing.assert_allclose(scores, images_of(slices), rtol=rtol, atol=0)
        constant = predictor_of(lambda tensor: torch.full_like(tensor[:, :1], 0.3), inference)
        np.testing.assert_allclose(next(constant.score(slices, EIGHT_BIT, inference)), np.float32(0.3), rtol=rtol)


@pytest.mark.parametrize("tta", ["none", "flips", "d4"])
@pytest.mark.parametrize("region", ["whole", "windows"])
def test_views_of_an_equivariant_model_change_nothing(tta, region):
    """3x3 means turn with the image; a mirror image does not, so it shows that the views are really taken."""
    slices = random_slices()

    def blurred(tensor):
        return nn.functional.avg_pool2d(tensor[:, :1], 3, 1, 1)

    plain, varied = Inference(**LOGITS), Inference(tta=tta, **LOGITS)
    models = [predictor_of(blurred, inference, region) for inference in (plain, varied)]
    once, often = (
        list(model.score(slices, EIGHT_BIT, inference))
        for model, inference in zip(models, (plain, varied), strict=True)
    )
    np.testing.assert_allclose(often, once, atol=1e-6)
    assert len(models[1].model.shown) == {"none": 1, "flips": 4, "d4": 8}[tta] * len(models[0].model.shown)


def test_views_are_averaged():
    """A model that answers 1 at the left and 0 at the right: with flips 1/2 everywhere; with quarter turns too."""

    def leftness(tensor):
        return torch.linspace(1, 0, tensor.shape[-1]).expand(len(tensor), 1, *tensor.shape[-2:])

    slices = random_slices(1, (64, 64))
    for tta, expected in (("none", np.linspace(1, 0, 64)), ("flips", 0.5), ("d4", 0.5)):
        inference = Inference(tta=tta, **LOGITS)
        score = next(predictor_of(leftness, inference).score(slices, EIGHT_BIT, inference))
        np.testing.assert_allclose(score, np.broadcast_to(expected, (64, 64)), atol=1e-6)


def test_probabilities_or_logits_are_averaged():
    """Views that say logit 4 and 0: the mean probability is (0.982 + 0.5) / 2, that of the mean logit 0.881."""

    def step(tensor):
        return torch.tensor([4.0, 0.0]).repeat_interleave(32).expand(len(tensor), 1, 64, 64)

    slices = random_slices(1, (64, 64))
    for average, expected in (("probability", 0.7410069), ("logit", 0.8807971)):
        inference = Inference(tta="flips", average=average, device="cpu")
        (probability,) = predictor_of(step, inference)(slices, EIGHT_BIT, inference)
        np.testing.assert_allclose(probability, expected, rtol=1e-5)


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
@pytest.mark.parametrize("region", ["whole", "windows"])
def test_channels_show_neighbours(depth, region):
    """A model that answers with one channel gives the slice at that offset, the last one beyond the end."""
    slices, inference = random_slices(depth, (64, 64)), Inference(importance="constant", **LOGITS)
    for channel, offset in enumerate((-2, 0, 1)):
        predictor = predictor_of(lambda tensor, c=channel: tensor[:, c : c + 1], inference, region, offsets=(-2, 0, 1))
        scores = list(predictor.score(slices, EIGHT_BIT, inference))
        expected = images_of(slices)[np.clip(np.arange(depth) + offset, 0, depth - 1)]
        np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("offsets", [(-1, 0, 1), (0, 0, 0), (0, 2)])
def test_outputs_for_all_slices_are_averaged(depth, offsets):
    """A model that says of each slice the slice plus its channel's number: each slice gets the mean of who saw it."""
    inference = Inference(importance="constant", sw_batch_size=3, **LOGITS)
    slices = random_slices(depth, (64, 96))
    channels = torch.arange(len(offsets)).view(-1, 1, 1)
    predictor = predictor_of(
        lambda tensor: tensor + channels, inference, channels=len(offsets), offsets=offsets, outputs="all"
    )
    seen = [[c for c, offset in enumerate(offsets) if 0 <= z - offset < depth] for z in range(depth)]
    expected = images_of(slices) + np.array([np.mean(channels) for channels in seen])[:, None, None]
    np.testing.assert_allclose(list(predictor.score(slices, EIGHT_BIT, inference)), expected, atol=1e-6)


def test_slices_of_other_sizes_are_no_neighbours():
    sizes = [(64, 64), (64, 64), (70, 50), (70, 50)]
    slices = [random_slices(4, size)[z] for z, size in enumerate(sizes)]
    inference = Inference(**LOGITS)
    predictor = predictor_of(lambda tensor: tensor[:, 2:], inference, offsets=(-1, 0, 1))
    for score, z in zip(predictor.score(slices, EIGHT_BIT, inference), (1, 1, 3, 3), strict=True):
        np.testing.assert_allclose(score, images_of([slices[z]])[0], atol=1e-6)


def test_a_model_of_one_output_cannot_answer_for_all():
    inference = Inference(device="cpu")
    predictor = predictor_of(first_channel, inference, offsets=(-1, 0, 1), outputs="all")
    with pytest.raises(InputError, match="outputs 'all' needs a model with 3 outputs.* got 1"):
        predictor(random_slices(1), EIGHT_BIT, inference)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("region", ["whole", "windows"])
@pytest.mark.parametrize("outputs", ["centre", "all"])
def test_slices_are_read_once_in_order_and_not_far_ahead(region, outputs, threads):
    """When slice z is handed on, what has been read is z, the offsets' reach, and what fills a batch in each thread."""
    read = []

    def slices():
        for z in range(40):
            read.append(z)
            yield np.full((8, 8), z, np.uint8) + np.eye(8, dtype=np.uint8)

    inference = Inference(batch_size=2, sw_batch_size=2, **LOGITS)
    predictor = replace(
        predictor_of(lambda t: t, inference, region, offsets=(-1, 0, 1), outputs=outputs), threads=threads
    )
    predictor.model.function = (lambda t: t[:, 1:2]) if outputs == "centre" else (lambda t: t)
    for z, _ in enumerate(predictor.score(slices(), EIGHT_BIT, inference)):
        assert len(read) <= z + 1 + 2 + 2 * (threads if threads == 1 else threads + 1)
    assert read == list(range(40))


def test_batches_cross_slices_and_change_nothing():
    """4 windows a slice, 3 slices: 12 windows; the last batch is filled up, so that all are of one shape."""
    slices = random_slices(3, (100, 100))
    scores = {}
    for size, batches in ((1, [1] * 12), (None, [1] * 12), (5, [5, 5, 5]), (64, [64])):
        inference = Inference(sw_batch_size=size, **LOGITS)
        predictor = predictor_of(first_channel, inference)
        scores[size] = list(predictor.score(slices, EIGHT_BIT, inference))
        assert [shape[0] for shape in predictor.model.shown] == batches
        np.testing.assert_array_equal(scores[size], scores[1])


@pytest.mark.parametrize("region", ["whole", "windows"])
def test_threads_change_nothing(region):
    """As many batches at once as there are threads, each in one thread of its own on its share of the cores."""
    slices, seen, most, busy = random_slices(12, (100, 100)), set(), [], []
    lock, inference = threading.Lock(), Inference(sw_batch_size=1, **LOGITS)
    cores = torch.get_num_threads()

    def slow(tensor):
        with lock:
            busy.append(True)
            most.append(len(busy))
            seen.add((threading.get_ident(), torch.get_num_threads()))
        time.sleep(0.005)
        with lock:
            busy.pop()
        return first_channel(tensor)

    scores = {}
    for threads in (1, 3):
        seen.clear(), most.clear()
        predictor = replace(predictor_of(slow, inference, region), threads=threads)
        scores[threads] = list(predictor.score(slices, EIGHT_BIT, inference))
        assert len(seen) == max(most) == threads
        assert {count for _, count in seen} == {cores if threads == 1 else max(1, cores // 3)}
        assert torch.get_num_threads() == cores and most_threads_of_a_new_one() == cores
    np.testing.assert_array_equal(scores[1], scores[3])


def test_threads_do_not_wait_where_another_size_begins():
    """Two slices of two sizes are in the model at once: either waits there for the other."""
    both = threading.Barrier(2, timeout=30)
    meet = predictor_of(lambda t: both.wait() * 0 + t[:, :1], Inference(**LOGITS), "whole", roi_size=32)
    slices = [*random_slices(1, (32, 32)), *random_slices(1, (40, 48))]
    scores = list(replace(meet, threads=2).score(slices, EIGHT_BIT, Inference(**LOGITS)))
    assert [tuple(score.shape) for score in scores] == [(32, 32), (40, 48)]


def most_threads_of_a_new_one():
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(torch.get_num_threads).result()


@pytest.mark.parametrize("region", ["whole", "windows"])
def test_a_failure_in_a_thread_comes_out(region):
    def fail(tensor):
        raise RuntimeError("out of memory")

    predictor = replace(predictor_of(fail, Inference(**LOGITS), region), threads=2)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(predictor.score(random_slices(9), EIGHT_BIT, Inference(**LOGITS)))


def test_leaving_out_the_background_changes_nothing_but_the_work():
    """A phantom kidney and a model that finds bright walls: the same masks from a fifth less windows."""
    slices = [slice_ for slice_, _ in phantom_slices(Phantom(shape=(3, 384, 320)))]
    preprocessing = Preprocessing(region="windows", roi_size=32, mean=(0.0,), std=(1.0,))
    inference = Inference(device="cpu", sw_batch_size=1, importance="constant", overlap=0)
    shown, probabilities = [], []
    for background in (None, measure_background(slices)):
        walls = Model(lambda image: 50 * (nn.functional.avg_pool2d(image, 3, 1, 1) - 0.8))
        predictor = create_predictor(walls, preprocessing, 0.5, inference)
        scores = predictor.score(slices, IntensityRange(20500, 29500), inference, background)
        probabilities.append(np.stack(list(scores)))
        shown.append(sum(shape[0] for shape in walls.shown))
    everything, less = probabilities
    assert shown[0] == 3 * 12 * 10 and shown[1] <= 0.8 * shown[0]
    assert (less[less != everything] == 0).all() and np.abs(less - everything).max() < 1e-6
    np.testing.assert_array_equal(less > 0.5, everything > 0.5)
    assert (less > 0.5).sum() > 500


def test_a_stretch_of_background_is_not_shown_and_holds_nothing_back():
    slices = [np.zeros((64, 64), np.uint8)] * 20
    slices[0] = random_slices(1, (64, 64))[0]
    inference, read = Inference(sw_batch_size=4, device="cpu"), []
    predictor = predictor_of(first_channel, inference)
    stream = predictor.score(
        (read.append(z) or slice_ for z, slice_ in enumerate(slices)), EIGHT_BIT, inference, np.float32(-np.inf)
    )
    for z, score in enumerate(stream):
        assert len(read) <= z + 3
        assert (score == 0).all() == (z > 0)
    assert predictor.model.shown == [(4, 1, 64, 64)]  # one window, and what fills the batch


@pytest.mark.parametrize("average", ["probability", "logit"])
def test_background_is_no_vessel_whatever_is_averaged(average):
    """The model calls everything vessel; its one window is left out, so the answer is not its own."""
    inference = Inference(average=average, device="cpu")
    predictor = predictor_of(lambda tensor: torch.full_like(tensor[:, :1], 5), inference)
    slices = [np.zeros((64, 64), np.uint8)]
    for background, expected in ((None, 1 / (1 + np.exp(-5))), (np.float32(-np.inf), 0)):
        (score,) = predictor.score(slices, EIGHT_BIT, inference, background)
        np.testing.assert_allclose(to_probability(score, inference), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("region", ["whole", "windows"])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_reduced_precision_runs_and_agrees(region, precision):
    torch.manual_seed(0)
    model = create_model("unet", widths=[4, 8], bottleneck=8)
    preprocessing = Preprocessing(region=region, roi_size=64)
    full, half = (
        create_predictor(model, preprocessing, 0.5, Inference(device="cpu", precision=name))(
            random_slices(1), EIGHT_BIT
        )[0]
        for name in ("float32", precision)
    )
    assert half.dtype == np.float32 and not np.array_equal(full, half)  # it did run in another precision
    np.testing.assert_allclose(full, half, atol=0.05)
