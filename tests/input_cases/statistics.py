"""What enters the statistics of a volume."""

import cv2
import numpy as np
from conftest import write_tiff

from . import PREDICT, Case


def _change(change):
    """Replaces each test slice by what a function makes of it."""

    def prepare(folder):
        for path in sorted((folder / "data/test/kidney_5/images").iterdir()):
            write_tiff(path, change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))

    return prepare


def _clipped(slice_):
    slice_[slice_ < 6000] = 0  # a tenth of them
    return slice_


def _blank_labelled(folder):
    for path in sorted((folder / "data/train/kidney_1/images").iterdir()):
        write_tiff(path, np.full((40, 31), 9, np.uint16))


TITLE = "What enters the statistics of a volume"
CASES = [
    Case(
        "slices in a box of 65535",
        PREDICT,
        prepare=_change(lambda slice_: np.pad(slice_, 20, constant_values=65535)),
        refused=False,
    ),
    Case(
        "a tenth of the pixels clipped to 0",
        PREDICT,
        "kidney_5: expected a scan's grey values, found 10 % of them at exactly 0",
        _change(_clipped),
        refused=False,
    ),
    Case(
        "slices of one value each",
        PREDICT,
        "kidney_5: expected a scan, found slices of one grey value each",
        _change(lambda slice_: 0 * slice_),
        refused=False,
    ),
    Case("a kidney of one value, measured", "stats --data-dir data", "found one value alone", _blank_labelled),
]
