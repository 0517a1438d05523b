"""What a corpus file is: its format and its packing, by its ending; and what is never read as prose.

A file whose syntax would become text (JSON, a web page, a table, an archive) is read for the text in it or refused with
the cure, never taken as prose. ``format: text`` in a source says that the syntax itself is the text that is wanted.
Errors name the file and the byte, line or column.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa

from n2g_assets.core.errors import CorpusError, SourceError
from n2g_assets.core.sources import FilesSource

Format = Literal["text", "jsonl", "csv", "parquet"]


def _open_zstd(file: Path) -> IO[bytes]:
    return io.BufferedReader(pa.CompressedInputStream(file.open("rb"), "zstd"))


def _open_plain(file: Path) -> IO[bytes]:
    return file.open("rb")


_PACKINGS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".lzma": lzma.open, ".zst": _open_zstd, ".zstd": _open_zstd,
}  # fmt: skip
"""By ending, what opens a packed file; the ending before it says what is in it."""

_FORMATS: dict[str, Format] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonlines", ".ldjson", ".jl"), "jsonl"),
    **dict.fromkeys((".csv", ".tsv", ".tab", ".psv"), "csv"),
    **dict.fromkeys((".parquet", ".parq", ".pq"), "parquet"),
}
_ARCHIVES = ".zip .tar .tgz .tbz .tbz2 .txz .tzst .7z .rar .lz4 .br .z .snappy .whl .egg .jar"
_NEVER_PROSE = (
    ".json .json5 .geojson .jsonld .har .ipynb .yaml .yml .toml .xml .xsl .svg .html .htm .xhtml .mhtml .sgml .rtf "
    ".bib .srt .vtt .pdf .ps .eps .djvu .doc .docx .odt .pages .epub .mobi .ppt .pptx .odp .xls .xlsx .ods .numbers "
    ".arrow .feather .ipc .orc .avro .npy .npz .h5 .hdf5 .mat .pkl .pt .safetensors .msgpack .tfrecord .db .sqlite"
)
"""Endings of files that hold text with a syntax around it, or none at all."""
_MARKUP = re.compile(r"(?:<!--.*?-->\s*)*(?:<\?xml|<!doctype|<html|\{\\rtf|%pdf-|%!ps)", re.IGNORECASE | re.DOTALL)
_JSON_BEGINS = re.compile(r'\{\s*"(?:[^"\\]|\\.)*"\s*:|\[\s*[\[{"]')
"""How JSON begins that is too long to be read as a whole."""
_HEAD_CHARACTERS = 1 << 20


def file_format(source: FilesSource, file: Path) -> Format:
    """How a file of the source is read.

    Raises:
        SourceError: It is packed in a way that is not read, or its syntax would become prose.
    """
    packing, ending = _endings(file)
    format = _FORMATS.get(ending, "text") if source.format == "auto" else source.format
    if ending in _ARCHIVES.split() or (packing and format == "parquet"):
        raise SourceError(
            f"The corpus file {shown(file)} is packed in a way that is not read ({ending}{packing}): unpack it, or "
            "pack text, JSONL or CSV files one by one as .gz, .bz2, .xz or .zst."
        )
    if source.format == "auto" and ending in _NEVER_PROSE.split():
        raise _never_prose(file, ending)
    return format


def check_prose(source: FilesSource, file: Path, beginning: str) -> None:
    """Refuses a file of prose by its ending whose beginning is JSON, markup or a page description.

    Raises:
        SourceError: It is such a file, and the source does not ask for ``format: text``.
    """
    head = beginning[:_HEAD_CHARACTERS].lstrip("\ufeff \t\r\n")
    if source.format != "auto":
        return
    if _MARKUP.match(head):
        raise _never_prose(file, f"it begins with {head[:12]!a}")
    is_cut = len(beginning) > _HEAD_CHARACTERS
    if head[:1] in ("{", "[") and (
        _is_json(head.partition("\n")[0]) or (_JSON_BEGINS.match(head) if is_cut else _is_json(head))
    ):
        raise _never_prose(file, "it begins with JSON")


def _is_json(text: str) -> bool:
    """Whether a text is a JSON object, or a list of objects, lists or texts."""
    try:
        value = decode_json(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) or (isinstance(value, list) and isinstance([*value, 0][0], (dict, list, str)))


def decode_json(text: str) -> Any:
    """A JSON value with every number as 0: only texts are asked for, and a number may have too many digits for Python.

    Raises:
        ValueError: The text is no JSON.
        RecursionError: Its values are nested too deeply.
    """
    return json.loads(text, parse_int=_zero, parse_float=_zero)


def _zero(_: str) -> int:
    return 0


def _never_prose(file: Path, why: str) -> SourceError:
    return SourceError(
        f"The corpus file {shown(file)} would be read as prose with all its syntax ({why}): set 'format' to jsonl or "
        "csv if that is what it holds, or to text if the syntax itself is wanted, else convert it or take it out of "
        "the corpus."
    )


def _endings(file: Path) -> tuple[str, str]:
    """The ending that says how the file is packed, or nothing, and the one before it."""
    packing = file.suffix.lower()
    if packing not in _PACKINGS:
        return "", packing
    return packing, Path(file.stem).suffix.lower()


# ------------------------------------------------------------------------------------------ bytes and text
@contextmanager
def open_file(file: Path) -> Iterator[IO[bytes]]:
    """The open file, unpacked while it is read; what fails while it is open is named.

    Raises:
        SourceError: It cannot be read, or is damaged.
    """
    packing, _ = _endings(file)
    with naming(file), _PACKINGS.get(packing, _open_plain)(file) as data:
        try:
            yield data
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            if not packing or (isinstance(error, OSError) and error.errno is not None):
                raise
            raise SourceError(
                f"The corpus file {shown(file)} is no whole {packing} file ({short_reason(error)}): pack it again or "
                "take it out of the corpus."
            ) from error


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Names the file or folder in what the system says of it.

    Raises:
        SourceError: It cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise SourceError(
            f"The corpus file {shown(error.filename or file)} cannot be read ({error.strerror or error}): "
            "make it readable or take it out of the corpus."
        ) from error


def decode(data: bytes, file: Path, offset: int = 0, line: int = 1) -> str:
    """The text of some bytes of a file, which begin at ``offset`` (from 0) in this line (from 1).

    Raises:
        CorpusError: They are not UTF-8, or hold a NUL.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        place, what = error.start, "is not UTF-8"
    else:
        if "\0" not in text:
            return text
        place, what = data.index(0), "holds a NUL"
    newlines = data.count(b"\n", 0, place)
    raise CorpusError(
        f"The corpus file {shown(file)} {what} at byte {offset + place} (counted from 0) in line "
        f"{line + newlines}: save it as UTF-8 text or take it out of the corpus."
    )


def shown(path: object) -> str:
    """A path or a name as messages and tables write it: bytes that are not UTF-8 and control characters escaped."""
    text = os.fsencode(str(path)).decode("utf-8", "backslashreplace")
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def short_reason(error: BaseException) -> str:
    """What a library says, on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200].rstrip(" .") or type(error).__name__
