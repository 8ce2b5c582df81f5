import numpy as np
import pytest

from sennet_kaggle.metrics import dice_coefficient


def mask_of(*rows: str) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in row] for row in rows])


@pytest.mark.parametrize(
    ("mask_gt", "mask_pred", "dice"),
    [
        pytest.param(mask_of("##.", "..."), mask_of("##.", "..."), 1.0, id="equal"),
        pytest.param(mask_of("##.", "..."), mask_of(".##", "..."), 0.5, id="one of two in common"),
        pytest.param(mask_of("##.", "#.."), mask_of("#..", "..."), 0.5, id="2*1/(3+1)"),
        pytest.param(mask_of("##.", "..."), mask_of("...", ".##"), 0.0, id="disjoint"),
        pytest.param(mask_of("#..", "..."), mask_of("...", "..."), 0.0, id="nothing predicted"),
        pytest.param(mask_of("...", "..."), mask_of("..#", "..."), 0.0, id="nothing there"),
        pytest.param(mask_of("...", "..."), mask_of("...", "..."), 1.0, id="both empty"),
    ],
)
def test_dice_by_hand(mask_gt, mask_pred, dice):
    assert dice_coefficient(mask_gt, mask_pred) == dice
    assert dice_coefficient(mask_pred, mask_gt) == dice


def test_dice_rejects_other_shapes_and_dtypes():
    with pytest.raises(ValueError, match="one shape"):
        dice_coefficient(np.zeros((2, 3), bool), np.zeros((3, 2), bool))
    with pytest.raises(ValueError, match="must be bool"):
        dice_coefficient(np.zeros((2, 3)), np.zeros((2, 3), bool))
