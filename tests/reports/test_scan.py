"""The report page of a scan of one's own: no ids of the competition, and the mask as it is."""

import numpy as np
import pytest
from scan_files import NAMES, write

from sennet_kaggle.__main__ import main
from sennet_kaggle.data.phantom import Phantom, phantom_slices
from sennet_kaggle.errors import InputError
from sennet_kaggle.reports.scan import open_masked_scan
from sennet_kaggle.submission.rle import rle_decode

SHAPE = (4, 72, 64)
GREY, MASK = (np.stack(each) for each in zip(*phantom_slices(Phantom(SHAPE)), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_the_masks_are_those_of_the_file(tmp_path, name):
    (tmp_path / "mask").mkdir()
    scan = write(tmp_path / name, GREY)
    shown, texts, notes = open_masked_scan(scan, write(tmp_path / "mask" / name, MASK))
    decoded = [rle_decode(texts[slice_id], *SHAPE[1:]) for slice_id in shown.slice_ids]
    np.testing.assert_array_equal(decoded, MASK)
    assert not shown.is_labelled(0) and len(texts) == 4
    assert "of which nothing says what made it" in notes[1]
    assert ("voxels of unknown size" in notes[0]) == (name == "scan.npy")


def test_the_page(tmp_path, capsys):
    scan, mask = write(tmp_path / "scan.tif", GREY), write(tmp_path / "mask.nii", MASK)
    truth = write(tmp_path / "truth.npy", MASK)
    for options in ((), ("--labels", truth, "--output", tmp_path / "page.html")):
        assert main(["report", "--scan", str(scan), "--mask", str(mask), *map(str, options)]) == 0
    bare, page = ((tmp_path / name).read_text() for name in ("mask.nii.html", "page.html"))
    assert '"dice":1.0' in page and '"dice":1.0' not in bare and "scan_0002" in bare
    assert "voxels of 25 x 50 x 51 µm" in page


def test_what_is_refused(tmp_path, capsys):
    scan, mask = write(tmp_path / "scan.tif", GREY), write(tmp_path / "mask.nii", MASK[:3])
    with pytest.raises(InputError, match=r"mask.nii is \(3, 72, 64\) but .*scan.tif is \(4, 72, 64\)"):
        open_masked_scan(scan, mask)
    for options in ((), ("--scan", scan), ("--scan", scan, "--mask", mask, "--run-dir", tmp_path)):
        assert main(["report", *map(str, options)]) == 2
        assert "give --run-dir and --data-dir" in capsys.readouterr().err
