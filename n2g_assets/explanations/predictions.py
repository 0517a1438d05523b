"""Files of predicted activations: read for one layer, checked row by row, and looked up by the tokens of a context.

What is wrong is said with the file and its line (of a Parquet file the row, from 1). A row may speak of any context of
the study; those of contexts on which the unit is not scored are of no use and do no harm.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float32

from n2g_assets.core.errors import RowsError, SourceError, short_reason
from n2g_assets.core.units import Unit
from n2g_assets.explanations.lines import row_of
from n2g_assets.method.text import EncodedText

_SCHEMA = {
    "layer": pl.Int64, "unit": pl.Int64, "sign": pl.Int64, "context_id": pl.String, "position": pl.Int64,
    "value": pl.Float64,
}  # fmt: skip
_KEY = ["layer", "unit", "sign", "context_id", "position"]


@dataclass(frozen=True)
class GivenPredictions:
    """What a file predicts of one unit."""

    by_context: Mapping[bytes, Float32[np.ndarray, " length"]]
    """By the token ids of a context as bytes, the value at each of its positions; 0 where the file has none."""
    from_outside: bool = True

    def predict(self, text: EncodedText) -> Float32[np.ndarray, " tokens"]:
        """Predicted normalised activation of every token; 0 where the file says nothing."""
        predicted = np.zeros(len(text), np.float32)
        for context in contexts_of(text):
            if (values := self.by_context.get(text.token_ids[context].tobytes())) is not None:
                predicted[context] = values
        return predicted


def contexts_of(text: EncodedText) -> list[slice]:
    """Where each context of a text stands in it."""
    starts = [*np.flatnonzero(text.positions == 0).tolist(), len(text)]
    return [slice(start, stop) for start, stop in pairwise(starts)]


def check_predictions(path: Path) -> None:
    """Check that a file is there and has the columns, as far as its beginning shows.

    Raises:
        SourceError: It is not, or has not.
    """
    if not path.is_file():
        raise SourceError(f"The file of predictions {path} does not exist: correct 'path'.")
    if _is_parquet(path):
        try:
            there = set(pl.read_parquet_schema(path))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise SourceError(
                f"The file of predictions {path} cannot be read as Parquet ({short_reason(error)}): write it anew."
            ) from error
        lacking = sorted(_SCHEMA.keys() - {"sign"} - there)
        if lacking:
            raise SourceError(f"The file of predictions {path} has no column '{lacking[0]}': write {_columns()}.")
    elif not path.name.endswith((".jsonl", ".ndjson")):
        raise SourceError(f"The file of predictions {path} is neither .parquet nor .jsonl: write one of the two.")


def read_predictions(
    path: Path, layer: int, asked: Mapping[int, Sequence[Unit]], contexts: pl.DataFrame
) -> dict[Unit, pl.DataFrame]:
    """By unit of a layer that a file speaks of, its rows with context_id, position and value.

    Args:
        path: the file.
        layer: whose units are read; rows of other layers of the study are not looked at.
        asked: by layer, the units of the study.
        contexts: every context of the study, with its ``context_id`` and ``length``.

    Raises:
        RowsError: A row names what the study does not have, or has no finite value, or stands there twice.
        SourceError: The file cannot be read.
    """
    rows = _rows(path).filter(pl.col("layer").is_null() | (pl.col("layer") == layer) | ~pl.col("layer").is_in([*asked]))
    try:
        frame = rows.collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(path, error) from error
    known = pl.DataFrame(
        [(number, sign) for number, sign in asked[layer]], schema={"unit": pl.Int64, "sign": pl.Int64}, orient="row"
    ).with_columns(is_asked=pl.lit(value=True))
    frame = frame.join(known, on=["unit", "sign"], how="left", maintain_order="left")
    frame = frame.join(contexts.select("context_id", "length"), on="context_id", how="left", maintain_order="left")
    _refuse(path, layer, list(asked), frame)
    parts = frame.select("unit", "sign", "context_id", "position", "value").partition_by(
        ["unit", "sign"], as_dict=True, include_key=False
    )
    return {Unit(int(number), int(sign)): part for (number, sign), part in parts.items()}


def by_context(rows: pl.DataFrame, token_ids: Mapping[str, np.ndarray], scale: float) -> dict[bytes, np.ndarray]:
    """What ``GivenPredictions`` looks up, of the contexts whose token ids are given, by their ids."""
    found = {}
    for (context_id,), part in rows.partition_by("context_id", as_dict=True).items():
        if context_id in token_ids:
            values = np.zeros(len(token_ids[context_id]), np.float32)
            values[part["position"].to_numpy()] = part["value"].to_numpy() / scale
            found[token_ids[context_id].astype(np.int32).tobytes()] = values
    return found


# ------------------------------------------------------------------------------------------ what is wrong
def _refuse(path: Path, layer: int, layers: Sequence[int], frame: pl.DataFrame) -> None:
    """Refuses the first row that is wrong."""
    column = pl.col
    at_layer = column("layer") == layer
    checks = {
        **{name: column(name).is_null() for name in ("layer", "unit", "context_id", "position", "value")},
        "NaN": ~column("value").is_finite(),
        "no layer": ~column("layer").is_in(list(layers)),
        "no unit": at_layer & column("is_asked").is_null(),
        "no context": at_layer & column("length").is_null(),
        "no position": at_layer & ((column("position") < 1) | (column("position") >= column("length"))),
        "twice": ~pl.struct(_KEY).is_first_distinct(),
    }
    first = pl.coalesce(pl.when(wrong).then(pl.lit(name)) for name, wrong in checks.items())
    wrong = frame.with_columns(wrong=first).filter(pl.col("wrong").is_not_null()).sort("row").head(1).to_dicts()
    if not wrong:
        return
    [row] = wrong
    unit = f"unit {row['unit']}" + ("" if row["sign"] == 1 else f" of sign {row['sign']}")
    said = {
        "NaN": f"the value is {row['value']}: give a finite number",
        "no layer": f"the study has no layer {row['layer']}: it has {', '.join(map(str, layers))}",
        "no unit": f"the study does not ask about {unit} of layer {layer}: leave its rows out, or name it in neurons",
        "no context": f"the study has no context '{row['context_id']}': n2g export-contexts writes those to predict",
        "no position": f"the context {row['context_id']} has no position {row['position']}: its tokens stand at 1 to "
        f"{(row['length'] or 0) - 1}",
        "twice": f"position {row['position']} of context {row['context_id']} has a value for {unit} of layer {layer} "
        "already: give one",
    }
    kind = row["wrong"]
    raise RowsError(f"{path}, line {_line(path, row['row'])}: {said.get(kind, f'there is no {kind}: give one')}.")


def _unreadable(path: Path, error: BaseException) -> SourceError:
    """What is wrong with a file that cannot be read as a table, with the first line at fault."""
    if not _is_parquet(path):
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip() and (said := _line_fault(line)):
                    return SourceError(f"{path}, line {number}: {said}.")
    return SourceError(f"The file of predictions {path} cannot be read ({short_reason(error)}): write it anew.")


def _line_fault(line: bytes) -> str | None:
    try:
        row = row_of(line)
    except ValueError as error:
        return str(error)
    for name, dtype in _SCHEMA.items():
        value = row.get(name)
        kinds = str if dtype == pl.String else int if dtype == pl.Int64 else (int, float)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            what = "a text" if dtype == pl.String else "a whole number" if dtype == pl.Int64 else "a number"
            return f"{name} is {json.dumps(value)[:40]}: give {what}"
        if isinstance(value, float) and not np.isfinite(value):
            return f"the {name} is {value}: give a finite number"
    return None


def _line(path: Path, row: int) -> int:
    """The line of a row, from 1; of JSONL empty lines count, though they are no rows."""
    if _is_parquet(path):
        return row + 1
    with path.open("rb") as file:
        filled = (number for number, line in enumerate(file, start=1) if line.strip())
        return next(number for place, number in enumerate(filled) if place == row)


def _rows(path: Path) -> pl.LazyFrame:
    """The rows with their number, from 0; without a sign they are of the positive one."""
    if _is_parquet(path):
        rows = pl.scan_parquet(path, glob=False, hive_partitioning=False, row_index_name="row")
        if "sign" not in rows.collect_schema():
            rows = rows.with_columns(sign=pl.lit(1, pl.Int64))
        rows = rows.select("row", *(pl.col(name).cast(dtype) for name, dtype in _SCHEMA.items()))
    else:
        rows = pl.scan_ndjson(path, schema=pl.Schema(_SCHEMA), row_index_name="row")
    return rows.with_columns(pl.col("sign").fill_null(1))


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in (".parquet", ".parq", ".pq")


def _columns() -> str:
    *others, last = (name for name in _SCHEMA if name != "sign")
    return f"{', '.join(others)} and {last}"
