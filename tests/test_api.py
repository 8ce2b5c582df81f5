"""The public interface: lazily imported, and with the masks of `predict`."""

import ast
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from conftest import REPOSITORY, write_tiff
from input_cases import UNET

import sennet_kaggle
from sennet_kaggle.__main__ import main
from sennet_kaggle.api import segment
from sennet_kaggle.config import DEFAULT_INFERENCE, Inference, Preprocessing
from sennet_kaggle.data.phantom import Phantom, write_phantom
from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.errors import InputError
from sennet_kaggle.files import shipped_checkpoints
from sennet_kaggle.inference.loading import load_predictors
from sennet_kaggle.inference.predict import predict_probabilities
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, read_card, save_checkpoint
from sennet_kaggle.models.voxel_size import training_voxel_size
from sennet_kaggle.submission.rle import rle_decode
from sennet_kaggle.submission.submission import read_submission

pytestmark = pytest.mark.usefixtures("one_thread")
SLICES = tuple(f"kidney_1_dense_{z:04d}" for z in range(3))


def run(program: str, **options) -> str:
    command = [sys.executable, "-c", program]
    options = {"cwd": REPOSITORY, **options}
    return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout


@pytest.fixture(scope="module")
def kidney(tmp_path_factory):
    """A synthetic kidney as a test set; the folder above test/."""
    data_dir = tmp_path_factory.mktemp("data")
    write_phantom(data_dir, "kidney_5", Phantom((3, 96, 80)), split="test", with_labels=False)
    return data_dir


@pytest.fixture
def checkpoint(kidney, tmp_path):
    """Small, with neighbours and windows, so that the order of the slices and every setting matter.

    Its threshold parts the probabilities in two halves.
    """
    path = tmp_path / "small.safetensors"
    torch.manual_seed(0)
    model = create_model("unet", **UNET)
    card = Card("unet", UNET, Preprocessing(region="windows", roi_size=64, offsets=(-1, 0, 1)), 0.5, trained_on=SLICES)
    save_checkpoint(path, model, card)
    volume = open_volume(kidney / "test" / "kidney_5")
    probabilities = predict_probabilities(volume, load_predictors([path]), DEFAULT_INFERENCE)
    threshold = torch.stack([probability for _, probability in probabilities]).median().item()
    save_checkpoint(path, model, replace(card, threshold=threshold))
    return path


def predicted(data_dir, tmp_path, *options) -> np.ndarray:
    """The masks that the command writes for a test set of one kidney, (D, H, W)."""
    output = tmp_path / "s.csv"
    assert main(["predict", "--data-dir", str(data_dir), "--output", str(output), *map(str, options)]) == 0
    (kidney_dir,) = (data_dir / "test").iterdir()
    size = open_volume(kidney_dir).slice_size(0)
    return np.stack([rle_decode(rle, *size) for _, rle in read_submission(output)])


def scan_of(data_dir) -> np.ndarray:
    return np.stack([*open_volume(data_dir / "test" / "kidney_5")])


def test_the_shipped_checkpoint_gives_the_masks_of_predict(kidney, tmp_path, capsys):
    expected = predicted(kidney, tmp_path)
    assert expected.any() and not expected.all()
    mask = sennet_kaggle.segment(scan_of(kidney))
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ((), {}),
        pytest.param(("--axes", "zyx", "--tta", "none"), {"axes": "zyx", "tta": "none"}, marks=pytest.mark.slow),
        (("--average", "logit", "--overlap", "0.5"), {"average": "logit", "overlap": 0.5}),
    ],
    ids=["defaults", "axes", "average"],
)
def test_every_setting_gives_the_masks_of_predict(kidney, checkpoint, tmp_path, options, settings, capsys):
    expected = predicted(kidney, tmp_path, "--checkpoint", checkpoint, *options)
    assert 0.1 < expected.mean() < 0.9
    found = segment(scan_of(kidney), checkpoint, inference=replace(DEFAULT_INFERENCE, **settings))
    np.testing.assert_array_equal(found, expected)


def test_a_slice_is_a_kidney_of_one(checkpoint, tmp_path, capsys):
    slice_ = np.random.default_rng(0).integers(0, 2**16, (40, 31), np.uint16)
    write_tiff(tmp_path / "data" / "test" / "kidney_5" / "images" / "0000.tif", slice_)
    expected = predicted(tmp_path / "data", tmp_path, "--checkpoint", checkpoint)
    np.testing.assert_array_equal(segment(slice_, checkpoint), expected[0])


@pytest.mark.slow
def test_what_may_be_given_in_place_of_an_array(kidney, checkpoint, tmp_path):
    scan = scan_of(kidney)
    expected = segment(scan, checkpoint)
    np.save(tmp_path / "scan.npy", scan)
    others = {
        "a folder": open_volume(kidney / "test" / "kidney_5"),
        "a memory map": np.load(tmp_path / "scan.npy", mmap_mode="r", allow_pickle=False),
        "other byte order": scan.astype(">u2"),
        "other memory order": np.asfortranarray(scan),
    }
    for volume in others.values():
        np.testing.assert_array_equal(segment(volume, checkpoint), expected)
    for given in (str(checkpoint), [checkpoint], load_predictors([checkpoint]), load_predictors([checkpoint])[0]):
        np.testing.assert_array_equal(segment(scan, given), expected)


def test_the_scan_is_not_changed(kidney, checkpoint):
    scan = scan_of(kidney)
    before = scan.copy()
    segment(scan, checkpoint)
    np.testing.assert_array_equal(scan, before)


@pytest.mark.parametrize(("voxel_size_um", "scale"), [(25, 0.5), (63.08, 63.08 / 50), (50, 1)])
def test_voxel_size_is_the_scale_to_that_of_training(kidney, checkpoint, tmp_path, voxel_size_um, scale, capsys):
    expected = predicted(kidney, tmp_path, "--checkpoint", checkpoint, "--scale", scale)
    np.testing.assert_array_equal(segment(scan_of(kidney), checkpoint, voxel_size_um=voxel_size_um), expected)


def test_the_shipped_checkpoint_was_trained_at_50_um():
    assert training_voxel_size(shipped_checkpoints()) == 50


@pytest.mark.parametrize(
    ("slices", "training", "expected"),
    [
        (("kidney_2_0001", "kidney_3_sparse_0001"), {}, 50.08),
        (("kidney_1_dense_0001", "kidney_1_voi_0001"), {}, "found 5.2 to 50"),
        (("liver_7_0001", "kidney_2_0001"), {}, "names liver_7"),
        ((), {}, "names nothing"),
        ((), {"voxel_size_um": 10.5}, 10.5),
        (("kidney_2_0001",), {"voxel_size_um": 25.0}, 25.0),
        (("kidney_2_0001",), {"source_unknown": True}, "names nothing"),
    ],
)
def test_the_voxel_size_of_training(tmp_path, slices, training, expected):
    path = tmp_path / "c.safetensors"
    voxel_size_um = training.pop("voxel_size_um", None)
    card = Card("unet", UNET, Preprocessing(roi_size=32), 0.5, slices, training=training, voxel_size_um=voxel_size_um)
    save_checkpoint(path, create_model("unet", **UNET), card)
    assert read_card(path) == card
    if isinstance(expected, float):
        assert training_voxel_size([path]) == pytest.approx(expected)
        return
    with pytest.raises(InputError, match=expected):
        training_voxel_size([path])


GREY = np.zeros((2, 9, 9), np.uint16)


@pytest.mark.parametrize(
    ("volume", "settings", "message"),
    [
        (GREY.astype(np.float32), {}, "uint8 or uint16, found float32"),
        (GREY > 0, {}, "uint8 or uint16, found bool"),
        (GREY[..., None], {}, r"grey values, found shape \(2, 9, 9, 1\)"),
        (GREY[:0], {}, r"found shape \(0, 9, 9\)"),
        ("scan.tif", {}, "grey values, found str"),
        (np.ma.masked_array(GREY, GREY == 0), {}, "found a masked array"),
        (GREY, {"voxel_size_um": "50"}, "must be a size in micrometres .* found 50"),
        (GREY, {"voxel_size_um": (50, 50, 50)}, r"found \(50, 50, 50\)"),
        (GREY, {"voxel_size_um": 0}, "within a factor of 10 of the 50 .* found 0"),
        (GREY, {"voxel_size_um": float("nan")}, "found nan"),
        (GREY, {"voxel_size_um": 4.9}, "found 4.9"),
        (GREY, {"voxel_size_um": 25, "inference": Inference(scale=2)}, "give one of them"),
        (GREY, {"checkpoint": "none.safetensors"}, "is missing"),
        (GREY, {"checkpoint": []}, "no checkpoint given"),
    ],
)
def test_what_is_refused(checkpoint, volume, settings, message):
    with pytest.raises(InputError, match=message):
        segment(volume, **{"checkpoint": checkpoint, **settings})


def test_loaded_predictors_do_not_say_their_voxel_size(checkpoint):
    with pytest.raises(InputError, match="give the checkpoint itself"):
        segment(GREY, load_predictors([checkpoint]), voxel_size_um=50)


def test_slices_of_two_sizes_are_refused(checkpoint, tmp_path):
    for z, size in enumerate([(40, 31), (41, 31)]):
        write_tiff(tmp_path / "k" / "images" / f"{z}.tif", np.arange(np.prod(size), dtype=np.uint16).reshape(size))
    preprocessing = Preprocessing(region="windows", roi_size=32)
    save_checkpoint(checkpoint, create_model("unet", **UNET), Card("unet", UNET, preprocessing, 0.5))
    with pytest.raises(InputError, match=r"of one size, \(40, 31\), found \(41, 31\) in k_1"):
        segment(open_volume(tmp_path / "k"), checkpoint)


def test_a_mask_in_a_file_has_its_vessels_measured(tmp_path):
    """A tube from face to face: 20 voxels of 50 µm, 3 x 3 voxels across, so of the radius sqrt(9 / pi)."""
    mask = np.zeros((20, 9, 9), np.uint8)
    mask[:, 3:6, 3:6] = 255
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    scan = sennet_kaggle.open_mask(tmp_path / "mask.tif")
    totals = sennet_kaggle.measure_vessels(scan, 50).totals
    assert totals["segments"] == 1 and totals["border_ends"] == 2
    assert totals["total_length_um"] == pytest.approx(20 * 50)
    assert totals["mean_radius_um"] == pytest.approx(np.sqrt(9 / np.pi) * 50)
    np.testing.assert_array_equal(np.stack([*sennet_kaggle.open_scan(tmp_path / "mask.tif")]), mask)


def test_import_loads_no_library():
    program = (
        "import sys, sennet_kaggle; dir(sennet_kaggle), sennet_kaggle.__version__\n"
        "print([m for m in ('torch', 'numpy', 'cv2', 'tyro') if m in sys.modules])"
    )
    assert run(program) == "[]\n"


@pytest.mark.slow
def test_the_names_are_functions_whatever_was_imported_before():
    """No module has the name of a public function, or importing it would put the module in its place."""
    program = (
        "import pkgutil, importlib, sennet_kaggle\n"
        "names = [m.name for m in pkgutil.iter_modules(sennet_kaggle.__path__) if m.name != '__main__']\n"
        "for name in names: importlib.import_module(f'sennet_kaggle.{name}')\n"
        "print({*names} & {*sennet_kaggle.__all__}, [n for n in sennet_kaggle.__all__ "
        "if not callable(getattr(sennet_kaggle, n)) or n not in dir(sennet_kaggle)])"
    )
    assert run(program) == "set() []\n"


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'sennet_kaggle' has no attribute 'nothing'"):
        sennet_kaggle.nothing  # noqa: B018


def test_the_stub_has_the_same_names():
    """And takes them from the same modules."""
    text = (REPOSITORY / "sennet_kaggle" / "__init__.pyi").read_text(encoding="utf-8")
    imports = [node for node in ast.parse(text).body if isinstance(node, ast.ImportFrom)]
    found = {alias.name: node.module for node in imports for alias in node.names}
    assert found == sennet_kaggle._MODULES
    assert sennet_kaggle.__all__ == sorted(sennet_kaggle.__all__)


def test_the_snippet_of_the_readme(tmp_path):
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (snippet,) = (part.split("```")[0] for part in readme.split("```python\n")[1:])
    write_phantom(tmp_path / "DATA", "kidney_2", Phantom((3, 96, 80)))
    output = run(snippet, cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"})
    surface_dice, dice = map(float, output.split())
    assert 0 < surface_dice <= 1 and 0 < dice <= 1
