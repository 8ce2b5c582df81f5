"""Draws every picture of docs/ with the shipped checkpoint, whose hash goes into the picture: `make docs-figures`.

    python docs/make_figures.py --data-dir DATA [--only dry-run.png …]

Of DATA it needs train/kidney_2, and predictions/kidney_3_dense_a.csv for tree.png; of the system Chromium, for the
pictures of the report page. With two cores it takes about two minutes.
"""

import argparse
import dataclasses
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import label

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from sennet_kaggle.__main__ import main as run_command  # noqa: E402
from sennet_kaggle.config import DEFAULT_INFERENCE  # noqa: E402
from sennet_kaggle.data.phantom import KIDNEY_LIKE, phantom_slices, write_phantom  # noqa: E402
from sennet_kaggle.data.volume import Volume, open_volume  # noqa: E402
from sennet_kaggle.errors import InputError  # noqa: E402
from sennet_kaggle.files import shipped_checkpoints, write_whole  # noqa: E402
from sennet_kaggle.inference.loading import load_predictors  # noqa: E402
from sennet_kaggle.inference.predict import mean_threshold, predict_masks  # noqa: E402
from sennet_kaggle.inference.scan_run import plan_run, segment_scan  # noqa: E402
from sennet_kaggle.rendering import add_text, figure_to_png  # noqa: E402
from sennet_kaggle.reports.colours import PREDICTION  # noqa: E402
from sennet_kaggle.reports.outlines import figure_of_slices  # noqa: E402
from sennet_kaggle.reports.page import write_page  # noqa: E402
from sennet_kaggle.reports.report import SegmentedSlice, to_display  # noqa: E402
from sennet_kaggle.scans.opening import open_mask, open_scan  # noqa: E402
from sennet_kaggle.scans.writing import create_output  # noqa: E402
from sennet_kaggle.scoring.metrics import dice_coefficient, surface_dice_at_tolerance  # noqa: E402
from sennet_kaggle.submission.provenance import Stopwatch, describe_machine, hash_file, name_checkpoint  # noqa: E402
from sennet_kaggle.submission.rle import rle_decode  # noqa: E402
from sennet_kaggle.submission.submission import read_submission  # noqa: E402

DOCS = Path(__file__).resolve().parent
_FOLDER = tempfile.TemporaryDirectory()
SCRATCH = Path(_FOLDER.name)
"""Gone when the program ends."""
PAGE_WIDTH, TREE_WIDTH = 1280, 1000
_BROWSERS, _DRIVERS = ("chromium", "google-chrome"), ("chromedriver",)
_PATIENCE = 600  # seconds; without a GPU a browser draws the tree slowly
# The axes would count the coarse voxels.
_BLOCK, _FILLED, _LEAST_PART = 8, 0.25, 40
_WITHOUT_AXES = "".join(f"Plotly.relayout('tree', {{'scene.{axis}axis.visible': false}});" for axis in "xyz")
OWN_SHAPE = (48, 400, 320)
OTHERS_MASKS, OTHERS_SHAPE = "predictions/kidney_3_dense_a.csv", (1706, 1510)


@dataclasses.dataclass(frozen=True)
class Blank(Volume):
    """Slices of which there are masks and no images, all of one size."""

    size_of_slices: tuple[int, int] = (1, 1)

    def __getitem__(self, z: int) -> np.ndarray:
        return np.zeros(self.size_of_slices, np.uint16)

    def slice_size(self, z: int) -> tuple[int, int]:
        return self.size_of_slices


def segmented(volume: Volume) -> list[SegmentedSlice]:
    """What the shipped checkpoint makes of a kidney, as `predict` runs it."""
    predictors = load_predictors(shipped_checkpoints(), DEFAULT_INFERENCE)
    masks = predict_masks(volume, predictors, DEFAULT_INFERENCE)
    return [SegmentedSlice(slice_id, volume[z], mask, volume.label(z)) for z, (slice_id, mask) in enumerate(masks)]


@cache
def kidney_2(data_dir: Path) -> list[SegmentedSlice]:
    return segmented(open_volume(data_dir / "train" / "kidney_2"))


def draw_kidney_2(data_dir: Path) -> bytes:
    """A slice of a kidney that the checkpoint has not seen, with its scores."""
    slices = {each.slice_id: each for each in kidney_2(data_dir)}
    shown = slices["kidney_2_0742"]
    figure = figure_of_slices([shown], plain=False)
    near = surface_dice_at_tolerance(shown.mask_gt, shown.mask_pred, 1.0)
    dice = dice_coefficient(shown.mask_gt, shown.mask_pred)
    scores = f"{shown.slice_id}: Dice {dice:.3f}, Surface Dice in 2D {near:.3f} (contours up to a pixel apart)"
    figure.legends[0].set_title(f"{scores}\n{how()}", {"size": 9})
    figure.legends[0].get_title().set_multialignment("center")
    return figure_to_png(figure)


def draw_checkpoint(data_dir: Path) -> bytes:
    """All slices of kidney_2."""
    return figure_to_png(figure_of_slices(kidney_2(data_dir)))


@cache
def phantom(folder: Path) -> tuple[Volume, list[SegmentedSlice], float]:
    """The dry run's phantom, what the checkpoint makes of it, and the seconds that took."""
    volume, watch = open_volume(write_phantom(folder, "phantom", KIDNEY_LIKE)), Stopwatch()
    with watch.stage("segment"):
        slices = segmented(volume)
    return volume, slices, watch.seconds["segment"]


def draw_dry_run(data_dir: Path) -> bytes:
    """What `make dry-run` draws."""
    return figure_to_png(figure_of_slices(phantom(SCRATCH)[1]))


def draw_page(data_dir: Path) -> bytes:
    """The report page of a synthetic kidney, as a browser shows it."""
    volume, slices, seconds = phantom(SCRATCH)
    path = SCRATCH / "report.html"
    masks = {each.slice_id: each.mask_pred for each in slices}
    write_page(
        path,
        title="The shipped checkpoint on a synthetic kidney",
        volumes=[volume],
        rles=masks,
        about=about(seconds),
    )
    return photograph(path, "html")


def draw_tree(data_dir: Path) -> bytes:
    """A whole kidney's wide vessels in 3D, of masks that another model made: there are no images to run ours on."""
    mask = coarse_mask(list(dict(read_submission(data_dir / OTHERS_MASKS)).values()))
    paths = tuple(Path(f"{z:04d}.tif") for z in range(len(mask)))
    volume = Blank("kidney_3_dense", paths, size_of_slices=mask.shape[1:])
    path = SCRATCH / "tree.html"
    write_page(path, title="tree", volumes=[volume], rles=dict(zip(volume.slice_ids, mask, strict=True)))
    return without_margins(photograph(path, "#tree", TREE_WIDTH, _WITHOUT_AXES))


@cache
def own_scan() -> tuple[Path, Path]:
    """A synthetic scan as OME-Zarr, and what `segment` makes of it."""
    phantom = dataclasses.replace(KIDNEY_LIKE, shape=OWN_SHAPE)
    scan_path, mask_path = SCRATCH / "scan.ome.zarr", SCRATCH / "scan.ome.zarr" / "labels" / "vessels"
    with create_output(scan_path, phantom.shape, np.uint16, (50.0, 50.0, 50.0)) as put:
        for slice_, _ in phantom_slices(phantom):
            put(slice_)
    segment_scan(plan_run(open_scan(scan_path), mask_path, shipped_checkpoints(), DEFAULT_INFERENCE))
    return scan_path, mask_path


def draw_own_scan(data_dir: Path) -> bytes:
    """A slice of a synthetic scan, its mask, and all masks from the front."""
    scan_path, mask_path = own_scan()
    scan, masks = open_scan(scan_path), np.stack([*open_mask(mask_path)])
    middle = len(scan) // 2
    panels = {
        "one slice of the scan": to_display(scan[middle]),
        "its mask, outlined": to_display(scan[middle]),
        f"all {len(masks)} masks, added up along z": np.sqrt(masks.sum(axis=0)),  # thin vessels stay visible
    }
    figure = Figure((9.6, 4.3), dpi=100, layout="constrained")
    for axes, (title, picture) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        axes.imshow(picture, cmap="inferno" if "added" in title else "gray", interpolation="nearest")
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
        if "outlined" in title:
            axes.contour(masks[middle], [0.5], colors=[PREDICTION], linewidths=1)
    return without_margins(figure_to_png(figure))


def draw_own_page(data_dir: Path) -> bytes:
    """The report page of the synthetic scan."""
    (scan_path, mask_path), path = own_scan(), SCRATCH / "own.html"
    if run_command(["report", "--scan", str(scan_path), "--mask", str(mask_path), "--output", str(path)]) != 0:
        raise InputError("the report of the synthetic scan was refused: see above")
    return photograph(path, "html")


def coarse_mask(rles: list[str]) -> np.ndarray:
    """Where vessels fill a good part of blocks of 8 x 8 x 8 voxels, without what is small and alone: (d, h, w) bool."""
    height, width = (-(-side // _BLOCK) for side in OTHERS_SHAPE)
    filled = np.zeros((-(-len(rles) // _BLOCK), height, width), np.float32)
    for z, rle in enumerate(rles):
        padded = np.zeros((height * _BLOCK, width * _BLOCK), np.float32)
        padded[: OTHERS_SHAPE[0], : OTHERS_SHAPE[1]] = rle_decode(rle, *OTHERS_SHAPE)
        filled[z // _BLOCK] += cv2.resize(padded, (width, height), interpolation=cv2.INTER_AREA) / _BLOCK
    parts, count = label(filled > _FILLED, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    return (sizes >= _LEAST_PART)[parts]


FIGURES: dict[str, Callable[[Path], bytes]] = {
    "kidney_2.png": draw_kidney_2,
    "model/checkpoint.png": draw_checkpoint,
    "dry-run.png": draw_dry_run,
    "report-page.png": draw_page,
    "tree.png": draw_tree,
    "own-scan.png": draw_own_scan,
    "own-scan-page.png": draw_own_page,
}


def how() -> str:
    """Checkpoints and settings in words."""
    predictors = load_predictors(shipped_checkpoints(), DEFAULT_INFERENCE)
    names = ", ".join(map(name_checkpoint, shipped_checkpoints()))
    return f"{names}; {DEFAULT_INFERENCE.describe(f'{mean_threshold(predictors):g}')}"


def about(seconds: float) -> dict[str, str]:
    """What the report command would say of the run."""
    predictors = load_predictors(shipped_checkpoints(), DEFAULT_INFERENCE)
    devices = describe_machine([predictor.device for predictor in predictors])["devices"]
    checkpoints, settings = how().split("; ")
    device = ", ".join(f"{name} ({what})" for name, what in devices.items())
    return {"Checkpoint": checkpoints, "Settings": settings, "Device": device, "Time": f"segment {seconds:.1f} s"}


def provenance(name: str, data_dir: Path) -> dict[str, str]:
    """What is written into a picture: of which masks it is, and which command made it."""
    made = {"made by": "make docs-figures"}
    if name == "tree.png":
        return made | {"masks": f"{OTHERS_MASKS} {hash_file(data_dir / OTHERS_MASKS)}"}
    return made | {"checkpoint": " ".join(map(hash_file, shipped_checkpoints()))}


def photograph(path: Path, what: str, width: int = PAGE_WIDTH, script: str = "") -> bytes:
    """A page, or an element of it, as headless Chromium shows it once the vessel tree is drawn and a script has run."""
    from selenium import webdriver

    browser, service = (next(filter(None, map(shutil.which, names)), None) for names in (_BROWSERS, _DRIVERS))
    if not browser or not service:
        raise InputError("expected Chromium and its driver, found none: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    switches = "headless=new no-sandbox use-gl=angle use-angle=swiftshader enable-unsafe-swiftshader hide-scrollbars"
    for switch in (*switches.split(), f"window-size={width},900"):
        options.add_argument(f"--{switch}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    driver.set_script_timeout(_PATIENCE)
    driver.command_executor.client_config.timeout = _PATIENCE
    try:
        driver.get(path.as_uri())
        _wait(driver, "return document.getElementById('stage').dataset.drawn")
        height = driver.execute_script("return document.documentElement.scrollHeight")
        driver.set_window_size(width, height + 140)  # the window's frame counts as well
        _wait(driver, "return document.getElementById('tree').dataset.drawn")
        driver.set_window_size(width, driver.execute_script("return document.documentElement.scrollHeight") + 200)
        driver.execute_script(script)
        time.sleep(1)  # the browser paints after the script has ended
        return driver.find_element("css selector", what).screenshot_as_png
    finally:
        driver.quit()


def without_margins(png: bytes) -> bytes:
    """The picture without most of the white around it."""
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    rows, columns = (np.flatnonzero((pixels < 250).any(axis=2).any(axis=axis)) for axis in (1, 0))
    part = pixels[max(rows[0] - 12, 0) : rows[-1] + 12, max(columns[0] - 12, 0) : columns[-1] + 12]
    return cv2.imencode(".png", part)[1].tobytes()


def in_few_colours(png: bytes) -> bytes:
    """The picture with 32 levels of each colour, which takes half the bytes; no colour gets lost, however rare."""
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    rounded = ((pixels.astype(np.uint16) + 4) // 8 * 8).clip(0, 255).astype(np.uint8)
    return cv2.imencode(".png", rounded, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def _wait(driver: Any, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, _PATIENCE).until(lambda _: driver.execute_script(script))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="a folder in the competition's layout")
    parser.add_argument("--only", nargs="*", choices=FIGURES, default=list(FIGURES), help="some of the pictures")
    arguments = parser.parse_args()
    for name in arguments.only:
        try:
            picture = FIGURES[name](arguments.data_dir)
            write_whole(DOCS / name, add_text(in_few_colours(picture), provenance(name, arguments.data_dir)))
        except InputError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            return 2
        print(f"docs/{name}: {(DOCS / name).stat().st_size / 1e3:.0f} kB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
