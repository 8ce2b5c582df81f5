"""The report page: what stands in the file, and what a real browser makes of it."""

import base64
import gzip
import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from sennet_kaggle.data.phantom import Phantom, write_phantom
from sennet_kaggle.data.volume import Volume, open_volume
from sennet_kaggle.errors import InputError
from sennet_kaggle.reports import colours
from sennet_kaggle.reports import page as page_module
from sennet_kaggle.reports.mesh import CoarseMask, CoarseOrgan, decimate, surface
from sennet_kaggle.reports.page import _CURVES, write_page
from sennet_kaggle.reports.page_kidney import Prediction
from sennet_kaggle.reports.pictures import FALSE_ALARM, HIT, KIND_STEP, MISS, PREDICTION, kinds_at
from sennet_kaggle.reports.report import SegmentedSlice
from sennet_kaggle.scoring.metrics import dice_coefficient
from sennet_kaggle.scoring.score import KidneyScorer
from sennet_kaggle.scoring.sweep import METRICS
from sennet_kaggle.submission.rle import rle_encode

HOSTILE = "</title></script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'> & \"{{facts}}\""
HISTORY = pd.DataFrame({"epoch": [1, 2, 3, 4], "loss": [1.0, 0.7, 0.5, 0.4], "held_out_dice": [None, 0.4, None, 0.6]})
SWEEP = pd.DataFrame({"threshold": [0.3, 0.1, 0.2], "dice_pooled": [0.7, 0.6, np.nan], "surface_dice": [0.5, 0.4, 0.3]})
SWEEP.attrs.update(plateau_low=0.1, plateau_high=0.2)
# Where Debian puts them; elsewhere they are found by name.
CHROMIUM = next(filter(None, map(shutil.which, ("/usr/bin/chromium", "chromium", "google-chrome"))), None)
CHROMEDRIVER = next(filter(None, map(shutil.which, ("/usr/bin/chromedriver", "chromedriver"))), None)
# The page's colours, RGB.
FOUND, MISSED, FALSE, BLUE = (
    tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))
    for colour in (colours.FOUND, colours.MISSED, colours.FALSE_ALARM, colours.PREDICTION)
)
ABOUT = {"Checkpoint": "a.safetensors, sha256 0123456789ab", "Settings": "views flips", "Device": "cpu (x86_64)"}


class Elements(HTMLParser):
    """Text of the elements that have an id, and the attributes that a browser would fetch."""

    def __init__(self, page: str):
        super().__init__()
        self.text, self.fetched, self.scripts, self._open = {}, [], 0, None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.scripts += tag == "script"
        self.fetched += [value for name, value in attrs if name in ("src", "href", "data", "action", "srcset")]
        self._open = attributes.get("id", tag)
        self.text.setdefault(self._open, "")

    def handle_data(self, data):
        if self._open:
            self.text[self._open] += data

    def handle_endtag(self, tag):
        self._open = None


def shifted_rles(volume: Volume) -> dict[str, str]:
    """A prediction with hits, misses and false alarms: the label, one pixel to the right."""
    return {name: rle_encode(np.roll(volume.label(z), 1, axis=1)) for z, name in enumerate(volume.slice_ids)}


class BlankLabels(Volume):
    """A kidney whose first two labels have no vessel, the last two more pixels each."""

    def label(self, z: int) -> np.ndarray:
        label = np.zeros((40, 31), bool)
        label[1, : 3 * (z > 1) + (z == 3)] = True
        return label


def written(tmp_path: Path, **arguments) -> Elements:
    write_page(tmp_path / "page.html", **{"title": "a run", **arguments})
    return Elements((tmp_path / "page.html").read_text())


@pytest.fixture
def kidney(tmp_path, write_kidney) -> Volume:
    write_kidney(tmp_path / "kidney_9", depth=4)
    return open_volume(tmp_path / "kidney_9")


def test_every_slice_is_there_with_its_errors(tmp_path, kidney):
    """Slices smaller than the largest picture keep their size, and so every pixel of the overlay is known."""
    page = written(tmp_path, volumes=[kidney], rles=shifted_rles(kidney))
    for z in range(len(kidney)):
        image, overlay = (picture(page.text[f"{name}-0-{z}"]) for name in ("image", "overlay"))
        mask_gt = kidney.label(z)
        mask_pred = np.roll(mask_gt, 1, axis=1)
        expected = HIT * (mask_gt & mask_pred) + MISS * (mask_gt & ~mask_pred) + FALSE_ALARM * (mask_pred & ~mask_gt)
        assert image.shape == mask_gt.shape
        assert (overlay == KIND_STEP * expected).all()
    assert "image-0-4" not in page.text


def test_facts_by_hand(tmp_path, kidney):
    rles = shifted_rles(kidney)
    rles[kidney.slice_ids[0]] = "1 0"
    (found,) = json.loads(written(tmp_path, volumes=[kidney], rles=rles).text["facts"])["kidneys"]
    masks_gt = np.stack([kidney.label(z) for z in range(4)])
    masks_pred = np.roll(masks_gt, 1, axis=2)
    masks_pred[0] = False
    expected = [dice_coefficient(*masks) for masks in zip(masks_gt, masks_pred, strict=True)]
    assert [row["dice"] for row in found["slices"]] == pytest.approx(expected)
    assert found["slices"][0] == {
        "id": "kidney_9_0000", "size": [40, 31], "gt": int(masks_gt[0].sum()), "pred": 0, "both": 0, "dice": 0.0,
        "seen": None,
    }  # fmt: skip
    assert found["pooled"] == pytest.approx(dice_coefficient(masks_gt, masks_pred))
    assert found["mean"] == pytest.approx(np.mean(expected))
    assert found["numbers"] == [0, 1, 2, 3]


def test_unlabelled_slices_show_the_prediction_alone(tmp_path, write_kidney):
    write_kidney(tmp_path / "kidney_8", depth=1, labels=False)
    volume = open_volume(tmp_path / "kidney_8")
    page = written(tmp_path, volumes=[volume], rles={"kidney_8_0000": "2 3"})
    assert picture(page.text["overlay-0-0"]).ravel()[:6].tolist() == [0, *[PREDICTION * KIND_STEP] * 3, 0, 0]
    (found,) = json.loads(page.text["facts"])["kidneys"]
    assert found["slices"][0] | {"gt": None, "pred": 3, "both": None, "dice": None} == found["slices"][0]
    assert found["pooled"] is found["mean"] is None and found["labelled"] == 0


def test_curves_are_sorted_and_missing_values_stay_missing(tmp_path, kidney):
    page = written(tmp_path, volumes=[kidney], rles=shifted_rles(kidney), history=HISTORY, sweep=SWEEP)
    facts = json.loads(page.text["facts"])
    assert facts["sweep"] == {
        "threshold": [0.1, 0.2, 0.3],
        "dice_pooled": [0.6, None, 0.7],
        "surface_dice": [0.4, 0.3, 0.5],
        "plateau": [0.1, 0.2],
    }
    assert facts["history"]["held_out_dice"] == [None, 0.4, None, 0.6]


def test_nothing_is_fetched(tmp_path, kidney):
    page = written(tmp_path, volumes=[kidney], rles=shifted_rles(kidney), history=HISTORY, sweep=SWEEP)
    text = (tmp_path / "page.html").read_text()
    assert page.fetched == ["data:,"]  # the icon
    assert not re.search(r"url\(|@import|\bimport\b|fetch\(|XMLHttpRequest", text)
    assert set(re.findall(r"https?://[^\s\"']*", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "default-src 'none'" in text


def test_the_same_run_gives_the_same_bytes(tmp_path, kidney):
    for name in ("a.html", "b.html"):
        write_page(tmp_path / name, title="a run", volumes=[kidney], rles=shifted_rles(kidney))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_hostile_names_stay_text(tmp_path, write_kidney):
    name = "<script>alert(1)<!-- & ' \" {{js}}"
    write_kidney(tmp_path / name, depth=3)
    volume = open_volume(tmp_path / name)
    harmless = written(tmp_path, volumes=[volume], rles=shifted_rles(volume))
    page = written(tmp_path, title=HOSTILE, volumes=[volume], rles=shifted_rles(volume), notes=[HOSTILE, "a note"])
    assert page.text["title"] == page.text["h1"] == HOSTILE
    text = (tmp_path / "page.html").read_text()
    assert f"<p>{html.escape(HOSTILE)}</p>\n<p>a note</p>" in text and f"<p>{HOSTILE}" not in text
    assert (page.scripts, page.fetched) == (harmless.scripts, ["data:,"])
    (found,) = json.loads(page.text["facts"])["kidneys"]
    assert found["slices"][2]["id"] == f"{name}_0002"


@pytest.mark.slow
def test_pictures_shrink_until_the_page_is_small_enough(tmp_path, write_kidney):
    """Noise, the worst there is to compress."""
    write_kidney(tmp_path / "kidney_7", depth=2, size=(300, 400))
    volume = open_volume(tmp_path / "kidney_7")
    arguments = {"volumes": [volume], "rles": shifted_rles(volume)}
    page = written(tmp_path, **arguments)
    large = picture(page.text["image-0-1"])
    pictures = sum(len(text) for name, text in page.text.items() if name.startswith(("image-", "overlay-")))
    limit = (tmp_path / "page.html").stat().st_size - pictures // 2
    small = picture(written(tmp_path, **arguments, max_bytes=limit).text["image-0-1"])
    assert (tmp_path / "page.html").stat().st_size <= limit
    assert large.shape == (300, 400) and small.shape[1] < 400
    with pytest.raises(InputError, match="max_bytes is too small for 2 slices more"):
        written(tmp_path, **arguments, max_bytes=100_000)
    assert (tmp_path / "page.html").stat().st_size <= limit  # the page before stays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volumes": []}, "at least one kidney"),
        ({"rles": {"kidney_9_0000": "1 0"}}, r"no row for kidney_9_0001 \(3 of kidney_9 missing\)"),
        ({"rles": dict.fromkeys([f"kidney_9_000{z}" for z in range(4)], "1240 2")}, "kidney_9_000[0-3]: RLE out of"),
        ({"history": HISTORY.drop(columns="loss")}, "history must have the columns epoch, loss, held_out_dice, found"),
        ({"sweep": SWEEP[["threshold"]]}, "sweep must have one of the columns dice_pooled, dice_mean, dice_without"),
    ],
    ids=["no kidney", "slices missing", "bad run", "history", "sweep"],
)
def test_bad_input_is_named(tmp_path, kidney, change, message):
    with pytest.raises(InputError, match=message):
        written(tmp_path, **{"volumes": [kidney], "rles": shifted_rles(kidney), **change})
    assert not (tmp_path / "page.html").exists()


def test_every_metric_of_a_sweep_has_a_curve():
    script = Path(page_module.__file__).with_name("charts.js").read_text()
    assert {*_CURVES} == {*METRICS} - {"cl_dice"}
    assert all(f"  {name}: [" in script for name in _CURVES)


def test_a_pixel_shows_the_kind_that_covers_most_of_it():
    """2x2 blocks become pixels: three hits and a miss, one false alarm (a quarter), nothing, two misses."""
    mask_gt = np.array([[1, 1, 0, 0, 0, 0, 1, 1], [1, 1, 0, 0, 0, 0, 0, 0]], bool)
    mask_pred = np.array([[1, 1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]], bool)
    segmented = SegmentedSlice("k", np.zeros((2, 8), np.uint16), mask_pred, mask_gt)
    assert kinds_at(segmented, (4, 1)).tolist() == [[HIT, FALSE_ALARM, 0, MISS]]
    unlabelled = SegmentedSlice("k", np.zeros((2, 8), np.uint16), mask_pred)
    assert kinds_at(unlabelled, (4, 1)).tolist() == [[PREDICTION, PREDICTION, 0, 0]]


def test_a_coarse_voxel_is_set_where_any_voxel_in_it_is():
    coarse = CoarseMask((2, 3, 449))  # 3 voxels to one: 225 are a step too many
    for z, x in ((0, 0), (1, 448)):
        mask = np.zeros((3, 449), bool)
        mask[2, x] = True
        coarse.add(z, mask)
    assert coarse.factor == 3 and coarse.mask.shape == (1, 1, 150)
    assert np.flatnonzero(coarse.mask).tolist() == [0, 149]


def test_the_surface_encloses_a_cube():
    coarse = CoarseMask((9, 9, 9))
    mask = np.zeros((9, 9), bool)
    mask[2:5, 5:9] = True
    for z in range(3, 6):
        coarse.add(z, mask)
    mesh = surface(coarse)
    vertices, faces = mesh
    assert np.abs(vertices.min(axis=0) - (2.5, 1.5, 4.5)).max() < 0.5
    assert np.abs(vertices.max(axis=0) - (5.5, 4.5, 8.5)).max() < 0.5
    # Closed: every edge belongs to two triangles.
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    assert 0 < len(decimate(mesh, 60).faces) <= 60 < len(faces)
    assert decimate(mesh, 10_000) is mesh
    assert surface(CoarseMask((9, 9, 9))) is None


def test_meshes_come_back_as_they_were(tmp_path, kidney):
    page = written(tmp_path, volumes=[kidney], rles=shifted_rles(kidney))
    (found,) = json.loads(page.text["facts"])["kidneys"]
    assert [mesh["name"] for mesh in found["meshes"]] == ["prediction", "label", "organ"]
    coarse = CoarseMask((4, 40, 31))
    for z in range(4):
        coarse.add(z, kidney.label(z))
    expected = surface(coarse)
    low, high = (np.array(found["meshes"][1][end]) for end in ("low", "high"))
    fractions = np.frombuffer(unpacked(page.text["vertices-0-label"]), "<u2").reshape(3, -1).T
    faces = np.frombuffer(unpacked(page.text["faces-0-label"]), "<i4").reshape(3, -1).T.cumsum(axis=0)
    vertices = low + fractions / 65535 * (high - low)
    assert len(faces) == found["meshes"][1]["triangles"] == len(expected.faces)
    centers, centers_expected = vertices[faces].mean(axis=1), expected.vertices[expected.faces].mean(axis=1)
    assert np.abs(sorted(centers.sum(axis=1)) - np.sort(centers_expected.sum(axis=1))).max() < 0.01


def test_the_organ_is_a_shell_around_the_vessels(tmp_path):
    volume = open_volume(write_phantom(tmp_path, "phantom", Phantom(shape=(6, 96, 96))))
    page = written(tmp_path, volumes=[volume], rles=shifted_rles(volume))
    (found,) = json.loads(page.text["facts"])["kidneys"]
    by_name = {mesh["name"]: mesh for mesh in found["meshes"]}
    assert list(by_name) == ["prediction", "label", "organ"] and by_name["organ"]["triangles"] <= 6_000
    for axis in (1, 2):
        assert by_name["organ"]["low"][axis] < by_name["label"]["low"][axis]
        assert by_name["organ"]["high"][axis] > by_name["label"]["high"][axis] - 3
    coarse = CoarseOrgan((6, 96, 96))
    for z, slice_ in enumerate(volume):
        coarse.add_image(z, slice_)
    assert coarse.factor == 2 and 0.3 < coarse.mask.mean() < 0.7


def test_vessels_keep_their_pixels_where_the_picture_is_smaller(tmp_path, write_kidney):
    """An overlay of the slice's own size costs little; the grey picture shrinks first."""
    write_kidney(tmp_path / "kidney_7", depth=2, size=(300, 400))
    volume = open_volume(tmp_path / "kidney_7")
    mask = np.zeros((300, 400), bool)
    mask[100:104, 100:300] = True
    rles = dict.fromkeys(volume.slice_ids, mask)
    full = written(tmp_path, volumes=[Volume("kidney_7", volume.image_paths)], rles=rles)
    limit = (tmp_path / "page.html").stat().st_size - len(full.text["image-0-0"])
    page = written(tmp_path, volumes=[Volume("kidney_7", volume.image_paths)], rles=rles, max_bytes=limit)
    assert picture(page.text["image-0-0"]).shape[1] < 400
    assert ((picture(page.text["overlay-0-0"]) > 0) == mask).all()


def test_slices_that_are_far_apart_are_each_cropped_to_their_own_organ(tmp_path):
    """A disc of 20 pixels' radius and one of 40: where slices follow one another, one box holds both."""
    import tifffile

    y, x = np.ogrid[:100, :120]
    for name, numbers in (("apart", (3, 90)), ("neighbours", (3, 4))):
        (tmp_path / name / "images").mkdir(parents=True)
        for number, radius in zip(numbers, (20, 40), strict=True):
            grey = np.where(np.hypot(y - 50, x - 60) < radius, 30_000, 20_000)
            image = np.random.default_rng(number).normal(grey, 300).astype(np.uint16)  # flat, it would be padding
            tifffile.imwrite(tmp_path / name / "images" / f"{number:04}.tif", image)
    small, large = ([(50 - r) / 100, (50 + r) / 100, (60 - r) / 120, (60 + r) / 120] for r in (20, 40))
    for name, expected in (("apart", [small, large]), ("neighbours", [large])):
        volume = open_volume(tmp_path / name)
        page = written(tmp_path, volumes=[volume], rles=dict.fromkeys(volume.slice_ids, "1 0"))
        (found,) = json.loads(page.text["facts"])["kidneys"]
        assert len(found["boxes"]) == len(expected)
        assert np.abs(np.subtract(found["boxes"], expected)).max() < 0.08  # a margin around it


def test_the_shell_is_the_organ_alone(tmp_path):
    coarse = CoarseOrgan((8, 8, 8))
    coarse.mask[2:6, 2:6, 2:6] = True
    coarse.mask[0, 0, 0] = coarse.mask[7, 7, 6:] = True
    coarse.keep_largest()
    assert coarse.mask.sum() == 64 and coarse.mask[2:6, 2:6, 2:6].all()


def test_masks_and_any_names_do_as_well_as_a_submission(tmp_path, write_kidney):
    write_kidney(tmp_path / "scan of 3 May", depth=3)
    volume = open_volume(tmp_path / "scan of 3 May")
    masks = {slice_id: np.roll(volume.label(z), 1, axis=1) for z, slice_id in enumerate(volume.slice_ids)}
    written(tmp_path, volumes=[volume], rles=masks)
    page = (tmp_path / "page.html").read_bytes()
    written(tmp_path, volumes=[volume], rles=shifted_rles(volume))
    assert (tmp_path / "page.html").read_bytes() == page
    with pytest.raises(InputError, match="0000: the mask must be of the image's size, 40x31, found"):
        written(tmp_path, volumes=[volume], rles=masks | {volume.slice_ids[0]: np.zeros((31, 40), bool)})


def test_scores_are_those_of_the_score_command(tmp_path, kidney):
    """Two runs of consecutive slices and a slice without label between them."""
    scorers = KidneyScorer(), KidneyScorer()
    labels = {stem: path for stem, path in kidney.label_paths.items() if stem != "0001"}
    volume = Volume("k", kidney.image_paths, labels)
    rles = {name: rle_encode(np.roll(kidney.label(z), 1, axis=1)) for z, name in enumerate(volume.slice_ids)}
    exact = {name: kidney.label(z) for z, name in enumerate(volume.slice_ids)}
    page = written(tmp_path, volumes=[volume], rles=rles, other=Prediction(exact))
    for z in (0, 2, 3):
        for scorer, shift in zip(scorers, (1, 0), strict=True):
            scorer.update(volume.label(z), np.roll(volume.label(z), shift, axis=1), begins_run=z != 3)
    facts = json.loads(page.text["facts"])
    for scorer, run in zip(scorers, facts["runs"], strict=True):
        expected = scorer.compute()
        assert run["scores"] == {name: pytest.approx(getattr(expected, name)) for name in run["scores"]}
    assert [run["name"] for run in facts["runs"]] == ["Prediction (1)", "Prediction (2)"]
    assert "3 slices in 2 runs, so only 1 layer(s)" in facts["remarks"][0]
    assert "1 slices without a label are left out" in facts["remarks"][0]


@pytest.mark.parametrize(
    ("depth", "without", "reason"),
    [(2, None, "at least 3 consecutive slices"), (4, "0002.tif", "have gaps"), (3, None, "")],
    ids=["two slices", "gap", "three slices"],
)
def test_the_tree_is_drawn_or_the_reason_given(tmp_path, write_kidney, depth, without, reason):
    write_kidney(tmp_path / "kidney_6", depth=depth)
    for folder in ("images", "labels"):
        if without:
            (tmp_path / "kidney_6" / folder / without).unlink()
    volume = open_volume(tmp_path / "kidney_6")
    page = written(tmp_path, volumes=[volume], rles=shifted_rles(volume))
    (found,) = json.loads(page.text["facts"])["kidneys"]
    assert reason in found["noTree"] and bool(found["noTree"]) == bool(reason)
    assert bool(found["meshes"]) == ("faces-0-label" in page.text) == (not reason)


@pytest.fixture(scope="module")
def phantom_page(tmp_path_factory) -> Path:
    """A labelled phantom and the same without labels, under a hostile title."""
    folder = tmp_path_factory.mktemp("page")
    labelled = open_volume(write_phantom(folder, "phantom", Phantom(shape=(12, 128, 128))))
    unlabelled = Volume("bare", labelled.image_paths)
    rles = shifted_rles(labelled)
    rles |= dict(zip(unlabelled.slice_ids, list(rles.values()), strict=True))
    volumes = [labelled, unlabelled]
    seen = {labelled.slice_ids[2]: "learned", labelled.slice_ids[3]: "chosen"}
    run = {"rles": rles, "about": ABOUT, "seen": seen, "history": HISTORY, "sweep": SWEEP}
    write_page(folder / "page.html", title=HOSTILE, volumes=volumes, **run)
    return folder / "page.html"


@pytest.fixture(scope="module")
def two_runs_page(tmp_path_factory) -> Path:
    """A phantom's label, one pixel to the right, beside the label itself."""
    folder = tmp_path_factory.mktemp("two")
    volume = open_volume(write_phantom(folder, "phantom", Phantom(shape=(3, 96, 96))))
    exact = {name: volume.label(z) for z, name in enumerate(volume.slice_ids)}
    run = {"rles": shifted_rles(volume), "name": "first", "other": Prediction(exact, "second", {"Settings": "exact"})}
    write_page(folder / "page.html", title="two runs", volumes=[volume], **run)
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium that cannot resolve any name."""
    if CHROMIUM is None or CHROMEDRIVER is None:
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    switches = (
        "headless=new no-sandbox disable-gpu use-gl=angle use-angle=swiftshader enable-unsafe-swiftshader disable-quic "
        "no-first-run disable-background-networking disable-component-update disable-sync window-size=1280,800"
    )
    for switch in switches.split():
        options.add_argument(f"--{switch}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(CHROMEDRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture
def shown(browser, phantom_page):
    """The page, freshly opened; in the end it must have logged no error and asked for no address."""
    browser.get(phantom_page.as_uri())
    wait_for_slice(browser, "phantom_0005")
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    # The browser's own start page may still be asking for its parts.
    asked = [one["request"]["url"] for one in requests if one["documentURL"] == phantom_page.as_uri()]
    assert phantom_page.as_uri() in asked
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert browser.execute_script("return window.broken") is None


def test_browser_moves_from_slice_to_slice(shown):
    from selenium.webdriver.common.keys import Keys

    seen = {canvases(shown)}
    shown.execute_script(
        "const s = arguments[0]; s.value = 9; s.dispatchEvent(new Event('input'))", by_id(shown, "slider")
    )
    for slice_id, act in (
        ("phantom_0009", lambda: None),
        ("phantom_0008", lambda: by_id(shown, "previous").click()),
        ("phantom_0010", lambda: (by_id(shown, "next").click(), by_id(shown, "next").click())),
        ("phantom_0011", lambda: by_id(shown, "slider").send_keys(Keys.ARROW_RIGHT)),
        ("phantom_0000", lambda: shown.switch_to.active_element.send_keys(Keys.HOME)),
    ):
        act()
        wait_for_slice(shown, slice_id)
        assert by_id(shown, "slice-id").text == slice_id
        assert canvases(shown) not in seen
        seen.add(canvases(shown))
    assert by_id(shown, "position").text == "1 of 12"
    assert not by_id(shown, "previous").is_enabled() and by_id(shown, "next").is_enabled()
    shown.execute_script("document.activeElement.blur()")
    shown.find_element("tag name", "body").send_keys(Keys.ARROW_RIGHT)
    wait_for_slice(shown, "phantom_0001")


def test_browser_paints_each_error_and_hides_it(shown, phantom_page):
    (row,) = [row for row in facts(phantom_page)["kidneys"][0]["slices"] if row["id"] == "phantom_0005"]
    counts = {FOUND: row["both"], MISSED: row["gt"] - row["both"], FALSE: row["pred"] - row["both"]}
    assert min(counts.values()) > 0
    assert painted(shown) == {}  # outlined
    by_id(shown, "toggle-filled").click()
    assert painted(shown) == counts
    for number, color in ((1, FOUND), (2, MISSED), (3, FALSE)):
        by_id(shown, f"toggle-{number}").click()
        del counts[color]
        assert painted(shown) == counts
    for number in (1, 2, 3):
        by_id(shown, f"toggle-{number}").click()
    by_id(shown, "toggle-overlay").click()
    assert painted(shown) == {}
    assert f"Dice {row['dice']:.4f}" == by_id(shown, "slice-dice").text
    assert f"label {row['gt']:,} px, prediction {row['pred']:,} px" in by_id(shown, "picture-note").text


def test_browser_outlines_errors_and_leaves_the_anatomy(shown):
    """Lines one and a half pixels wide on the screen, at any zoom."""
    by_id(shown, "whole").click()
    before = outlined(shown)
    assert {FOUND, MISSED, FALSE} & before.keys() >= {FOUND, FALSE}
    for _ in range(4):
        by_id(shown, "zoom-in").click()
    after = outlined(shown)
    assert after[FOUND] < 5.1 * before[FOUND]  # filled, 25 times as many
    by_id(shown, "toggle-overlay").click()
    assert outlined(shown) == {}


def test_browser_zooms_and_moves(shown):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    stage = by_id(shown, "stage")
    shown.execute_script("arguments[0].scrollIntoView({block: 'center'})", stage)
    by_id(shown, "whole").click()
    whole = placement(shown)
    assert by_id(shown, "zoom").text == "1.0×" and not by_id(shown, "zoom-out").is_enabled()
    stage.send_keys("+")
    near = placement(shown)
    assert near == pytest.approx(whole | {"size": 1.5 * whole["size"]}, rel=1e-5)
    ActionChains(shown).move_to_element(stage).click_and_hold().move_by_offset(-20, -10).release().perform()
    dragged = placement(shown)
    assert dragged["x"] == pytest.approx(near["x"] + 20 / near["size"])
    assert dragged["y"] == pytest.approx(near["y"] + 10 / near["size"])
    ActionChains(shown).key_down(Keys.SHIFT).send_keys(Keys.ARROW_LEFT).key_up(Keys.SHIFT).perform()
    assert placement(shown)["x"] < dragged["x"] and by_id(shown, "slice-id").text == "phantom_0005"
    stage.send_keys("0")
    assert placement(shown) == pytest.approx(whole)
    stage.send_keys("c")
    assert placement(shown)["size"] >= whole["size"]


def test_browser_keeps_the_point_under_the_wheel_or_two_fingers(shown):
    stage = by_id(shown, "stage")
    by_id(shown, "whole").click()
    wheel = """
        const stage = document.getElementById('stage'), box = stage.getBoundingClientRect();
        const at = {clientX: box.left + box.width * 0.7, clientY: box.top + box.height * 0.4};
        const how = {deltaY: -400, bubbles: true, cancelable: true, ctrlKey: true};
        stage.dispatchEvent(new WheelEvent('wheel', {...at, ...how}));
    """
    before = placement(shown)
    shown.execute_script(wheel)
    after = placement(shown)
    assert after["size"] > 1.7 * before["size"]
    for axis, part, length in (("x", 0.7, "width"), ("y", 0.4, "height")):
        offset = (part - 0.5) * stage.size[length]
        assert after[axis] + offset / after["size"] == pytest.approx(before[axis] + offset / before["size"], abs=0.5)
    pinch = """
        const stage = document.getElementById('stage'), box = stage.getBoundingClientRect();
        stage.setPointerCapture = () => {};
        const send = (type, id, x) => stage.dispatchEvent(new PointerEvent(type, {
          pointerId: id, pointerType: 'touch', clientX: box.left + box.width / 2 + x,
          clientY: box.top + box.height / 2, bubbles: true}));
        send('pointerdown', 1, -20); send('pointerdown', 2, 20);
        send('pointermove', 1, -40); send('pointermove', 2, 40);
        send('pointerup', 1, -40); send('pointerup', 2, 40);
    """
    by_id(shown, "whole").click()
    shown.execute_script(pinch)
    assert placement(shown)["size"] == pytest.approx(2 * before["size"], rel=0.01)


def test_browser_swipes_to_the_next_slice(shown):
    swipe = """
        const stage = document.getElementById('stage'), box = stage.getBoundingClientRect();
        stage.setPointerCapture = () => {};
        for (const [type, x] of [['pointerdown', 100], ['pointermove', 60], ['pointermove', 30], ['pointerup', 30]])
          stage.dispatchEvent(new PointerEvent(type, {pointerId: 1, pointerType: 'touch', clientX: box.left + x,
            clientY: box.top + 50, bubbles: true}));
    """
    by_id(shown, "whole").click()
    shown.execute_script(swipe)
    wait_for_slice(shown, "phantom_0006")


def test_browser_changes_level_and_window(shown, phantom_page):
    """White is where the window ends: the filter's slope times its grey values."""
    low, high = facts(phantom_page)["kidneys"][0]["window"]
    assert by_id(shown, "greys").text == f"{round(low):,} to {round(high):,}"
    first = shown.execute_script("return document.getElementById('picture').style.filter")
    shown.find_element("tag name", "body").send_keys("]]")
    second = shown.execute_script("return document.getElementById('picture').style.filter")
    assert first != second and "brightness" in second and "contrast" in second
    by_id(shown, "reset-greys").click()
    assert shown.execute_script("return document.getElementById('picture').style.filter") == first
    grey_low, grey_high = facts(phantom_page)["kidneys"][0]["grey"]
    bright, contrast = (float(number) for number in re.findall(r"[\d.]+", first))
    for grey, expected in ((low, 0), ((low + high) / 2, 0.5), (high, 1)):
        stored = (grey - grey_low) / (grey_high - grey_low)
        assert (stored * bright - 0.5) * contrast + 0.5 == pytest.approx(expected, abs=0.01)


def test_browser_flags_slices_that_the_model_has_seen(shown):
    assert not by_id(shown, "slice-seen").is_displayed()
    shown.execute_script("location.hash = '#phantom_0002'")
    wait_for_slice(shown, "phantom_0002")
    assert by_id(shown, "slice-seen").text == "learned from"
    by_id(shown, "next").click()
    wait_for_slice(shown, "phantom_0003")
    assert by_id(shown, "slice-seen").text == "epoch and threshold chosen on it"
    for chart in ("dice", "pixel"):
        assert len(shown.find_elements("css selector", f"#{chart}-chart .seen-mark")) == 2
    flagged = {link.text for link in shown.find_elements("css selector", "#worst tr:has(.seen) a")}
    worst = {link.text for link in shown.find_elements("css selector", "#worst a")}
    assert flagged == worst & {"phantom_0002", "phantom_0003"} and flagged


def test_browser_leads_from_the_worst_slices_to_them(shown, phantom_page):
    rows = [row for row in facts(phantom_page)["kidneys"][0]["slices"] if row["gt"]]
    worst = sorted(rows, key=lambda row: row["dice"])[:10]
    links = shown.find_elements("css selector", "#worst a")
    assert [link.text for link in links] == [row["id"] for row in worst]
    links[3].click()
    wait_for_slice(shown, worst[3]["id"])
    assert shown.execute_script("return location.hash") == f"#{worst[3]['id']}"
    shown.refresh()
    wait_for_slice(shown, worst[3]["id"])


def test_browser_keeps_slices_without_vessels_out_of_the_worst(browser, tmp_path, write_kidney):
    """Any false alarm makes their Dice 0, and dozens of them would hide the slices in which vessels are missed."""
    write_kidney(tmp_path / "k", depth=4)
    volume = open_volume(tmp_path / "k")
    volume = BlankLabels(volume.name, volume.image_paths, volume.label_paths)
    masks = {slice_id: np.zeros((40, 31), bool) for slice_id in volume.slice_ids}
    for z, pixels in ((0, 2), (1, 5), (3, 1)):
        masks[volume.slice_ids[z]][0, :pixels] = True
    written(tmp_path, volumes=[volume], rles=masks)
    browser.get((tmp_path / "page.html").as_uri())
    wait_for_slice(browser, "k_0001")
    assert [link.text for link in browser.find_elements("css selector", "#worst a")] == ["k_0003", "k_0002"]
    note = "2 slices without a vessel in the label have false alarms; the most: k_0001, 5 px."
    assert by_id(browser, "worst-note").text == note


def test_browser_says_what_made_it_and_what_it_may_not_be_compared_with(shown, phantom_page):
    scores = facts(phantom_page)["runs"][0]["scores"]
    shown_scores = [tile.text.split("\n") for tile in shown.find_elements("css selector", "#scores dl > div")]
    assert [each[0] for each in shown_scores] == ["Surface Dice", "2D Surface Dice", "Pooled Dice", "Mean Dice"]
    assert [each[1] for each in shown_scores] == [f"{value:.4f}" for value in scores.values()]
    assert shown_scores[0][2] == "the competition's metric"
    remarks = by_id(shown, "remarks").text
    assert "phantom cannot be compared with the leaderboard: a stack of 12" in remarks
    assert "no number here is a leaderboard score" in remarks
    said = by_id(shown, "about").text
    assert all(part in said for pair in ABOUT.items() for part in pair)


def test_browser_draws_no_line_between_slices_that_are_far_apart(browser, tmp_path, write_kidney):
    """0000 and 0001 are neighbours, 0005 is alone; the axis begins at 0."""
    write_kidney(tmp_path / "k", depth=6)
    for z in (2, 3, 4):
        for folder in ("images", "labels"):
            (tmp_path / "k" / folder / f"000{z}.tif").unlink()
    volume = open_volume(tmp_path / "k")
    written(tmp_path, volumes=[volume], rles=shifted_rles(volume))
    browser.get((tmp_path / "page.html").as_uri())
    wait_for_slice(browser, "k_0001")
    for chart in ("dice", "pixel"):
        paths = browser.find_elements("css selector", f"#{chart}-chart > svg path")
        assert all(re.fullmatch(r"M\S+ \S+?L\S+ \S+?M\S+ \S+", path.get_attribute("d")) for path in paths)
        axis, first = (
            browser.find_element("css selector", f"#{chart}-chart > svg {each}").rect["x"]
            for each in ("line", "circle")
        )
        assert first > axis + 3  # the first slice's point is clear of the axis
        ticks = [text.text for text in browser.find_elements("css selector", f"#{chart}-chart text[text-anchor=end]")]
        assert ticks[0] == "0"


def test_browser_shows_two_runs_side_by_side(browser, two_runs_page):
    browser.get(two_runs_page.as_uri())
    wait_for_slice(browser, "phantom_0001")
    assert by_id(browser, "stage-2").is_displayed()
    (row,) = [row for row in facts(two_runs_page)["kidneys"][0]["slices"] if row["id"] == "phantom_0001"]
    assert by_id(browser, "caption").text.startswith(f"first: Dice {row['dice']:.4f}") and row["dice"] < 1
    assert by_id(browser, "caption-2").text == "second: Dice 1.0000, 0 px missed, 0 false"
    assert painted(browser, "overlay-2") == {}
    by_id(browser, "toggle-filled").click()
    assert painted(browser, "overlay-2") == {FOUND: row["gt"]} and MISSED in painted(browser)
    by_id(browser, "zoom-in").click()
    transforms = browser.execute_script(
        "return [...document.querySelectorAll('.layers')].map((e) => e.style.transform)"
    )
    assert len(transforms) == 2 and len(set(transforms)) == 1
    assert len(browser.find_elements("css selector", "#dice-chart > svg path")) == 2
    for part in ("#dice-chart > svg path", "#dice-chart .legend line"):  # told apart without colours
        lines = browser.find_elements("css selector", part)
        assert len({line.get_attribute("stroke-dasharray") for line in lines}) == len(lines) == 2
    heads = [head.text for head in browser.find_elements("css selector", "#worst th")]
    assert heads == ["Slice", "Dice, first", "Missed px", "False px", "Dice, second", "Difference", "Label px"]
    assert not by_id(browser, "slice-dice").is_displayed()  # it would stand above the other run's picture
    assert by_id(browser, "picture-note").text == f"label {row['gt']:,} px · slice of 96 × 96 px"
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize(("chart", "side", "slice_id"), [("dice", 1, "phantom_0011"), ("pixel", -1, "phantom_0000")])
def test_browser_jumps_to_where_a_chart_is_clicked(shown, chart, side, slice_id):
    from selenium.webdriver import ActionChains

    svg = shown.find_element("css selector", f"#{chart}-chart > svg")
    shown.execute_script("arguments[0].scrollIntoView({block: 'center'})", svg)
    ActionChains(shown).move_to_element_with_offset(svg, side * (svg.size["width"] // 2 - 12), 0).click().perform()
    wait_for_slice(shown, slice_id)
    assert "slice number" in shown.find_element("css selector", f"#{chart}-chart .tip").text


def test_browser_draws_the_curves(shown):
    for name, lines in (("threshold", 2), ("loss", 1), ("held-out-dice", 1), ("dice", 1), ("pixel", 2)):
        paths = shown.find_elements("css selector", f"#{name}-chart > svg path")
        assert len(paths) == lines
        drawn = [path.get_attribute("d") for path in paths]
        assert all(re.fullmatch(r"([ML]-?[\d.]+ -?[\d.]+){2,}", path) for path in drawn), drawn
    assert [path.count("M") for path in drawn] == [1, 1]


def test_browser_shows_the_tree(shown):
    tree = by_id(shown, "tree")
    assert not shown.execute_script("return window.Plotly")  # not before it comes into view
    shown.execute_script("arguments[0].scrollIntoView()", tree)
    wait(shown, "return document.getElementById('tree').dataset.drawn === 'phantom'")
    both = colored(tree, BLUE)
    assert both.sum() > 200
    rows, columns = (np.flatnonzero(both.any(axis)) for axis in (1, 0))  # all of it, and large
    assert rows[0] > 3 and rows[-1] < both.shape[0] - 4 and columns[0] > 3 and columns[-1] < both.shape[1] - 4
    assert max(np.ptp(rows) / both.shape[0], np.ptp(columns) / both.shape[1]) > 0.4
    by_id(shown, "toggle-prediction").click()
    wait(shown, "return document.getElementById('tree').data[0].visible === false")
    assert colored(tree, BLUE).sum() < both.sum() / 4
    assert by_id(shown, "toggle-organ").is_selected()


def test_browser_changes_the_kidney(shown, phantom_page):
    shown.find_elements("css selector", "#kidney option")[1].click()
    wait_for_slice(shown, "bare_0005")
    row = facts(phantom_page)["kidneys"][1]["slices"][5]
    by_id(shown, "toggle-filled").click()
    assert painted(shown) == {BLUE: row["pred"]}
    assert by_id(shown, "slice-dice").text == "no label"
    assert not by_id(shown, "dice-card").is_displayed()


def test_browser_says_at_once_why_there_is_no_tree(browser, tmp_path, write_kidney):
    write_kidney(tmp_path / "kidney_6", depth=2)
    volume = open_volume(tmp_path / "kidney_6")
    written(tmp_path, volumes=[volume], rles=shifted_rles(volume))
    browser.get((tmp_path / "page.html").as_uri())
    wait(browser, "return document.getElementById('tree').textContent.includes('at least 3 consecutive slices')")


def test_browser_keeps_legends_off_the_lines(shown):
    for chart in shown.find_elements("css selector", ".chart:has(.legend)"):
        legend = chart.find_element("css selector", ".legend").rect
        lines = [line.rect for line in chart.find_elements("css selector", ":scope > svg path")]
        assert min(line["y"] for line in lines) >= legend["y"] + legend["height"]


def picture(text: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_GRAYSCALE)


def unpacked(text: str) -> bytes:
    return gzip.decompress(base64.b64decode(text))


def facts(page_path: Path) -> dict:
    return json.loads(Elements(page_path.read_text()).text["facts"])


def by_id(driver, element_id: str):
    return driver.find_element("id", element_id)


def wait(driver, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 120, poll_frequency=0.05).until(lambda _: driver.execute_script(script))


def wait_for_slice(driver, slice_id: str) -> None:
    wait(driver, f"return document.getElementById('stage').dataset.drawn === '{slice_id}'")


def canvases(driver) -> tuple[str, str]:
    """Both pictures as they are painted."""
    script = "return ['picture', 'overlay'].map((id) => document.getElementById(id).toDataURL())"
    return tuple(driver.execute_script(script))


def placement(driver) -> dict[str, float]:
    """Which pixel of the slice is in the middle of the stage, and how large it is on the screen."""
    script = """
        const stage = document.getElementById('stage'), layers = stage.firstElementChild;
        const [left, top, size] = layers.style.transform.match(/-?[\\d.]+/g).map(Number);
        return {x: (stage.clientWidth / 2 - left) / size, y: (stage.clientHeight / 2 - top) / size, size};
    """
    return driver.execute_script(script)


def outlined(driver) -> dict[tuple[int, int, int], int]:
    """How many pixels of the outlines have which colour, where no other is mixed in."""
    return {color: count for color, count in painted(driver, "outline", 255).items() if count > 3}


def painted(driver, canvas: str = "overlay", opacity: int = 1) -> dict[tuple[int, int, int], int]:
    """How many pixels of a canvas have which colour."""
    overlay = driver.execute_script(f"return document.getElementById('{canvas}').toDataURL()")
    rgba = cv2.imdecode(np.frombuffer(base64.b64decode(overlay.split(",")[1]), np.uint8), cv2.IMREAD_UNCHANGED)
    colors, counts = np.unique(rgba[rgba[..., 3] >= opacity][:, 2::-1], axis=0, return_counts=True)
    return {tuple(color): count for color, count in zip(colors.tolist(), counts.tolist(), strict=True)}


def colored(element, color: tuple[int, int, int]) -> np.ndarray:
    """Where, (H, W) bool, an element has about one hue in its screenshot; light and shade change the rest."""
    rgb = cv2.imdecode(np.frombuffer(element.screenshot_as_png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(float)
    chroma = rgb - rgb.mean(axis=2, keepdims=True)
    wanted = np.array(color) - np.mean(color)
    norm = np.linalg.norm(chroma, axis=2)
    return (norm > 30) & (chroma @ wanted > 0.97 * norm * np.linalg.norm(wanted))
