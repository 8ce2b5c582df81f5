"""TIFFs that no library writes, byte by byte: any tag, any strip."""

import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

_FORMS = {"H": 3, "I": 4}
TAGS = {"orientation": 274, "predictor": 317, "depth": 32997, "extra_samples": 338, "sample_format": 339}


def lzw(content: bytes) -> bytes:
    """LZW without a single repetition: codes of 9 bits, the table cleared before they would grow."""
    codes = []
    for at in range(0, len(content), 200):
        codes += [256, *content[at : at + 200]]
    bits = "".join(format(code, "09b") for code in [*codes, 257])
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


def pack_bits(content: bytes) -> bytes:
    """PackBits without a single repetition."""
    return b"".join(
        bytes([len(part) - 1]) + part for part in (content[i : i + 128] for i in range(0, len(content), 128))
    )


ENCODERS: dict[int, Callable[[bytes], bytes]] = {1: bytes, 5: lzw, 8: zlib.compress, 32773: pack_bits}


def write_raw(
    path: Path,
    array: np.ndarray,
    compression: int = 1,
    rows: int = 10,
    photometric: int = 1,
    byteorder: str = "<",
    description: str = "",
    change: Callable[[list[int], list[int]], object] = lambda offsets, counts: None,
    keep: int | None = None,
    tail: bytes = b"",
    **more: int,
) -> None:
    """Writes a grey image or a label.

    Args:
        path: the file.
        array: (H, W) of uint8 or uint16; of bool: single bits.
        compression: what the header says; encoded so where ENCODERS know how, else not at all.
        rows: of a strip.
        photometric: what the header says.
        byteorder: "<" or ">".
        description: the tag ImageDescription.
        change: alters the strips' offsets and byte counts in place.
        keep: how many strips the header names; all of them when None.
        tail: bytes after all others.
        more: values of the tags in TAGS.
    """
    encode = ENCODERS.get(compression, bytes)
    strips = [encode(_bytes(array[y : y + rows], byteorder)) for y in range(0, len(array), rows)]
    content = bytearray({"<": b"II*\0", ">": b"MM\0*"}[byteorder] + bytes(4))
    offsets = []
    for strip in strips:
        offsets.append(len(content))
        content += strip + bytes(len(strip) % 2)
    counts = [len(strip) for strip in strips]
    change(offsets, counts)
    bits = 1 if array.dtype == bool else 8 * array.itemsize
    entries: list[tuple[int, str, Sequence[int]]] = [
        (256, "I", [array.shape[1]]),
        (257, "I", [array.shape[0]]),
        (258, "H", [bits]),
        (259, "H", [compression]),
        (262, "H", [photometric]),
        (273, "I", offsets[:keep]),
        (277, "H", [1]),
        (278, "I", [rows]),
        (279, "I", counts[:keep]),
        *((TAGS[name], "H", [value]) for name, value in more.items()),
    ]
    if photometric == 3:
        entries.append((320, "H", [0] * 3 * 2**bits))
    if description:
        entries.append((270, "s", description.encode() + b"\0"))
    content += bytes(len(content) % 2)
    directory = bytearray(struct.pack(f"{byteorder}H", len(entries)))
    for code, form, values in sorted(entries):
        value = bytes(values) if form == "s" else struct.pack(f"{byteorder}{len(values)}{form}", *values)
        if len(value) > 4:
            where = len(content)
            content += value + bytes(len(value) % 2)
            value = struct.pack(f"{byteorder}I", where)
        directory += struct.pack(f"{byteorder}HHI", code, _FORMS.get(form, 2), len(values)) + value.ljust(4, b"\0")
    content[4:8] = struct.pack(f"{byteorder}I", len(content))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(content + directory + bytes(4)) + tail)


def _bytes(array: np.ndarray, byteorder: str) -> bytes:
    if array.dtype == bool:
        return np.packbits(array, axis=1).tobytes()
    return array.astype(array.dtype.newbyteorder(byteorder)).tobytes()
