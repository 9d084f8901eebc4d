"""Whether a MetaImage or NRRD file holds all of its voxels, undamaged; ITK reads damaged ones without a word.

Formats: MetaIO's "MetaImage" (zlib with its Adler-32) and Teem's NRRD (gzip with its CRC-32, or bzip2 with its own).
"""

import bz2
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..errors import DataError

_CHUNK = 1 << 16
_MOST_HEADER = 1 << 20
_ZLIB_OR_GZIP = 47
_DECODERS: dict[str, Callable[[], Any] | None] = {
    "raw": None,
    "gzip": lambda: zlib.decompressobj(_ZLIB_OR_GZIP),
    "bzip2": bz2.BZ2Decompressor,
}


class _Stored(NamedTuple):
    """Where the voxels are: in which file, from which byte (-1: the last ones), and how they are encoded."""

    file: Path
    offset: int
    encoding: str


def check_voxels(path: str | os.PathLike, size: int) -> None:
    """Read all voxels of a file to the end of their stream, where its checksum is.

    Args:
        path: a .mha, .mhd or .nrrd file. What is stored in several files or as text is left to ITK.
        size: bytes of the voxels, as the header says.

    Raises:
        DataError: the file of the voxels is missing, damaged, or holds another number of bytes.
    """
    path = Path(path)
    with path.open("rb") as file:
        text = file.read(_MOST_HEADER)
    stored = _metaimage(path, text) if path.suffix.lower() in (".mha", ".mhd") else _nrrd(path, text)
    if stored is None or stored.encoding not in _DECODERS:
        return
    if not stored.file.is_file():
        raise DataError.of(path, f"a header whose voxels are in {stored.file.name}, which is missing", "both files")
    make = _DECODERS[stored.encoding]
    if make is None:
        found = stored.file.stat().st_size - max(stored.offset, 0)
    else:
        with stored.file.open("rb") as file:
            file.seek(max(stored.offset, 0))
            found = _decoded(file, make, path)
    if found < size or (make is not None and found != size):
        raise DataError.of(path, f"a file with {found} bytes of voxels", f"{size}, as its header says")


def _decoded(file: BinaryIO, make: Callable[[], Any], path: Path) -> int:
    """Number of bytes that a compressed stream holds; its end has to be there, and its checksum right."""
    decoder, size = make(), 0
    try:
        while not decoder.eof and (chunk := file.read(_CHUNK)):
            size += len(decoder.decompress(chunk))
        if decoder.eof:
            return size
    except (zlib.error, OSError, ValueError, EOFError) as error:
        reason = "checksum" if "check" in str(error) else "stream"
        raise DataError.of(path, f"compressed voxels with a damaged {reason}", "an undamaged file") from None
    raise DataError.of(path, "compressed voxels that are cut off", "a complete file")


def _metaimage(path: Path, text: bytes) -> _Stored | None:
    match = re.search(rb"^[ \t]*ElementDataFile[ \t]*=[ \t]*([^\r\n]*?)[ \t]*\r?\n", text, re.MULTILINE)
    end = match.end() if match else 0
    if match is None:  # of a header alone, the last line may lack its end
        match = re.search(rb"^[ \t]*ElementDataFile[ \t]*=[ \t]*([^\r\n]*?)[ \t]*$", text, re.MULTILINE)
    if match is None:
        return None
    name = match[1].decode(errors="replace")
    compressed = re.search(rb"^[ \t]*CompressedData[ \t]*=[ \t]*(t|true|1|yes)\b", text[: match.end()], re.I | re.M)
    ascii_ = re.search(rb"^[ \t]*BinaryData[ \t]*=[ \t]*(f|false|0|no)\b", text[: match.end()], re.I | re.M)
    encoding = "text" if ascii_ else "gzip" if compressed else "raw"
    if name.upper() == "LOCAL":
        return _Stored(path, end, encoding)
    if name.upper().startswith("LIST") or "%" in name:
        return None
    skipped = re.search(rb"^[ \t]*HeaderSize[ \t]*=[ \t]*(-?\d+)", text[: match.end()], re.I | re.M)
    return _Stored(path.parent / name, int(skipped[1]) if skipped else 0, encoding)


def _nrrd(path: Path, text: bytes) -> _Stored | None:
    header, blank, _ = re.sub(rb"\r\n", b"\n", text).partition(b"\n\n")
    end = re.search(rb"\n\r?\n", text)
    fields = dict(re.findall(r"^([^:#\n]+):[ \t]*([^\n]*?)[ \t]*$", header.decode("latin-1"), re.MULTILINE))
    fields = {key.strip().lower().replace(" ", ""): value for key, value in fields.items()}
    encoding = fields.get("encoding", "").lower()
    encoding = {"gz": "gzip", "bz2": "bzip2"}.get(encoding, encoding)
    name = fields.get("datafile")
    if name is not None and (name.upper().startswith("LIST") or "%" in name):
        return None
    if {"byteskip", "lineskip"} & fields.keys():
        return None
    if name is not None:
        return _Stored(path.parent / name, 0, encoding)
    return _Stored(path, end.end(), encoding) if blank and end else None
