import numpy as np
import pytest

from sennet_kaggle.data.augment import augment_pair, cut_window, draw_window, vary_light

GREY = np.arange(60 * 80, dtype=np.uint16).reshape(60, 80)


def test_image_and_mask_are_varied_alike():
    """Where the mask is, the image stays bright; what lies outside the slice is never labelled."""
    mask = np.zeros((60, 80), bool)
    mask[10:30, 50:] = True
    sizes = set()
    for seed in range(50):
        image, varied = augment_pair(mask.astype(np.float32)[None], mask, np.random.default_rng(seed))
        (image,) = image
        assert image.shape == varied.shape and image.dtype == np.float32 and varied.dtype == np.bool_
        sizes.add(image.shape)
        bright = image > (image.min() + image.max()) / 2
        if varied.any() and not varied.all():
            assert bright[varied].all()
            # Beyond the slice the border is repeated, so brightness there may go on without a label.
            assert bright.sum() >= varied.sum()
    assert len(sizes) > 20


def test_a_window_without_variation_is_a_piece_of_the_slice():
    """Placed by hand: the window whose centre is (20.5, 30.5) and whose side is 6 is rows 18..23, columns 28..33."""
    placement = np.array([[1.0, 0.0, 28.0], [0.0, 1.0, 18.0]])
    np.testing.assert_array_equal(cut_window(GREY, placement, 6), GREY[18:24, 28:34])
    mask = GREY % 3 == 0
    np.testing.assert_array_equal(cut_window(mask, placement, 6), mask[18:24, 28:34])


def test_beyond_the_slice_the_border_is_repeated_and_nothing_is_labelled():
    placement = np.array([[1.0, 0.0, -2.0], [0.0, 1.0, 0.0]])
    window, label = cut_window(GREY, placement, 4), cut_window(np.ones(GREY.shape, bool), placement, 4)
    assert window[:, 0].tolist() == window[:, 2].tolist() == GREY[:4, 0].tolist()
    assert label.tolist() == 4 * [[False, False, True, True]]


@pytest.mark.parametrize("zoom_range", [None, (0.5, 1.5)])
def test_half_of_the_windows_meet_the_only_vessel(zoom_range):
    mask = np.zeros((400, 500), bool)
    mask[100:104, 300:304] = True
    rng = np.random.default_rng(0)
    met = [cut_window(mask, draw_window(mask, 64, zoom_range, rng), 64).any() for _ in range(200)]
    assert 0.4 < np.mean(met) < 0.75


def test_windows_stay_within_a_slice_that_holds_them():
    mask = np.zeros((90, 70), bool)
    inside = np.ones_like(mask)
    rng = np.random.default_rng(1)
    for _ in range(50):
        assert cut_window(inside, draw_window(mask, 64, None, rng), 64).all()


def test_windows_are_turned_mirrored_and_zoomed():
    rng = np.random.default_rng(2)
    linear = np.array([draw_window(np.zeros((300, 300), bool), 64, (0.5, 1.5), rng)[:, :2] for _ in range(300)])
    determinants = np.linalg.det(linear)
    zoom = 1 / np.sqrt(np.abs(determinants))
    assert 0.49 < zoom.min() < 0.55 and 1.4 < zoom.max() < 1.51
    assert 0.4 < np.mean(determinants > 0) < 0.6
    angles = np.arctan2(linear[:, 1, 0], linear[:, 0, 0])
    assert np.histogram(angles, 4, (-np.pi, np.pi))[0].min() > 40


def test_image_and_mask_of_a_window_fit_each_other():
    rows, columns = np.mgrid[:200, :220]
    mask = (rows - 90) ** 2 + (columns - 120) ** 2 < 30**2
    grey = np.where(mask, 30000, 10000).astype(np.uint16)
    rng = np.random.default_rng(3)
    for _ in range(20):
        placement = draw_window(mask, 96, (0.5, 2.0), rng)
        window, label = cut_window(grey, placement, 96), cut_window(mask, placement, 96)
        assert np.mean((window > 20000) == label) > 0.98


def test_light_is_varied_within_bounds_and_alike_in_all_channels():
    image = np.repeat(np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8), 3, axis=0)
    varied = [vary_light(image, 1.0, 0.05, np.random.default_rng(seed)) for seed in range(60)]
    assert all(each.dtype == np.float32 and each.shape == image.shape for each in varied)
    assert max(np.abs(each - image).max() for each in varied) < 0.7
    alike = [np.array_equal(each[0], each[2]) for each in varied]
    assert 0.5 < np.mean(alike) < 0.9  # the others have noise, which is each channel's own
    assert len({each.tobytes() for each in varied}) == 60
    for seed in range(60):  # a tenth of the strength, a tenth of the change; none, none
        faint, none = (vary_light(image, s, s / 20, np.random.default_rng(seed)) for s in (0.1, 0.0))
        assert np.abs(faint - image).max() < 0.2
        np.testing.assert_allclose(none, image, atol=1e-6)
