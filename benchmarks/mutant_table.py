"""What benchmarks/mutants.py changes: modules and their tests, mutants with a name, and changes that change nothing."""

from typing import NamedTuple

# Test files of each module, the quickest first. Not test_build_kernel.py: it compares hashes, so it kills every mutant.
MODULES = {
    "kernel/budget": ("tests/kernel/test_budget.py",),
    "kernel/oom_fallback": (
        "tests/kernel/test_oom_fallback.py",
        "tests/inference/test_gpu.py",
        "tests/kernel/test_faults.py",
    ),
    "kernel/fault_tolerant_volume": ("tests/kernel/test_fault_tolerant_volume.py", "tests/kernel/test_faults.py"),
    "kernel/faults": ("tests/kernel/test_faults.py",),
    "kernel/journal": (
        "tests/kernel/test_partial_submission.py",
        "tests/kernel/test_submit.py",
        "tests/kernel/test_faults.py",
    ),
    "kernel/lap": ("tests/kernel/test_budget.py",),
    "kernel/partial_submission": (
        "tests/kernel/test_partial_submission.py",
        "tests/kernel/test_faults.py",
        "tests/kernel/test_submit.py",
    ),
    "kernel/cost_probe": (
        "tests/kernel/test_cost_probe.py",
        "tests/kernel/test_budget.py",
        "tests/kernel/test_faults.py",
    ),
    "kernel/memory": ("tests/kernel/test_memory.py", "tests/kernel/test_submit.py", "tests/kernel/test_faults.py"),
    "kernel/scheduler": ("tests/kernel/test_budget.py", "tests/kernel/test_faults.py", "tests/kernel/test_submit.py"),
    "kernel/result": ("tests/kernel/test_submit.py", "tests/kernel/test_faults.py"),
    "kernel/workers": ("tests/kernel/test_workers.py", "tests/kernel/test_submit.py"),
    "kernel/submit": (
        "tests/kernel/test_submit.py",
        "tests/kernel/test_budget.py",
        "tests/kernel/test_faults.py",
        "tests/submission/test_provenance.py",
    ),
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
        "training/train",
        "if each is not step[-1]:",
        "if each is not step[0]:",
        ("tests/training/test_train.py::test_accumulated_passes_of_two_processes_are_one_step",),
    ),
    Named(
        "the gradient scaler is not saved",
        "training/training_state",
        "part.state_dict() for name, part in self._parts().items()}",
        'part.state_dict() for name, part in self._parts().items() if name != "scaler"}',
        ("tests/training/test_train.py::test_the_scale_of_the_gradients_goes_on",),
    ),
    Named(
        "the gradient scaler is not restored",
        "training/training_state",
        'if name != "scaler" or name in earlier:',
        'if name != "scaler":',
        ("tests/training/test_train.py::test_the_scale_of_the_gradients_goes_on",),
    ),
    Named(
        "background has probability 0.5 where logits are averaged",
        "inference/forward",
        "else -_MAX_LOGIT",
        "else 0.0",
        ("tests/inference/test_predictor.py",),
    ),
    Named(
        "a container's memory limit is ignored",
        "kernel/memory",
        "ram = min(ram, int(limit) // processes)",
        "pass",
        ("tests/kernel/test_memory.py",),
    ),
    Named(
        "a plan is begun without time to spare",
        "kernel/budget",
        "_CAUTION = 1.1\n",
        "_CAUTION = 1.0\n",
        ("tests/kernel/test_budget.py",),
    ),
    Named(
        "the device is part of the journal's key",
        "kernel/submit",
        'asdict(replace(self.settings.inference, device="auto"))',
        "asdict(self.settings.inference)",
        ("tests/kernel/test_submit.py",),
    ),
    Named(
        "a slice that a fault touched is written to the journal as finished",
        "kernel/scheduler",
        "finished=z not in self.volume.touched",
        "finished=True",
        ("tests/kernel/test_faults.py",),
    ),
    Named(
        "what the workers do is not taken over",
        "kernel/partial_submission",
        "self._take_over(read_journal(self.journal_of(self.path, rank), self.key) or [])",
        "pass",
        ("tests/kernel/test_partial_submission.py", "tests/kernel/test_submit.py"),
    ),
    Named(
        "a worker that hangs is waited for without end",
        "kernel/workers",
        "elif now - worker.last_progress > patience:",
        "elif False:",
        ("tests/kernel/test_workers.py",),
    ),
    Named(
        "a worker that is late is waited for",
        "kernel/workers",
        "if now >= deadline:",
        "if False:",
        ("tests/kernel/test_workers.py",),
    ),
    Named(
        "the workers are waited for beyond the deadline",
        "kernel/submit",
        "wait_for_workers(self.workers, self.budget.last_call)",
        "wait_for_workers(self.workers, float('inf'))",
        ("tests/kernel/test_budget.py",),
    ),
    Named(
        "the workers have no deadline",
        "kernel/submit",
        "settings = replace(self.settings, inference=replace(self.inference, device=device))",
        "settings = replace(self.settings, time_budget_hours=None, inference=replace(self.inference, device=device))",
        ("tests/kernel/test_budget.py",),
    ),
    Named(
        "the workers' time begins when they do",
        "kernel/submit",
        "Shard(rank, len(devices)), self.budget.started)",
        "Shard(rank, len(devices)), None)",
        ("tests/kernel/test_budget.py",),
    ),
    Named(
        "images are made smaller on a GPU without antialiasing",
        "data/transforms",
        'mode="bilinear", antialias=True',
        'mode="bilinear", antialias=False',
        ("tests/inference/test_gpu.py",),
    ),
]

# (module, the lines as they are, the lines as changed), without indentation: why no test can tell them apart.
EQUIVALENT: dict[tuple[str, str, str], str] = {}
