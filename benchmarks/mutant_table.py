"""What benchmarks/mutants.py changes: modules and their tests, mutants with a name, and changes that change nothing."""

from typing import NamedTuple

# Test files of each module, the quickest first. Not test_build_kernel.py: it compares hashes, so it kills every mutant.
MODULES = {
    "budget": ("tests/test_budget.py",),
    "guard": ("tests/test_guard.py", "tests/test_gpu.py", "tests/test_faults.py"),
    "steady": ("tests/test_steady.py", "tests/test_faults.py"),
    "faults": ("tests/test_faults.py",),
    "journal": ("tests/test_rows.py",),
    "rows": ("tests/test_rows.py", "tests/test_faults.py", "tests/test_kernel.py"),
    "trial": ("tests/test_trial.py", "tests/test_budget.py", "tests/test_faults.py"),
    "segmenter": ("tests/test_budget.py", "tests/test_faults.py", "tests/test_kernel.py"),
    "helpers": ("tests/test_helpers.py", "tests/test_kernel.py"),
    "kernel": ("tests/test_kernel.py", "tests/test_budget.py", "tests/test_faults.py", "tests/test_provenance.py"),
}


class Named(NamedTuple):
    """A mistake that was made once, or could be, and that a test must find."""

    name: str
    module: str
    old: str
    """Stands exactly once in the module."""
    new: str
    tests: tuple[str, ...]
    """Files or single tests; slow ones are not run."""


NAMED = [
    Named(
        "gradients are exchanged at the first pass of a step",
        "train",
        "if each is not step[-1]:",
        "if each is not step[0]:",
        ("tests/test_train.py::test_accumulated_passes_of_two_processes_are_one_step",),
    ),
    Named(
        "the gradient scaler is not saved",
        "training_state",
        "part.state_dict() for name, part in self._parts().items()}",
        'part.state_dict() for name, part in self._parts().items() if name != "scaler"}',
        ("tests/test_train.py::test_the_scale_of_the_gradients_goes_on",),
    ),
    Named(
        "the gradient scaler is not restored",
        "training_state",
        'if name != "scaler" or name in earlier:',
        'if name != "scaler":',
        ("tests/test_train.py::test_the_scale_of_the_gradients_goes_on",),
    ),
    Named(
        "background has probability 0.5 where logits are averaged",
        "predictor",
        "else -_MAX_LOGIT",
        "else 0.0",
        ("tests/test_predictor.py",),
    ),
    Named(
        "a container's memory limit is ignored",
        "trial",
        "ram = min(ram, int(limit) // processes)",
        "pass",
        ("tests/test_trial.py",),
    ),
    Named(
        "a plan is begun without time to spare",
        "budget",
        "_CAUTION = 1.1\n",
        "_CAUTION = 1.0\n",
        ("tests/test_budget.py",),
    ),
    Named(
        "the device is part of the journal's key",
        "kernel",
        'asdict(replace(self.settings.inference, device="auto"))',
        "asdict(self.settings.inference)",
        ("tests/test_kernel.py",),
    ),
    Named(
        "a slice that a fault touched is written to the journal as finished",
        "segmenter",
        "finished=z not in self.volume.touched",
        "finished=True",
        ("tests/test_faults.py",),
    ),
    Named(
        "what the helpers do is not taken over",
        "rows",
        "self._take_over(read_journal(self.journal_of(self.path, rank), self.key) or [])",
        "pass",
        ("tests/test_rows.py", "tests/test_kernel.py"),
    ),
    Named(
        "a helper that hangs is waited for without end",
        "helpers",
        "elif now - helper.last_progress > patience:",
        "elif False:",
        ("tests/test_helpers.py",),
    ),
    Named(
        "a helper that is late is waited for",
        "helpers",
        "if now >= deadline:",
        "if False:",
        ("tests/test_helpers.py",),
    ),
    Named(
        "the helpers are waited for beyond the deadline",
        "kernel",
        "wait_for_helpers(self.helpers, self.budget.last_call)",
        "wait_for_helpers(self.helpers, float('inf'))",
        ("tests/test_budget.py",),
    ),
    Named(
        "the helpers have no deadline",
        "kernel",
        "settings = replace(self.settings, inference=replace(self.inference, device=device))",
        "settings = replace(self.settings, time_budget_hours=None, inference=replace(self.inference, device=device))",
        ("tests/test_budget.py",),
    ),
    Named(
        "the helpers' time begins when they do",
        "kernel",
        "Share(rank, len(devices)), self.budget.started)",
        "Share(rank, len(devices)), None)",
        ("tests/test_budget.py",),
    ),
    Named(
        "images are made smaller on a GPU without antialiasing",
        "transforms",
        'mode="bilinear", antialias=True',
        'mode="bilinear", antialias=False',
        ("tests/test_gpu.py",),
    ),
]

# (module, the lines as they are, the lines as changed), without indentation: why no test can tell them apart.
EQUIVALENT: dict[tuple[str, str, str], str] = {}
