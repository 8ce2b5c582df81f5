"""What a rehearsal deletes: what it has made, and nothing else."""

import os

import pytest

from sennet_kaggle.data.phantom import Phantom
from sennet_kaggle.data.volume import open_volumes
from sennet_kaggle.errors import InputError
from sennet_kaggle.kernel.dry_run import check_rehearsal, lay_out_kaggle, open_rehearsal_volumes, rehearse, remaking

NAMES = ("submission.csv", "kaggle")


def make(folder, *names, text="made"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_what_it_has_made_is_made_anew(tmp_path):
    with remaking(tmp_path, NAMES):
        make(tmp_path, "submission.csv", "kaggle/working/a.csv")
        (tmp_path / "kaggle" / "empty").mkdir()
    make(tmp_path, "report.html")  # of another command
    with remaking(tmp_path, NAMES):
        assert {path.name for path in tmp_path.iterdir()} == {".dry-run.json", "report.html"}


@pytest.mark.parametrize("name", ["kaggle/working/mine.tif", "kaggle/input/x/0000.tif"])
@pytest.mark.parametrize("made_before", [True, False])
def test_a_file_of_somebody_stays(tmp_path, name, made_before):
    if made_before:
        with remaking(tmp_path, NAMES):
            make(tmp_path, "kaggle/working/a.csv")
    make(tmp_path, name, text="precious")
    with pytest.raises(InputError, match=f"{name} was not made by dry-run"), remaking(tmp_path, NAMES):
        pytest.fail("begun")
    assert (tmp_path / name).read_text() == "precious"


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("name", ["submission.csv", "kaggle/mine"])
def test_a_pipe_or_an_empty_folder_of_somebody_stays(tmp_path, put, name):
    with remaking(tmp_path, NAMES):
        make(tmp_path, "kaggle/a")
    put(tmp_path / name)
    with pytest.raises(InputError, match=f"{name} was not made by dry-run"), remaking(tmp_path, NAMES):
        pytest.fail("begun")
    assert (tmp_path / name).exists()


def test_a_note_that_is_not_its_own_claims_nothing(tmp_path):
    make(tmp_path, "kaggle/a")
    for text in ("", "[]", "{}", '{"made_by": "me", "paths": ["kaggle"]}', "\0"):
        make(tmp_path, ".dry-run.json", text=text)
        with pytest.raises(InputError, match="kaggle/a was not made by dry-run"), remaking(tmp_path, NAMES):
            pytest.fail("begun")


def test_links_are_not_followed(tmp_path):
    make(tmp_path / "data", "0000.tif", text="precious")
    with remaking(tmp_path / "out", NAMES):
        (tmp_path / "out" / "kaggle").mkdir()
        (tmp_path / "out" / "kaggle" / "input").symlink_to(tmp_path / "data")
    with remaking(tmp_path / "out", NAMES):
        assert not os.path.lexists(tmp_path / "out" / "kaggle")
    assert (tmp_path / "data" / "0000.tif").read_text() == "precious"
    (tmp_path / "out" / "kaggle").symlink_to(tmp_path / "data")  # by somebody
    with pytest.raises(InputError, match="out/kaggle was not made by dry-run"), remaking(tmp_path / "out", NAMES):
        pytest.fail("begun")


def test_a_killed_rehearsal_can_be_repeated(tmp_path):
    """Killed, it could not note what it had made: all under the names is its own."""
    with remaking(tmp_path, NAMES):
        make(tmp_path, "kaggle/working/a.csv")
        note = (tmp_path / ".dry-run.json").read_bytes()
    (tmp_path / ".dry-run.json").write_bytes(note)
    with remaking(tmp_path, NAMES):
        assert not (tmp_path / "kaggle").exists()


def test_slices_in_the_tree_are_not_deleted_before_they_are_read(tmp_path, write_kidney):
    write_kidney(tmp_path / "data" / "test" / "kidney_5", labels=False)
    with remaking(tmp_path / "out", NAMES):
        lay_out_kaggle(tmp_path / "out" / "kaggle", open_volumes(tmp_path / "data", "test"), "old", [])
    inside = open_volumes(tmp_path / "out" / "kaggle" / "input" / "blood-vessel-segmentation", "test")
    with pytest.raises(InputError, match="0000.tif lies in what dry-run replaces: choose another"):
        rehearse(inside, tmp_path / "out")
    assert len(inside[0]) == 3 and inside[0][0].shape == (40, 31)


def test_the_phantom_is_drawn_anew_and_other_kidneys_beside_it_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("sennet_kaggle.kernel.dry_run.KIDNEY_LIKE", Phantom(shape=(1, 64, 64)))
    for _ in range(2):
        (volume,) = open_rehearsal_volumes(None, (), tmp_path)
        make(tmp_path, "train/kidney_9/images/0000.tif", text="precious")
        assert (volume.name, len(volume)) == ("phantom", 1)
    assert (tmp_path / "train/kidney_9/images/0000.tif").read_text() == "precious"
    make(tmp_path, "train/phantom/images/mine.tif", text="precious")
    with pytest.raises(InputError, match="mine.tif was not made by dry-run"):
        open_rehearsal_volumes(None, (), tmp_path)


def test_the_check_before_the_work_makes_nothing(tmp_path):
    check_rehearsal(tmp_path / "out")
    assert not any(tmp_path.iterdir())
