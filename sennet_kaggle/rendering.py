"""Tables and figures → text and bytes; the palette and the ticks of all figures."""

import io
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

# Of Okabe and Ito's palette (2008), which colour-blind readers tell apart.
BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY_BLUE, YELLOW, BLACK = "#CC79A7", "#56B4E9", "#F0E442", "#000000"
SERIES = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY_BLUE, BLACK)
"""Curves that stand for no kind of pixel, in order."""


def format_table(table: pd.DataFrame) -> str:
    """A table as aligned text."""
    filled = table.astype(object).where(table.notna(), "")
    return filled.to_string(index=False, float_format="{:.4f}".format)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Cells as a Markdown table, with a final newline."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def add_text(png: bytes, texts: Mapping[str, str]) -> bytes:
    """Writes texts into a PNG file, as its format has them (tEXt chunks), before the pixels.

    Args:
        png: the file.
        texts: by keyword; in Latin-1.
    """
    first = 8 + 4 + 4 + 13 + 4  # the signature and the chunk IHDR
    chunks = b""
    for keyword, text in texts.items():
        body = b"tEXt" + keyword.encode("latin-1") + b"\0" + text.encode("latin-1")
        chunks += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:first] + chunks + png[first:]


def read_text(png: bytes) -> dict[str, str]:
    """The texts in a PNG file (its tEXt chunks), by keyword."""
    texts, at = {}, 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        if kind == b"tEXt":
            keyword, _, text = body.partition(b"\0")
            texts[keyword.decode("latin-1")] = text.decode("latin-1")
        at += 12 + length
    return texts


def figure_to_png(figure: Figure) -> bytes:
    """Renders a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def plain_ticks(axis: Axis) -> None:
    """Labels a logarithmic axis with 0.05 and not 5 times 10 to a power, and enough of them to read values off."""
    low, high = axis.get_view_interval()
    steps = (1.0,) if high / low > 1000 else (1.0, 2.0, 5.0) if high / low > 3 else tuple(range(1, 10))
    axis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 1e-4 else f"{value:.5f}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def whole_ticks(axis: Axis) -> None:
    """Labels an axis that counts, such as epochs, with whole numbers alone, be it a single one."""
    low, high = axis.get_data_interval()
    if low == high:
        axis.set_view_interval(low - 1, high + 1, ignore=True)
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
