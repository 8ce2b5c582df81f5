import numpy as np
import pytest
import torch

from sennet_kaggle.config import Preprocessing
from sennet_kaggle.dataset import SliceDataset, augment_pair
from sennet_kaggle.errors import InputError
from sennet_kaggle.volume import open_volume

PREPROCESSING = Preprocessing(roi_size=32)


@pytest.fixture
def volume(tmp_path, write_kidney):
    write_kidney(tmp_path / "k", depth=4, size=(50, 40))
    (tmp_path / "k" / "labels" / "0003.tif").unlink()
    return open_volume(tmp_path / "k")


def test_pairs(volume):
    dataset = SliceDataset([volume], PREPROCESSING)
    assert list(dataset.slices) == ["k_0000", "k_0001", "k_0002"]  # 0003 is unlabelled
    image, target = dataset[1]
    assert image.shape == (3, 32, 32) and image.dtype == torch.float32
    assert target.shape == (1, 32, 32) and set(target.unique().tolist()) == {0.0, 1.0}


def test_selection(volume):
    assert list(SliceDataset([volume], PREPROCESSING, exclude=["k_0001"]).slices) == ["k_0000", "k_0002"]
    assert list(SliceDataset([volume], PREPROCESSING, only=["k_0001"]).slices) == ["k_0001"]
    with pytest.raises(InputError, match="k_0003 is not a labelled slice: expected one of k_0000, k_0001, k_0002"):
        SliceDataset([volume], PREPROCESSING, exclude=["k_0003"])
    with pytest.raises(InputError, match="no labelled slice is left in k"):
        SliceDataset([volume], PREPROCESSING, exclude=["k_0000", "k_0001", "k_0002"])


def test_augmentation_depends_on_seed_epoch_and_index_alone(volume):
    def draw(seed, epoch, index):
        dataset = SliceDataset([volume], PREPROCESSING, augment=True, seed=seed)
        dataset.epoch = epoch
        return dataset[index][0]

    torch.testing.assert_close(draw(0, 1, 2), draw(0, 1, 2), rtol=0, atol=0)
    for other in ((1, 1, 2), (0, 2, 2)):
        assert not torch.equal(draw(0, 1, 2), draw(*other))


def test_image_and_mask_are_varied_alike():
    """Where the mask is, the image stays bright; what lies outside the slice is never labelled."""
    mask = np.zeros((60, 80), bool)
    mask[10:30, 50:] = True
    sizes = set()
    for seed in range(50):
        image, varied = augment_pair(mask.astype(np.float32), mask, np.random.default_rng(seed))
        assert image.shape == varied.shape and image.dtype == np.float32 and varied.dtype == np.bool_
        sizes.add(image.shape)
        bright = image > (image.min() + image.max()) / 2
        if varied.any() and not varied.all():
            assert bright[varied].all()
            # Beyond the slice the border is repeated, so brightness there may go on without a label.
            assert bright.sum() >= varied.sum()
    assert len(sizes) > 20
