"""Tables and figures → text and bytes."""

import io
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
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
