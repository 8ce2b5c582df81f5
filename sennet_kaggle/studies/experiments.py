"""The named experiments as a table."""

from ..config import EXPERIMENTS, SAM_ZERO_SHOT, Training

_HEADER = ("experiment", "model", "loss", "optimizer", "learning rate", "schedule", "batch", "epochs", "input")
_INTENSITIES = {"eight_bit": "8 bit", "percentile": "16 bit"}


def format_experiments() -> str:
    """Lists the experiments with the settings in which they differ, as aligned text."""
    rows = [_HEADER, *(_row(name, training) for name, training in EXPERIMENTS.items())]
    rows.insert(-1, (SAM_ZERO_SHOT, "sam vit_b", "not trained", "", "", "", "", "", "8 bit, 1024"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append("")
    lines.append(
        "The last is the shipped checkpoint's, the others are the report's. Start one: train NAME, or sam-zero-shot."
    )
    return "\n".join(lines)


def _row(name: str, training: Training) -> tuple[str, ...]:
    arguments = "".join(
        f" {value:g}" if isinstance(value, float) else f" {value}" for value in training.loss_arguments.values()
    )
    return (
        name,
        training.model,
        training.loss + arguments,
        training.optimizer,
        f"{training.learning_rate:g}",
        _schedule(training),
        str(training.batch_size),
        str(training.epochs),
        f"{_INTENSITIES[training.preprocessing.intensity]}, {training.preprocessing.roi_size}",
    )


def _schedule(training: Training) -> str:
    if training.schedule == "step":
        return f"times {training.gamma:g} each epoch"
    if training.schedule == "multi_step":
        return f"times {training.gamma:g} at {' and '.join(map(str, training.milestones))}"
    return training.schedule.replace("_", " ")
