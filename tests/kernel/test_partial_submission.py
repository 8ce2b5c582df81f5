"""The submission while it grows: complete at once, resumed from a journal in which only whole lines count."""

import pytest

from sennet_kaggle.errors import InputError
from sennet_kaggle.kernel import journal
from sennet_kaggle.kernel import partial_submission as partial_submission_module
from sennet_kaggle.kernel.faults import Faults
from sennet_kaggle.kernel.journal import Journal, read_journal
from sennet_kaggle.kernel.partial_submission import PartialSubmission
from sennet_kaggle.submission.submission import read_submission

IDS = ["k_0000", "k, upper\n0001", "k_0002"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "submission.csv"


def begin(path, key="key", finished=()) -> PartialSubmission:
    rows = PartialSubmission(path, IDS, Faults(strict=True))
    rows.resume(key)
    for slice_id in finished:
        rows.add(slice_id, "1 2 9 3")
    return rows


def test_every_row_is_there_at_once(path):
    PartialSubmission(path, IDS, Faults(strict=True))
    assert dict(read_submission(path)) == dict.fromkeys(IDS, "1 0")


def test_what_was_finished_is_taken_over(path):
    first = begin(path, finished=IDS[:2])
    assert dict(read_submission(path)) == dict.fromkeys(IDS, "1 0")  # killed before it was saved
    second = begin(path)
    assert second.finished == set(IDS[:2])
    assert dict(read_submission(path)) == second.rles == first.rles
    second.add(IDS[2], "5 5")
    assert begin(path).finished == set(IDS)


def test_a_run_that_starts_again_leaves_what_is_there(path):
    rows = begin(path, finished=IDS[:2])
    rows.save()
    before = path.read_bytes()
    again = PartialSubmission(path, IDS, Faults(strict=True))  # no model is loaded yet
    assert path.read_bytes() == before
    again.resume("key")
    assert path.read_bytes() == before
    PartialSubmission(path, IDS[:2], Faults(strict=True))  # of other slices
    assert dict(read_submission(path)) == dict.fromkeys(IDS[:2], "1 0")


def test_an_unfinished_row_counts_but_is_tried_again(path):
    rows = begin(path)
    rows.add(IDS[0], "1 2", finished=False)
    rows.save()
    assert dict(read_submission(path))[IDS[0]] == "1 2"
    assert begin(path).finished == set()
    assert dict(read_submission(path))[IDS[0]] == "1 2"  # until it is tried


def test_another_key_starts_anew(path):
    begin(path, "key", IDS[:2])
    assert begin(path, "another key").finished == set()
    assert dict(read_submission(path)) == dict.fromkeys(IDS, "1 0")
    assert read_journal(path.with_name("submission.csv.journal"), "key") is None


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_line_that_was_cut_does_not_count_and_spoils_no_other(path, cut):
    begin(path, finished=IDS[:2])
    journal_path = path.with_name("submission.csv.journal")
    journal_path.write_bytes(journal_path.read_bytes()[:-cut])
    rows = begin(path)
    assert rows.finished == set(IDS[: 2 if cut == 1 else 1])  # the newline alone is no loss
    rows.add(IDS[2], "5 5")
    assert begin(path).finished == rows.finished


@pytest.mark.parametrize("at", range(0, 100, 7))
def test_a_damaged_byte_costs_at_most_its_line(path, at):
    begin(path, finished=IDS)
    journal_path = path.with_name("submission.csv.journal")
    content = bytearray(journal_path.read_bytes())
    content[at] ^= 1
    journal_path.write_bytes(content)
    assert len(begin(path).finished) in (0, 2, 3)  # the key's line, a row's, a newline between


def test_it_is_saved_while_it_grows(path, monkeypatch):
    monkeypatch.setattr(partial_submission_module, "_SECONDS_BETWEEN_SAVES", -1.0)
    begin(path, finished=IDS[:1])
    assert dict(read_submission(path))[IDS[0]] == "1 2 9 3"


def test_the_end_leaves_the_submission_alone(path):
    rows = begin(path, finished=IDS)
    rows.save()
    rows.drop_journal()
    assert [child.name for child in path.parent.iterdir()] == ["submission.csv"]


def of_process(path, rank, dropped=None, key="key") -> PartialSubmission:
    rows = PartialSubmission(path, IDS, Faults(strict=False, say=lambda _: None), dropped, rank)
    rows.resume(key)
    return rows


def test_the_first_process_learns_what_the_others_did(path):
    first, second = of_process(path, 0), of_process(path, 1, dropped := [])
    second.faults.note("k_0002", "is damaged", "its neighbour stands in")
    dropped.append("tta none")
    second.add(IDS[1], "5 5")
    second.add(IDS[2], "7 1", finished=False)
    assert dict(read_submission(path)) == dict.fromkeys(IDS, "1 0")  # which is the first one's to write
    assert first.take_over(1) == 2 and first.take_over(2) == 0
    assert first.rles == {IDS[0]: "1 0", IDS[1]: "5 5", IDS[2]: "7 1"}
    assert first.finished == {IDS[1]} and first.done == set(IDS[1:])
    assert first.dropped == ["tta none"]
    assert [str(fault) for fault in first.faults.noted] == ["k_0002: is damaged; its neighbour stands in"]
    first.take_over(1)
    assert first.dropped == ["tta none"]


def test_the_submission_is_the_first_process_s_to_write(path):
    of_process(path, 1).add(IDS[0], "1 1")
    assert [child.name for child in path.parent.iterdir()] == ["submission.csv.1.journal"]


def test_what_is_survived_before_there_is_a_journal_is_told(path):
    first = of_process(path, 0)
    second = PartialSubmission(path, IDS, Faults(strict=False, say=lambda _: None), [], rank=1)
    second.faults.note("b.safetensors", "is truncated", "goes on without this model")
    second.resume("key")
    second.tell()
    first.take_over(1)
    assert [fault.where for fault in first.faults.noted] == ["b.safetensors"]


def test_what_is_survived_at_the_end_is_told(path):
    first, second = of_process(path, 0), of_process(path, 1)
    second.faults.note("k", "is damaged", "left empty")
    second.tell()
    first.take_over(1)
    assert len(first.faults.noted) == 1


def test_a_run_goes_on_from_the_journals_of_all_processes(path):
    """With another number of them; another key's are not taken over, and all are gone at the end."""
    begun = [of_process(path, rank) for rank in range(3)]
    of_process(path, 3, key="another key").add(IDS[2], "9 9")
    begun[0].add(IDS[0], "1 1")
    begun[2].add(IDS[1], "2 2")
    begun[2].add(IDS[2], "3 3", finished=False)
    alone = of_process(path, 0)
    assert alone.rles == {IDS[0]: "1 1", IDS[1]: "2 2", IDS[2]: "3 3"}
    assert dict(read_submission(path)) == alone.rles
    assert alone.finished == alone.done == set(IDS[:2])  # the last is tried again
    assert of_process(path, 1).done == set(IDS[:2])
    alone.drop_journals()
    assert [child.name for child in path.parent.iterdir()] == ["submission.csv"]


def test_a_journal_counts_without_its_submission(path):
    begin(path, finished=IDS[:2])
    path.write_text("damaged")
    again = begin(path)
    assert again.finished == set(IDS[:2]) and again.rles[IDS[0]] == "1 2 9 3"


@pytest.mark.parametrize(
    "name", ["submission.csv2.journal", "submission.csv.old.journal", "submission.csv.1.journal.bak"]
)
def test_journals_of_somebody_else_stay(path, name):
    """Such as that of a submission whose name begins alike."""
    other = path.with_name(name)
    Journal(other, "key").write(["row", IDS[0], "1 1", True])
    before = other.read_bytes()
    rows = of_process(path, 0)
    assert rows.finished == set()
    rows.drop_journals()
    assert other.read_bytes() == before


def test_faults_of_a_run_that_was_killed_are_remembered_once(path):
    first = of_process(path, 0)
    first.faults.note("k", "no memory", "halved")
    first.add(IDS[0], "1 1")
    for _ in range(3):
        again = of_process(path, 0)
        again.add(IDS[1], "1 1")
        assert len(again.faults.noted) == 1 and again.dropped == []
    assert path.with_name("submission.csv.journal").read_bytes().count(b"no memory") == 1


def test_another_process_without_a_journal_ends(path):
    path.with_name("submission.csv.1.journal").mkdir()
    with pytest.raises(OSError):
        of_process(path, 1)
    assert of_process(path, 0).add(IDS[0], "1 1") is None


def test_a_file_that_cannot_be_hashed_is_known_by_its_size_and_time(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"abc")
    assert len(journal.identify_file(path)) == 64

    def fail(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(journal, "hash_file", fail)
    assert journal.identify_file(path) == (3, path.stat().st_mtime_ns)
    assert journal.identify_file(tmp_path / "missing") == ()


def test_nowhere_to_write(tmp_path):
    with pytest.raises(InputError, match="there is no folder .*nowhere"):
        PartialSubmission(tmp_path / "nowhere" / "submission.csv", IDS, Faults(strict=False))
