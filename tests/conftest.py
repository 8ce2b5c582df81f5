"""Shared fixtures: the real slices where they are, small synthetic ones everywhere."""

import logging
import os
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
# Segment Anything's real classes with an image encoder of two blocks.
SMALL_SAM = {
    "image_size": 128,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "global_attn_indexes": [1],
    "points_per_side": 2,
}
DATA_DIR = Path(os.environ.get("SENNET_DATA_DIR", REPOSITORY.parent / "shared" / "data"))
WEIGHTS_DIR = Path(os.environ.get("SENNET_WEIGHTS_DIR", REPOSITORY.parent / "shared" / "weights"))


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """Published weights; tests that ask for them are skipped where there are none."""
    if not WEIGHTS_DIR.is_dir():
        pytest.skip(f"no published weights at {WEIGHTS_DIR}: set SENNET_WEIGHTS_DIR")
    return WEIGHTS_DIR


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real slices; tests that ask for it are skipped where there are none."""
    if not DATA_DIR.is_dir():
        pytest.skip(f"no real slices at {DATA_DIR}: set SENNET_DATA_DIR")
    return DATA_DIR


@pytest.fixture(autouse=True)
def messages_as_before():
    """A command shows the package's messages from then on; one that a test has run, until the test's end."""
    messages = logging.getLogger("sennet_kaggle")
    handlers, level = messages.handlers, messages.level
    yield
    messages.handlers = handlers
    messages.setLevel(level)


@pytest.fixture(scope="module")
def one_thread():
    """For tensors as small as the tests' threads only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def write_kidney():
    """Writes a kidney folder of random slices; returns (images, masks), each (D, H, W)."""

    def write(kidney_dir: Path, depth: int = 3, size: tuple[int, int] = (40, 31), labels: bool = True, first: int = 0):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 2**16, (depth, *size), dtype=np.uint16)
        masks = rng.random((depth, *size)) < 0.1
        for z in range(depth):
            write_tiff(kidney_dir / "images" / f"{first + z:04d}.tif", images[z])
            if labels:
                write_tiff(kidney_dir / "labels" / f"{first + z:04d}.tif", masks[z].astype(np.uint8) * 255)
        return images, masks

    return write


def write_tiff(path: Path, array: np.ndarray, compression: int = 1) -> None:
    """Writes a TIFF with OpenCV: compression 1 none, 5 LZW, 8 deflate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array, [cv2.IMWRITE_TIFF_COMPRESSION, compression])


def watched(volume):
    """A volume that counts in `alive` how many of the arrays that it has read are there at once."""
    alive = {"now": 0, "most": 0}

    def gone():
        alive["now"] -= 1

    def count(array):
        weakref.finalize(array, gone)
        alive["now"] += 1
        alive["most"] = max(alive["most"], alive["now"])
        return array

    from sennet_kaggle.data.volume import Volume

    class Watched(Volume):
        def __getitem__(self, z):
            return count(super().__getitem__(z))

        def label(self, z):
            return count(super().label(z))

    found = Watched(volume.name, volume.image_paths, volume.label_paths)
    object.__setattr__(found, "alive", alive)
    return found
