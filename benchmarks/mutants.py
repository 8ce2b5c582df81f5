"""Changes the kernel's modules a little, again and again, and counts the changes that their tests notice.

    python benchmarks/mutants.py [MODULE ...] [--count 20] [--seed 0] [--jobs 2] [--output results.json]

Named mutants and each module's tests are in mutant_table.py; the others are a sample of what mutant_changes.py finds.
Each is tested by pytest in a private copy of the tracked files, in a process forked from this one, which has imported
torch. Exit status 1: a named mutant survived, or more than a tenth of all did. A tester of our own, since mutmut 3.8
runs our tests but leaves constants and decorated functions alone, changes mostly texts and takes neither a sample nor a
given change, and cosmic-ray 8.7 changes the one work tree in place, mostly `*` to `<<` and the like.
"""

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.mutant_changes import REPOSITORY, Mutant, choose, path_of, read  # noqa: E402
from benchmarks.mutant_table import MODULES, NAMED  # noqa: E402

LEAST_SHARE = 0.9


@dataclass
class Run:
    """pytest in a copy, on a mutant or on the code as it is."""

    tests: tuple[str, ...]
    mutant: Mutant | None = None
    outcome: str = ""
    """killed, timed out or survived, in the end."""
    limit: float = 3600.0
    """Seconds."""
    seconds: float = 0.0


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # removes the copies
    mutants = [mutant for name in arguments.modules for mutant in choose(name, arguments.count, arguments.seed)]
    with tempfile.TemporaryDirectory(prefix="sennet-mutants-") as scratch_dir:
        prepare_environment(scratch_dir)
        copies = [copy_repository(Path(scratch_dir) / f"copy-{number}") for number in range(arguments.jobs)]
        plain = [Run(tests) for tests in dict.fromkeys(mutant.tests for mutant in mutants)]
        run_all(plain, copies, "without a mutant")
        limits = {run.tests: arguments.timeout or 20 + 4 * run.seconds for run in plain}
        runs = [Run(mutant.tests, mutant, limit=limits[mutant.tests]) for mutant in mutants]
        run_all(runs, copies, "mutants")
    if arguments.output:
        found = {"seed": arguments.seed, "count": arguments.count, "mutants": [to_json(run) for run in runs]}
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    return report(runs)


def parse_arguments() -> argparse.Namespace:
    known = list(dict.fromkeys([*MODULES, *(named.module for named in NAMED)]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(known)}; by default all")
    parser.add_argument("--count", type=int, default=20, help="mutants of each module beside the named ones")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=2, help="tests that run at once")
    parser.add_argument("--timeout", type=float, help="seconds for a mutant; by default 20 and 4 times its tests' own")
    parser.add_argument("--output", type=Path, help="also write each mutant and its outcome to this JSON file")
    arguments = parser.parse_args()
    arguments.modules = arguments.modules or known
    if unknown := [name for name in arguments.modules if name not in known]:
        parser.error(f"MODULE must be one of {', '.join(known)}, got {', '.join(unknown)}")
    return arguments


def prepare_environment(scratch_dir: str) -> None:
    """One thread per process, no bytecode that could be of another mutant, the real data that this repository finds."""
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": scratch_dir}
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # none is needed, and their import takes seconds
    os.environ.setdefault("SENNET_DATA_DIR", str(REPOSITORY.parent / "shared" / "data"))
    os.environ.setdefault("SENNET_WEIGHTS_DIR", str(REPOSITORY.parent / "shared" / "weights"))
    os.environ.pop("PYTHONPATH", None)
    sys.dont_write_bytecode, tempfile.tempdir = True, None
    sys.path[:] = [path for path in sys.path if Path(path) not in (REPOSITORY, REPOSITORY / "benchmarks")]
    tqdm.monitor_interval = 0  # no thread beside the one that forks
    for name in ("cv2", "pandas", "pytest", "scipy", "tifffile", "torch"):
        importlib.import_module(name)


def copy_repository(copy_dir: Path) -> Path:
    """Copies the tracked files as they are now."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    for path in (REPOSITORY / name for name in names.split("\0")):
        if path.is_file():
            (copy_dir / path.relative_to(REPOSITORY)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy_dir / path.relative_to(REPOSITORY))
    return copy_dir


def run_all(runs: Sequence[Run], copies: Sequence[Path], label: str) -> None:
    """Runs as many at once as there are copies, says which mutants survive, and ends where unchanged code fails."""
    waiting, free, at_work = [*runs][::-1], [*copies], {}
    with tqdm(total=len(runs), desc=label, unit="run", mininterval=1.0) as progress:
        try:
            while waiting or at_work:
                while waiting and free:
                    run, copy_dir = waiting.pop(), free.pop()
                    at_work[start(run, copy_dir)] = (run, copy_dir, time.monotonic())
                time.sleep(0.05)
                for pid, (run, copy_dir, started) in [*at_work.items()]:
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    run.seconds = time.monotonic() - started
                    if ended or run.seconds > run.limit:
                        stop(pid, not ended)
                        free.append(at_work.pop(pid)[1])
                        run.outcome = "timed out" if not ended else "killed" if status else "survived"
                        finish(run, copy_dir)
                        progress.update()
        finally:
            for pid in at_work:
                stop(pid, True)


def start(run: Run, copy_dir: Path) -> int:
    """Forks a process for the tests; returns its id, which is also that of the group of all that it starts."""
    if run.mutant:
        (copy_dir / path_of(run.mutant.module)).write_bytes(run.mutant.code())
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.setsid()
        os.chdir(copy_dir)
        with open("mutant.log", "wb") as log:
            os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.modules["__main__"] = ModuleType("__main__")  # processes that tests start need not import this file
        code = int(sys.modules["pytest"].main(["-x", "-q", "-p", "no:cacheprovider", *run.tests]))
        origin = sys.modules["sennet_kaggle"].__file__
        if not origin.startswith(str(copy_dir)):
            print(f"ERROR the tests import {origin}")
            code = 1
    finally:
        sys.stdout.flush()
        os._exit(code)


def stop(pid: int, is_running: bool) -> None:
    """Ends a process and what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if is_running:
        os.waitpid(pid, 0)


def finish(run: Run, copy_dir: Path) -> None:
    if run.mutant is None and run.outcome != "survived":
        lines = (copy_dir / "mutant.log").read_text(errors="replace").splitlines()
        wrong = [line for line in lines if line.startswith(("FAILED", "ERROR"))] or lines[-1:] or [run.outcome]
        raise SystemExit(f"error: {' '.join(run.tests)} must pass without a mutant, got {wrong[0]}")
    if run.mutant:
        (copy_dir / path_of(run.mutant.module)).write_bytes(read(run.mutant.module))
        if run.outcome == "survived":
            tqdm.write(f"survived: {run.mutant}")


def report(runs: Sequence[Run]) -> int:
    """Prints a table by module; returns the exit status."""
    print("| module | mutants | killed | of them timed out | survived | share |\n|---|---|---|---|---|---|")
    for name in [*dict.fromkeys(run.mutant.module for run in runs), "all"]:
        count = Counter(run.outcome for run in runs if name in ("all", run.mutant.module))
        total, late, survived = count.total(), count["timed out"], count["survived"]
        print(f"| {name} | {total} | {total - survived} | {late} | {survived} | {1 - survived / total:.0%} |")
    named_survived = any(run.mutant.is_named for run in runs if run.outcome == "survived")
    return int(named_survived or total - survived < LEAST_SHARE * total)


def to_json(run: Run) -> dict[str, str | int | float]:
    line, old, new = run.mutant.lines()
    where = {"module": run.mutant.module, "line": line, "change": run.mutant.change.operator, "old": old, "new": new}
    return {**where, "outcome": run.outcome, "seconds": round(run.seconds, 1)}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
