"""Explanations in words: JSONL as Neuronpedia exports it, as OpenAI published it, or plain."""

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from n2g_assets.core.errors import RowsError, SourceError, short_reason
from n2g_assets.core.units import Unit
from n2g_assets.explanations.lines import row_of

_LAYER, _UNIT = ("layer", "layer_index"), ("unit", "neuron", "index", "neuron_index")
_TEXT = ("text", "description", "explanation")
_ENDINGS = (".jsonl", ".ndjson", ".jsonl.gz")


class Words(NamedTuple):
    """What is said of one unit."""

    layer: int
    unit: Unit
    text: str


def files_of(path: Path) -> list[Path]:
    """The file, or those of a folder, by name.

    Raises:
        SourceError: There is none.
    """
    if path.is_dir():
        found = sorted(file for file in path.rglob("*.json*") if file.name.endswith(_ENDINGS))
    else:
        found = [path] if path.is_file() and path.name.endswith(_ENDINGS) else []
    if not found:
        raise SourceError(f"There is no file of explanations (.jsonl) at {path}: correct it.")
    return found


def read_words(path: Path) -> Iterator[Words]:
    """What the files say, in order; a line may hold several explanations of its unit.

    Raises:
        SourceError: There is no file, or one cannot be read.
        RowsError: A line has no layer, no unit or no text; one whose text is empty says nothing.
    """
    for file in files_of(path):
        try:
            with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as on:
                for number, line in enumerate(on, start=1):
                    if line.strip():
                        yield from _words(line, f"{file}, line {number}")
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise SourceError(
                f"The explanations {file} cannot be read ({short_reason(error)}): put them there anew."
            ) from error


def _words(line: str, where: str) -> Iterator[Words]:
    try:
        row = row_of(line)
    except ValueError as error:
        raise RowsError(f"{where}: {error}.") from error
    place = row["neuron_id"] if isinstance(row.get("neuron_id"), dict) else row
    layer = _number(place, _LAYER, where, "layer")
    unit = Unit(_number(place, _UNIT, where, "unit"), -1 if row.get("sign") == -1 else 1)
    scored = row.get("scored_explanations")
    places = scored if isinstance(scored, list) else [row]
    said = [_first(each, _TEXT) if isinstance(each, dict) else None for each in places]
    for text in said:
        if not isinstance(text, str):
            raise RowsError(f"{where}: there is no explanation: give it as {', '.join(_TEXT)}.")
        if text.strip():  # what was published has empty ones too
            yield Words(layer, unit, text.strip())


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _number(row: Mapping[str, Any], names: tuple[str, ...], where: str, what: str) -> int:
    value = _first(row, names)
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        cure = "give a whole number"
        if isinstance(value, str) and "-" in value:  # Neuronpedia's name of a set of latents
            cure = "it is a set of an autoencoder's latents, which are no neurons of the layer: leave its lines out"
        raise RowsError(f"{where}: the {what} is {json.dumps(value)[:40]}: {cure}.")
    return value
