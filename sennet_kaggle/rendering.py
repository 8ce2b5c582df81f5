"""Tables and figures → text and bytes."""

import io
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure


def format_table(table: pd.DataFrame) -> str:
    """A table as aligned text."""
    filled = table.astype(object).where(table.notna(), "")
    return filled.to_string(index=False, float_format="{:.4f}".format)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Cells as a Markdown table, with a final newline."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def figure_to_png(figure: Figure) -> bytes:
    """Renders a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
