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
from sennet_kaggle.reports import page as page_module
from sennet_kaggle.reports.mesh import CoarseMask, decimate, surface
from sennet_kaggle.reports.page import _CURVES, write_page
from sennet_kaggle.reports.pictures import FALSE_ALARM, HIT, KIND_STEP, MISS, PREDICTION, kinds_at
from sennet_kaggle.reports.report import SegmentedSlice
from sennet_kaggle.scoring.metrics import dice_coefficient
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
GREEN, RED, YELLOW, BLUE = (62, 207, 91), (255, 69, 64), (255, 192, 33), (61, 127, 224)


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
        "id": "kidney_9_0000", "size": [40, 31], "gt": int(masks_gt[0].sum()), "pred": 0, "both": 0, "dice": 0.0
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
    script = Path(page_module.__file__).with_name("page.js").read_text()
    assert {*_CURVES} == {*METRICS} - {"cl_dice"}
    assert all(f"    {name}: [" in script for name in _CURVES)


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
    assert [mesh["name"] for mesh in found["meshes"]] == ["prediction", "label"]
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
    write_page(folder / "page.html", title=HOSTILE, volumes=volumes, rles=rles, history=HISTORY, sweep=SWEEP)
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
    counts = {GREEN: row["both"], RED: row["gt"] - row["both"], YELLOW: row["pred"] - row["both"]}
    assert min(counts.values()) > 0
    assert painted(shown) == counts
    for number, color in ((1, GREEN), (2, RED), (3, YELLOW)):
        by_id(shown, f"toggle-{number}").click()
        del counts[color]
        assert painted(shown) == counts
    for number in (1, 2, 3):
        by_id(shown, f"toggle-{number}").click()
    by_id(shown, "toggle-overlay").click()
    assert painted(shown) == {}
    assert f"Dice {row['dice']:.4f}" == by_id(shown, "slice-dice").text
    assert f"label {row['gt']:,} px, prediction {row['pred']:,} px" in by_id(shown, "picture-note").text


@pytest.mark.parametrize(("chart", "side", "slice_id"), [("dice", 1, "phantom_0011"), ("pixel", -1, "phantom_0000")])
def test_browser_jumps_to_where_a_chart_is_clicked(shown, chart, side, slice_id):
    from selenium.webdriver import ActionChains

    svg = shown.find_element("css selector", f"#{chart}-chart svg")
    shown.execute_script("arguments[0].scrollIntoView({block: 'center'})", svg)
    ActionChains(shown).move_to_element_with_offset(svg, side * (svg.size["width"] // 2 - 12), 0).click().perform()
    wait_for_slice(shown, slice_id)
    assert "slice number" in shown.find_element("css selector", f"#{chart}-chart .tip").text


def test_browser_draws_the_curves(shown):
    for name, lines in (("threshold", 2), ("loss", 1), ("held-out-dice", 1), ("dice", 1), ("pixel", 2)):
        paths = shown.find_elements("css selector", f"#{name}-chart svg path")
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
    assert both > 200
    by_id(shown, "toggle-prediction").click()
    wait(shown, "return document.getElementById('tree').data[0].visible === false")
    assert colored(tree, BLUE) < both / 4


def test_browser_changes_the_kidney(shown, phantom_page):
    shown.find_elements("css selector", "#kidney option")[1].click()
    wait_for_slice(shown, "bare_0005")
    row = facts(phantom_page)["kidneys"][1]["slices"][5]
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
        lines = [line.rect for line in chart.find_elements("css selector", "svg path")]
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

    WebDriverWait(driver, 30, poll_frequency=0.05).until(lambda _: driver.execute_script(script))


def wait_for_slice(driver, slice_id: str) -> None:
    wait(driver, f"return document.getElementById('stage').dataset.drawn === '{slice_id}'")


def canvases(driver) -> tuple[str, str]:
    """Both pictures as they are painted."""
    script = "return ['picture', 'overlay'].map((id) => document.getElementById(id).toDataURL())"
    return tuple(driver.execute_script(script))


def painted(driver) -> dict[tuple[int, int, int], int]:
    """How many pixels of the overlay have which colour."""
    _, overlay = canvases(driver)
    rgba = cv2.imdecode(np.frombuffer(base64.b64decode(overlay.split(",")[1]), np.uint8), cv2.IMREAD_UNCHANGED)
    colors, counts = np.unique(rgba[rgba[..., 3] > 0][:, 2::-1], axis=0, return_counts=True)
    return {tuple(color): count for color, count in zip(colors.tolist(), counts.tolist(), strict=True)}


def colored(element, color: tuple[int, int, int]) -> int:
    """Pixels of about one hue in an element's screenshot; light and shade change the rest."""
    rgb = cv2.imdecode(np.frombuffer(element.screenshot_as_png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(float)
    chroma = rgb - rgb.mean(axis=2, keepdims=True)
    wanted = np.array(color) - np.mean(color)
    norm = np.linalg.norm(chroma, axis=2)
    return int(((norm > 30) & (chroma @ wanted > 0.97 * norm * np.linalg.norm(wanted))).sum())
