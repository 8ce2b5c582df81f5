"""Whatever stands in a file, its reader gives a value or our own InputError of one line: nothing else comes out."""

import json
import struct
from collections.abc import Callable

import numpy as np
import pytest
import tifffile
from conftest import write_tiff
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sennet_kaggle.config import Preprocessing
from sennet_kaggle.data.tiff import read_grey, read_mask, read_size
from sennet_kaggle.data.volume import Volume
from sennet_kaggle.errors import InputError
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, load_checkpoint, read_card, save_checkpoint
from sennet_kaggle.submission.rle import rle_decode, rle_encode
from sennet_kaggle.submission.submission import read_submission, validate_submission

HEIGHT, WIDTH = 5, 7
ARGUMENTS = {"in_channels": 1, "widths": [1], "bottleneck": 1}
CARD = Card("unet", ARGUMENTS, Preprocessing(mean=(0.0,), std=(1.0,)), 0.5)
# Numbers at which counts, offsets and lengths go wrong, as they stand in a TIFF and in a safetensors header.
_EDGES = [struct.pack(form, n) for form in ("<H", "<I", ">I", "<Q") for n in (0, 1, 2, 2**15, 2**16 - 1)]
_EDGES += [struct.pack(form, n) for form in ("<I", ">I", "<Q") for n in (2**24, 2**31, 2**32 - 1)]


def fuzz(examples: int) -> Callable:
    """The same inputs at every run, in bounded number."""
    quiet = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large)
    return settings(max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=quiet)


@st.composite
def damaged(draw, originals: list[bytes]) -> bytes:
    """A file with a few places overwritten, and sometimes cut."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        new = draw(st.sampled_from(_EDGES) | st.binary(min_size=1, max_size=4))
        content[at : at + len(new)] = new
    return bytes(content[: draw(st.none() | st.integers(0, len(content)))])


def read_or_refuse(read: Callable, *arguments):
    """The value, or None where the reader refuses in one line."""
    try:
        return read(*arguments)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return None


@st.composite
def almost_runs(draw) -> str:
    """Pairs in ascending order, save that a gap or a length may be just too small, or one number anything."""
    numbers, end = [], 1
    for gap, length in draw(st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 5)), min_size=1, max_size=6)):
        numbers += [max(end + gap, 0), length]
        end = numbers[-2] + length
    at = draw(st.none() | st.integers(0, len(numbers) - 1))
    if at is not None:
        numbers[at] = draw(st.integers(0, 40) | st.sampled_from([2**31, 2**63 - 1, 2**63, 2**64, 2**65]))
    return " ".join(map(str, numbers))


rles = almost_runs() | st.text("0123456789 ", max_size=40) | st.text(max_size=30)


@given(rles)
@fuzz(500)
def test_rle(rle):
    mask = read_or_refuse(rle_decode, rle, HEIGHT, WIDTH)
    if mask is not None:
        assert mask.shape == (HEIGHT, WIDTH)
        np.testing.assert_array_equal(rle_decode(rle_encode(mask), HEIGHT, WIDTH), mask)


cells = st.one_of(rles, st.sampled_from(["id", "rle", "k_0000", "k_0001", '"', '""', "k\n0000", "\x00", "\ufeffid"]))
tables = st.lists(st.lists(cells, max_size=4).map(",".join), max_size=5).map("\n".join)
submissions = st.one_of(
    tables.map(lambda text: f"id,rle\n{text}".encode("utf-8", "surrogatepass")),
    tables.map(lambda text: text.encode("utf-8", "surrogatepass")),
    damaged([b"id,rle\nk_0000,1 0\nk_0001,1 2 5 1\n", b'id,rle,height\r\n"k_0000","1 0",5\r\n']),
    st.binary(max_size=60),
)


@given(content=submissions)
@example(content=b'id,rle\n"k\n0000",1 0\n')
@example(content=b"id,rle\n" + b"k" * 5000 + b",1 0\n")
@fuzz(300)
def test_submission(tmp_path, content):
    path = tmp_path / "submission.csv"
    path.write_bytes(content)
    for name in ("0000", "0001"):
        image_path = tmp_path / f"{name}.tif"
        if not image_path.exists():
            write_tiff(image_path, np.zeros((HEIGHT, WIDTH), np.uint16))
    rows = read_or_refuse(lambda: list(read_submission(path)))
    problems = read_or_refuse(validate_submission, path, [Volume("k", (tmp_path / "0000.tif", tmp_path / "0001.tif"))])
    assert (rows is None) == (problems is None)
    assert not any("\n" in problem or len(problem) > 1000 for problem in problems or [])


@pytest.fixture(scope="module")
def tiffs(tmp_path_factory) -> list[bytes]:
    """Small slices in every form that is read: the header is most of the file."""
    path = tmp_path_factory.mktemp("tiffs") / "a.tif"
    grey = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    contents = []
    for array in (grey, (grey % 2 * 255).astype(np.uint8), np.repeat(grey[..., None], 3, axis=2)):
        for compression in (1, 5, 8):
            write_tiff(path, array, compression)
            contents.append(path.read_bytes())
    tifffile.imwrite(path, grey, photometric="minisblack", byteorder=">", compression="zlib", rowsperstrip=2)
    return [*contents, path.read_bytes()]


@given(data=st.data())
@fuzz(500)
def test_tiff(tmp_path, tiffs, data):
    path = tmp_path / "0000.tif"
    path.write_bytes(data.draw(damaged(tiffs)))
    size = read_or_refuse(read_size, path, True)
    grey = read_or_refuse(read_grey, path)
    mask = read_or_refuse(read_mask, path)
    if grey is not None:
        assert grey.shape == size and grey.dtype in (np.uint8, np.uint16)
    if mask is not None:
        assert mask.dtype == np.bool_ and mask.shape == size


@pytest.fixture(scope="module")
def checkpoint_bytes(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("checkpoints") / "c.safetensors"
    save_checkpoint(path, create_model("unet", **ARGUMENTS), CARD)
    return path.read_bytes()


@given(data=st.data())
@fuzz(250)
def test_checkpoint_header(tmp_path, checkpoint_bytes, data):
    """Bytes overwritten anywhere; most of the file is its header."""
    path = tmp_path / "c.safetensors"
    path.write_bytes(data.draw(damaged([checkpoint_bytes])))
    loaded = read_or_refuse(load_checkpoint, path)
    if loaded is not None:
        assert loaded[1] == read_card(path)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2**40)
    | st.floats()
    | st.sampled_from(["", "unet", "sam", "segformer"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["in_channels", "widths"]), inner),
    max_leaves=4,
)


@given(
    fields=st.dictionaries(st.sampled_from(sorted(vars(CARD))), json_values, max_size=3),
    preprocessing=st.dictionaries(st.sampled_from(sorted(vars(CARD.preprocessing))), json_values, max_size=2),
    arguments=st.dictionaries(st.sampled_from(sorted(ARGUMENTS)), json_values, max_size=2),
)
@example(fields={"model_arguments": {"widths": [2**16, 2**16], "bottleneck": 2**16}}, preprocessing={}, arguments={})
@example(
    fields={"model_arguments": {"weights_path": "/etc/passwd"}, "model": "segformer"}, preprocessing={}, arguments={}
)
@example(fields={"preprocessing": []}, preprocessing={}, arguments={})
@example(fields={"model": "sam", "model_arguments": {"image_size": "x"}}, preprocessing={}, arguments={})
@fuzz(150)
def test_checkpoint_card(tmp_path, fields, preprocessing, arguments):
    """A well-formed file whose card holds anything."""
    path = tmp_path / "c.safetensors"
    card = {**vars(CARD), "preprocessing": {**vars(CARD.preprocessing), **preprocessing}}
    card = {**card, "model_arguments": {**ARGUMENTS, **arguments}, **fields}
    save_file(create_model("unet", **ARGUMENTS).state_dict(), path, {"sennet_kaggle": json.dumps(card)})
    loaded = read_or_refuse(load_checkpoint, path)
    if loaded is not None:
        model, read = loaded
        assert isinstance(read.threshold, float | int) and isinstance(read.preprocessing.roi_size, int)
        assert not any(parameter.requires_grad for parameter in model.parameters())
