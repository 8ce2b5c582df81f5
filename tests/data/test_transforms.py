import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sennet_kaggle.config import IMAGENET_STD, Preprocessing
from sennet_kaggle.data.bits import fetch_mask, pack_bits, unpack_bits
from sennet_kaggle.data.intensity import IntensityRange, grey_levels, measure_intensity, slice_to_image
from sennet_kaggle.data.neighbours import read_stack, stack_neighbours
from sennet_kaggle.data.resizing import resize_image, resize_map, resize_probability, resize_slice
from sennet_kaggle.data.transforms import image_to_tensor, mask_to_target
from sennet_kaggle.data.volume import open_volume

REPORT = Preprocessing(intensity="eight_bit")
ONE_8_BIT_STEP = 1 / 255 / min(IMAGENET_STD)


def to_tensor(slice_, preprocessing):
    intensity = measure_intensity([slice_], preprocessing)
    return image_to_tensor(slice_to_image(slice_, intensity, preprocessing), preprocessing)


def huggingface_tensor(image_8bit: np.ndarray) -> torch.Tensor:
    from transformers import SegformerImageProcessor

    processor = SegformerImageProcessor(size={"height": 512, "width": 512}, do_reduce_labels=False)
    return processor(images=np.repeat(image_8bit[..., None], 3, 2), return_tensors="pt")["pixel_values"][0]


@pytest.mark.parametrize("size", [(1303, 912), (512, 512), (300, 410)])
def test_report_preprocessing_equals_huggingface(size):
    """The processor rounds to 8 bits after its resize and we do not, so they differ by a grey level at most."""
    noise = np.random.default_rng(0).integers(0, 2**16, (size[0] // 4, size[1] // 4)).astype(np.uint16)
    slice_ = cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)
    ours = to_tensor(slice_, REPORT)
    theirs = huggingface_tensor((slice_ >> 8).astype(np.uint8))
    assert ours.shape == theirs.shape == (3, 512, 512)
    assert (ours - theirs).abs().max() <= ONE_8_BIT_STEP
    assert ours.std() > 20 * ONE_8_BIT_STEP


def test_report_preprocessing_equals_huggingface_on_a_real_slice(data_dir):
    volume = open_volume(data_dir / "train" / "kidney_2")
    image_8bit = cv2.imread(str(volume.image_paths[1]))[..., 0]  # OpenCV's default: 8 bits are left
    difference = (to_tensor(volume[1], REPORT) - huggingface_tensor(image_8bit)).abs()
    assert difference.max() <= ONE_8_BIT_STEP


def test_eight_bit_slices_are_taken_as_they_are():
    slice_ = np.array([[0, 51], [102, 255]], np.uint8)
    image = slice_to_image(slice_, measure_intensity([slice_], REPORT), REPORT)
    np.testing.assert_allclose(image, [[0, 0.2], [0.4, 1]], atol=1e-7)
    np.testing.assert_array_equal(
        slice_to_image(slice_.astype(np.uint16) << 8 | 17, IntensityRange(0, 255), REPORT), image
    )


def test_percentiles_become_0_and_1():
    """Grey values 0..10000 in equal numbers: the 10th percentile is 1000, the 99.8th 9980."""
    ramp = np.arange(10001, dtype=np.uint16)
    slices = [np.tile(np.repeat(ramp, 4), (4, 1)) for _ in range(3)]
    intensity = measure_intensity(slices, Preprocessing())
    assert intensity == IntensityRange(1000, 9980)
    image = slice_to_image(np.array([[1000, 9980, 5490, 0]], np.uint16), intensity, Preprocessing())
    np.testing.assert_allclose(image, [[0, 1, 0.5, -1000 / 8980]], rtol=1e-6)


def test_intensity_reads_at_most_16_slices_of_any_depth():
    class Counting(list):
        reads = 0

        def __getitem__(self, z):
            self.reads += 1
            return super().__getitem__(z)

    for depth, reads in ((1, 1), (3, 3), (200, 16)):
        slices = Counting([np.arange(64, dtype=np.uint16).reshape(8, 8)] * depth)
        measure_intensity(slices, Preprocessing())
        assert slices.reads == reads


def test_a_blank_volume_stays_finite():
    blank = np.full((9, 9), 500, np.uint16)
    assert np.isfinite(slice_to_image(blank, measure_intensity([blank], Preprocessing()), Preprocessing())).all()


def test_channels_have_their_own_mean_and_std():
    preprocessing = Preprocessing(intensity="eight_bit", roi_size=8, mean=(0.0, 0.5), std=(1.0, 0.25))
    tensor = to_tensor(np.full((8, 8), 255, np.uint8), preprocessing)
    assert preprocessing.in_channels == 2
    torch.testing.assert_close(tensor[:, 0, 0], torch.tensor([1.0, 2.0]))


def test_an_image_of_the_models_size_stays_as_it_is():
    """So an image resized before (the cache's) is not resized again."""
    image = np.random.default_rng(0).standard_normal((61, 95)).astype(np.float32)
    once = resize_image(image, Preprocessing(roi_size=32))
    assert once.shape == (1, 32, 32)
    assert np.shares_memory(resize_image(once[0], Preprocessing(roi_size=32)), once)


def test_masks_keep_to_0_and_1():
    mask = np.random.default_rng(0).random((61, 95)) < 0.5
    target = mask_to_target(mask, Preprocessing(roi_size=32))
    assert target.shape == (1, 32, 32) and target.dtype == torch.float32
    assert set(target.unique().tolist()) == {0.0, 1.0}
    same = mask_to_target(mask[:32, :32], Preprocessing(roi_size=32))
    np.testing.assert_array_equal(same[0].numpy() == 1, mask[:32, :32])


def test_windows_keep_the_size_of_the_slice():
    preprocessing = Preprocessing(region="windows", roi_size=8, offsets=(-1, 0, 1), mean=(0.5,), std=(0.25,))
    stack = np.random.default_rng(0).random((3, 20, 31), dtype=np.float32)
    np.testing.assert_allclose(image_to_tensor(stack, preprocessing), (stack - 0.5) / 0.25, rtol=1e-6)
    assert preprocessing.in_channels == 3
    mask = stack[0] < 0.5
    np.testing.assert_array_equal(mask_to_target(mask, preprocessing)[0], mask)


@pytest.mark.parametrize(
    ("depth", "z", "expected"),
    [(5, 2, [0, 2, 3]), (5, 0, [0, 0, 1]), (5, 4, [2, 4, 4]), (3, 1, [0, 1, 2]), (1, 0, [0, 0, 0])],
)
def test_a_stack_repeats_the_last_slice_beyond_the_end(depth, z, expected):
    """Offsets -2, 0 and 1; slice z is all z."""
    preprocessing = Preprocessing(intensity="eight_bit", offsets=(-2, 0, 1))
    slices = [np.full((2, 3), value, np.uint8) for value in range(depth)]
    stack = read_stack(slices, z, preprocessing)
    np.testing.assert_array_equal(stack[:, 0, 0], expected)
    np.testing.assert_array_equal(list(stack_neighbours(slices, preprocessing))[z], stack)


@pytest.mark.parametrize("intensity", ["eight_bit", "percentile"])
@pytest.mark.parametrize("region", ["whole", "windows"])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_values_need_no_image_in_between(intensity, region, channels):
    """Scaled after the resizing instead of before, the tensor is the same to a few roundings of its largest values."""
    preprocessing = Preprocessing(
        intensity=intensity, region=region, roi_size=40, mean=(0.4, 0.5, 0.6)[:channels], std=(0.2, 0.3, 0.4)[:channels]
    )
    slice_ = np.random.default_rng(0).integers(20000, 30000, (97, 61), dtype=np.uint16)
    range_ = measure_intensity([slice_], preprocessing)
    grey = grey_levels(slice_, preprocessing)
    assert grey.dtype == (np.uint8 if intensity == "eight_bit" else np.uint16)
    tensor = image_to_tensor(grey, preprocessing, intensity=range_)
    expected = image_to_tensor(slice_to_image(slice_, range_, preprocessing), preprocessing)
    assert tensor.shape == (channels, *((40, 40) if region == "whole" else slice_.shape)) and tensor.std() > 0.01
    assert tensor[None].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-5)


def test_eight_bits_are_the_high_ones():
    report = Preprocessing(intensity="eight_bit")
    np.testing.assert_array_equal(grey_levels(np.array([0, 255, 256, 65535], np.uint16), report), [0, 0, 1, 255])
    for same in (np.array([0, 255], np.uint8), np.float32(-np.inf)):
        assert grey_levels(same, report) is same
    wide = np.array([65535], np.uint16)
    assert grey_levels(wide, Preprocessing()) is wide


@pytest.mark.parametrize("size, new_size", [((97, 127), (64, 200)), ((1303, 912), (512, 512)), ((3, 1), (1, 4))])
def test_a_slice_is_resampled_as_torch_does_it(size, new_size):
    slice_ = np.random.default_rng(0).integers(0, 1000, size, dtype=np.uint16)
    image = torch.from_numpy(slice_.astype(np.float32))[None, None]
    expected = F.interpolate(image, new_size, mode="bilinear", antialias=True)[0, 0].numpy()
    np.testing.assert_allclose(resize_slice(slice_, *new_size), expected, rtol=0, atol=0.501)


def test_a_slice_is_resampled_in_its_own_dtype():
    ramp = np.arange(0, 4000, 100, dtype=np.uint16)[None].repeat(6, 0)
    half = resize_slice(ramp, 3, 20)
    assert half.dtype == np.uint16 and half.shape == (3, 20)
    np.testing.assert_allclose(half[1, 1:-1], ramp[0, 2:-2:2] + 50, atol=1)
    assert resize_slice(ramp, 6, 40) is ramp


def test_image_mask_and_probability_stay_aligned():
    """A disc that goes through the resize and back sits where it was."""
    y, x = np.mgrid[:300, :200]
    mask = (y - 90) ** 2 + (x - 140) ** 2 < 30**2
    target = mask_to_target(mask, Preprocessing(roi_size=128))[0].numpy()
    image = image_to_tensor(mask.astype(np.float32), Preprocessing(roi_size=128, mean=(0.0,), std=(1.0,)))[0].numpy()
    for resized in (target, image):
        back = resize_probability(resized, 300, 200)
        assert back.shape == (300, 200)
        weight = back / back.sum()
        assert abs((weight * y).sum() - 90) < 0.5 and abs((weight * x).sum() - 140) < 0.5


@pytest.mark.parametrize("size", [(1, 1), (3, 8), (61, 95)])
def test_a_mask_travels_in_bits(size):
    """What a GPU does, on the CPU; the probability 0.5 itself is below, and so is what is not a number."""
    probability = torch.rand(size, generator=torch.Generator().manual_seed(0))
    probability[0, 0] = 0.5
    probability[-1, -1] = float("nan")
    mask = fetch_mask(probability, 0.5)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, probability.numpy() > 0.5)
    packed = pack_bits(torch.from_numpy(mask)).numpy()
    np.testing.assert_array_equal(packed, np.packbits(mask))
    np.testing.assert_array_equal(unpack_bits(packed, size), mask)


@pytest.mark.parametrize("size", [(64, 48), (97, 127), (20, 31)])
def test_opencv_and_torch_resize_a_map_alike(size):
    """The CPU's way and the GPU's."""
    map_ = torch.rand(64, 48, generator=torch.Generator().manual_seed(0))
    torch_way = F.interpolate(map_[None, None], size, mode="bilinear")[0, 0]
    torch.testing.assert_close(resize_map(map_, *size), torch_way, rtol=0, atol=1e-4 if size != (64, 48) else 0)
