"""What a predictor does to a unit's tokens, counted by document: all that intervals and layer means are made of.

The *level* of a prediction is the prediction rounded down to thousandths, within 0 to 1000. What is less than a
millionth below a thousandth counts as that thousandth, since float32 holds most thousandths a little too low. Levels
serve ranking, calibration bins and drawn curves. Whether a token is predicted to fire is never read off a level but
asked of the prediction itself, in its own precision: float32 0.7 reaches a threshold of 0.7.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Float64, Int, Int64

from n2g_assets.core.units import Unit
from n2g_assets.evaluation.metrics import Counts
from n2g_assets.method.results import unit_schema

LEVELS = 1000
"""Levels of a prediction in the unit interval; the last one holds 1 and more."""

_SLACK = 1e-3  # of a level: a millionth of a_max
_STRIDE = LEVELS + 1
_COUNTS = ("n_tokens", "true_positives", "false_positives", "false_negatives")
_KEY = ["unit", "sign", "predictor", "text"]


@dataclass(frozen=True)
class DocumentCounts:
    """Counts of one unit, predictor and text, by document, and by document and level."""

    n_tokens: Int64[np.ndarray, " documents"]
    true_positives: Int64[np.ndarray, " documents"]
    false_positives: Int64[np.ndarray, " documents"]
    false_negatives: Int64[np.ndarray, " documents"]
    document: Int64[np.ndarray, " cells"]
    """Document of each cell: a level that tokens of a document have. Cells are ordered by document and level."""
    level: Int64[np.ndarray, " cells"]
    firing: Int64[np.ndarray, " cells"]
    """Firing tokens of the document at this level."""
    silent: Int64[np.ndarray, " cells"]
    """Silent tokens of the document at this level."""

    @property
    def total(self) -> Counts:
        """The counts over all documents."""
        hits, alarms, misses = (
            int(part.sum()) for part in (self.true_positives, self.false_positives, self.false_negatives)
        )
        return Counts(hits, alarms, misses, int(self.n_tokens.sum()) - hits - alarms - misses)

    @property
    def n_firing_documents(self) -> int:
        """Documents that hold a firing token."""
        return int(np.count_nonzero(self.true_positives + self.false_negatives))


def count_documents(
    actual: Float[np.ndarray, " tokens"],
    predicted: Float[np.ndarray, " tokens"],
    documents: Int[np.ndarray, " tokens"],
    n_documents: int,
    threshold: float,
) -> DocumentCounts:
    """Counts the tokens of a text.

    Args:
        actual: true normalised activations; position 0 of a context is left out by the caller.
        predicted: predicted normalised activations.
        documents: number of each token's document.
        n_documents: documents of the text, numbered from 0.
        threshold: share of a_max from which a token fires, above 0.

    Raises:
        ValueError: the three differ in shape, one holds a number that is not finite, a document has no number below
            ``n_documents``, or the threshold is not above 0.
    """
    if not threshold > 0:
        raise ValueError(f"a firing threshold of {threshold} would call tokens without a prediction firing")
    if not actual.shape == predicted.shape == documents.shape or actual.ndim != 1:
        raise ValueError(
            f"{actual.shape} activations, {predicted.shape} predictions and {documents.shape} documents differ"
        )
    if not (np.isfinite(actual).all() and np.isfinite(predicted).all()):
        raise ValueError("an activation or a prediction is NaN or infinite")
    if len(documents) and int(documents.max()) >= n_documents:
        raise ValueError(f"document {int(documents.max())} is not among {n_documents} documents")
    fires, alarm = actual >= threshold, predicted >= threshold
    hits, alarms, misses = (
        np.bincount(documents[where], minlength=n_documents)
        for where in (fires & alarm, ~fires & alarm, fires & ~alarm)
    )
    n_tokens = np.bincount(documents, minlength=n_documents)
    level = levels_of(predicted)
    # Silent tokens of level 0 are most of a text: they are counted as what is left over, not sorted.
    sorted_out = np.flatnonzero(fires | (level > 0))
    rest = n_tokens - np.bincount(documents[sorted_out], minlength=n_documents)
    with_rest = np.flatnonzero(rest)
    keys = np.concatenate([documents[sorted_out].astype(np.int64) * _STRIDE + level[sorted_out], with_rest * _STRIDE])
    cells, cell_of = np.unique(keys, return_inverse=True)
    firing = np.bincount(cell_of, np.append(fires[sorted_out], np.zeros(len(with_rest), bool)), len(cells))
    silent = np.bincount(cell_of, np.append(~fires[sorted_out], rest[with_rest]), len(cells))
    return DocumentCounts(
        n_tokens=n_tokens,
        true_positives=hits,
        false_positives=alarms,
        false_negatives=misses,
        document=cells // _STRIDE,
        level=cells % _STRIDE,
        firing=firing.astype(np.int64),
        silent=silent.astype(np.int64),
    )


def levels_of(predicted: Float[np.ndarray, " tokens"]) -> Int64[np.ndarray, " tokens"]:
    """The level of each prediction."""
    wide: Float64[np.ndarray, " tokens"] = predicted.astype(np.float64)
    return np.minimum(np.clip(wide, 0, 1) * LEVELS + _SLACK, LEVELS).astype(np.int64)


def document_rows(unit: Unit, scored: Sequence[tuple[str, str, Sequence[str], DocumentCounts]]) -> pl.DataFrame:
    """Rows of table ``document_scores`` of one unit, without ``study`` and ``layer``.

    Args:
        unit: the unit.
        scored: predictor, text, ids of the text's documents by number, and the counts. A document without a token has
            no row.
    """
    schema = unit_schema("document_scores")
    rows: dict[str, list[Any]] = {name: [] for name in ("predictor", "text", "document_id", *_COUNTS)}
    cells: dict[str, list[np.ndarray]] = {name: [] for name in ("row", "levels", "firing", "silent")}
    before = 0
    for predictor, text, document_ids, counts in scored:
        there = np.flatnonzero(counts.n_tokens)
        number = np.cumsum(counts.n_tokens > 0) - 1 + before
        before += len(there)
        rows["predictor"] += [predictor] * len(there)
        rows["text"] += [text] * len(there)
        rows["document_id"] += [document_ids[document] for document in there.tolist()]
        for name in _COUNTS:
            rows[name] += getattr(counts, name)[there].tolist()
        for name, part in zip(
            cells, (number[counts.document], counts.level, counts.firing, counts.silent), strict=True
        ):
            cells[name].append(part)
    none = [np.zeros(0, np.int64)]
    by_row = pl.DataFrame({name: np.concatenate(none + parts) for name, parts in cells.items()})
    lists = by_row.group_by("row", maintain_order=True).agg(pl.all()).drop("row")
    frame = pl.DataFrame(rows, schema={name: schema[name] for name in rows})
    key = {name: pl.lit(value, schema[name]) for name, value in unit.key().items()}
    return pl.concat([frame, lists], how="horizontal").with_columns(**key).select(schema.names()).cast(schema)


def counts_of_rows(
    document_scores: pl.DataFrame,
) -> Iterator[tuple[tuple[Unit, str, str], list[str], DocumentCounts]]:
    """The counts that rows of ``document_scores`` hold, by unit, predictor and text, with the ids of the documents."""
    frame = document_scores.sort(*_KEY, "document_id")
    groups = frame.select(*_KEY).group_by(*_KEY, maintain_order=True).len()
    row_ends = np.cumsum(groups["len"].to_numpy()).astype(np.int64)
    lengths = frame["levels"].list.len().to_numpy().astype(np.int64)
    cell_ends = np.cumsum(lengths)
    document_ids = frame["document_id"].to_list()
    columns = {name: frame[name].to_numpy().astype(np.int64) for name in _COUNTS}
    flat = {
        name: frame[name].explode(empty_as_null=False).to_numpy().astype(np.int64)
        for name in ("levels", "firing", "silent")
    }
    for (number, sign, predictor, text, size), end in zip(groups.iter_rows(), row_ends.tolist(), strict=True):
        start = end - size
        cells = slice(int(cell_ends[start] - lengths[start]), int(cell_ends[end - 1]))
        yield (
            (Unit(number, sign), predictor, text),
            document_ids[start:end],
            DocumentCounts(
                **{name: column[start:end] for name, column in columns.items()},
                document=np.repeat(np.arange(size), lengths[start:end]),
                level=flat["levels"][cells],
                firing=flat["firing"][cells],
                silent=flat["silent"][cells],
            ),
        )
