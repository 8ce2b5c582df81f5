"""The kernel under every fault of docs/faults.md: locally it stops, on Kaggle the submission is complete and valid."""

import pytest
from fault_table import SCENARIOS, TABLE_PATH, Bench, build_bench, copy_bench, line, play, read_rows, run

from sennet_kaggle.errors import InputError
from sennet_kaggle.kernel.faults import Fault, Faults, describe
from sennet_kaggle.kernel.journal import read_journal
from sennet_kaggle.kernel.partial_submission import PartialSubmission
from sennet_kaggle.kernel.settings import on_kaggle
from sennet_kaggle.submission.rle import EMPTY_RLE


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, one_thread) -> Bench:
    bench = build_bench(tmp_path_factory.mktemp("undisturbed"))
    assert run(bench, strict=True)[0] == ""
    rles = read_rows(bench)
    assert len(rles) == len(set(rles.values())) == 17 and EMPTY_RLE not in rles.values()  # a swapped mask shows
    return bench


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("name", SCENARIOS)
def test_fault(name, undisturbed, tmp_path):
    scenario = SCENARIOS[name]
    outcome = play(scenario, undisturbed, tmp_path)
    assert outcome.rows == scenario.rows
    assert bool(outcome.error) == bool(scenario.stops) and scenario.stops in outcome.error
    assert scenario.unlike in (None, outcome.unlike)
    assert bool(outcome.at_home) != (scenario.survives_at_home or scenario.kills)
    assert "\n" not in outcome.at_home and "Traceback" not in outcome.at_home
    assert line(scenario, outcome) in TABLE_PATH.read_text().splitlines(), "run python tests/fault_table.py"


def test_what_a_fault_touched_is_tried_again_by_the_next_run(undisturbed, tmp_path, monkeypatch):
    bench = copy_bench(undisturbed, tmp_path / "copy")
    path = bench.slice_path(3)
    path.write_bytes(path.read_bytes()[:-100])
    resumed = []
    monkeypatch.setattr(PartialSubmission, "drop_journals", lambda rows: resumed.append(rows))
    assert run(bench, strict=False)[0] == ""
    entries = read_journal(resumed[0].journal_path, resumed[0].key)
    finished = {slice_id: is_finished for kind, slice_id, _, is_finished in entries if kind == "row"}
    assert len(finished) == 17 and [*finished.values()].count(False) == 1 and not finished["kidney_5_0003"]
    assert "16 slices were finished by a run that was stopped" in run(bench, strict=False)[1]


def test_the_table_has_no_other_lines():
    assert len([line for line in TABLE_PATH.read_text().splitlines() if line.startswith("| ")]) == 1 + len(SCENARIOS)


def test_a_fault_is_said_once_and_listed():
    said = []
    faults = Faults(strict=False, say=said.append)
    assert str(faults) == "no faults"
    for _ in range(2):
        faults.note("k_0001", InputError("0001.tif is truncated"), "its neighbour stands in")
    faults.note("k_0002", MemoryError(), "left empty")
    assert said == [
        "FAULT k_0001: 0001.tif is truncated; its neighbour stands in",
        "FAULT k_0002: MemoryError; left empty",
    ]
    assert faults.noted[1] == Fault("k_0002", "MemoryError", "left empty")
    assert str(faults).splitlines()[0] == "2 FAULT(S) were survived:"


def test_many_of_a_kind_are_counted():
    said = []
    faults = Faults(strict=False, say=said.append)
    for z in range(100):
        faults.note(f"k_{z:04d}", "a bug", "its mask is left empty")
    faults.note("k", "a bug", "goes on on the CPU")
    assert said[2:] == [
        "FAULT k_0002: a bug; its mask is left empty (more of this kind are counted at the end)",
        "FAULT k: a bug; goes on on the CPU",
    ]
    assert str(faults).splitlines() == [
        "101 FAULT(S) were survived:",
        "  k_0000 … k_0099 (100 of them): a bug; its mask is left empty",
        "  k: a bug; goes on on the CPU",
    ]
    assert len(faults.noted) == 101  # submission.json has them all


def test_a_strict_run_stops_at_the_first():
    with pytest.raises(InputError, match="k_0001: is 3x4, most slices are 5x6"):
        Faults(strict=True).note("k_0001", "is 3x4, most slices are 5x6", "resized")
    with pytest.raises(ZeroDivisionError):  # a bug keeps its name and its traceback
        Faults(strict=True).note("k", ZeroDivisionError("division by zero"), "left out")


def test_an_exception_is_one_line():
    assert describe(RuntimeError("CUDA error:\n  illegal")) == "RuntimeError: CUDA error: illegal"


@pytest.mark.parametrize("name", ["KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_IS_COMPETITION_RERUN"])
def test_kaggle_is_known_by_its_environment(monkeypatch, name):
    for variable in ("KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_IS_COMPETITION_RERUN"):
        monkeypatch.delenv(variable, raising=False)
    assert not on_kaggle()
    monkeypatch.setenv(name, "1")
    assert on_kaggle()
