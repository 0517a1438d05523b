"""What a predictor does to a unit's tokens, counted by document: all that intervals and layer means are made of.

A token *fires* where its normalised activation reaches the threshold (arXiv 2305.19911, section 4). A measure that has
no denominator is None, never 0: whoever averages says what becomes of it.

The *level* of a prediction is the prediction rounded down to thousandths, within 0 to 1000. What is less than a
millionth below a thousandth counts as that thousandth, since float32 holds most thousandths a little too low. Levels
serve ranking, calibration bins and drawn curves. Whether a token is predicted to fire is never read off a level but
asked of the prediction itself, in its own precision: float32 0.7 reaches a threshold of 0.7.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Float64, Int, Int64

from n2g_assets.core.units import Unit
from n2g_assets.method.results import unit_schema

LEVELS = 1000
"""Levels of a prediction in the unit interval; the last one holds 1 and more."""

_SLACK = 1e-3  # of a level: a millionth of a_max
_STRIDE = LEVELS + 1
_COUNTS = ("n_tokens", "true_positives", "false_positives", "false_negatives")
_CELLS = ("levels", "firing", "silent")
_KEY = ["unit", "sign", "predictor", "text"]


class Counts(NamedTuple):
    """Tokens by what they do (fire or not) and what was predicted; the measures are those of firing."""

    true_positives: int
    false_positives: int
    """Silent tokens that were predicted to fire."""
    false_negatives: int
    """Firing tokens that were predicted silent."""
    true_negatives: int

    @property
    def n_firings(self) -> int:
        """Tokens that fire."""
        return self.true_positives + self.false_negatives

    @property
    def precision(self) -> float | None:
        """Share of the predicted firings that fire; None where nothing was predicted to fire."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float | None:
        """Share of the firings that were predicted; None where nothing fires."""
        return _share(self.true_positives, self.n_firings)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None where nothing fires and nothing was predicted to."""
        return _share(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


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
        n_tokens, hits, alarms, misses = (int(getattr(self, name).sum()) for name in _COUNTS)
        return Counts(hits, alarms, misses, n_tokens - hits - alarms - misses)

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
        documents: number of each token's document, from 0.
        n_documents: documents of the text.
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
        n_tokens, hits, alarms, misses, cells // _STRIDE, cells % _STRIDE, firing.astype(np.int64),
        silent.astype(np.int64),
    )  # fmt: skip


def levels_of(predicted: Float[np.ndarray, " tokens"]) -> Int64[np.ndarray, " tokens"]:
    """The level of each prediction."""
    wide: Float64[np.ndarray, " tokens"] = predicted.astype(np.float64)
    return np.minimum(np.clip(wide, 0, 1) * LEVELS + _SLACK, LEVELS).astype(np.int64)


def document_rows(unit: Unit, scored: Sequence[tuple[str, str, Sequence[str], DocumentCounts]]) -> pl.DataFrame:
    """Rows of table ``document_scores`` of one unit, without ``study`` and ``layer``.

    They are made from predictor, text, ids of the text's documents by number, and counts. A document without a token
    has no row.
    """
    schema = unit_schema("document_scores")
    columns: dict[str, list[Any]] = {name: [] for name in ("predictor", "text", "document_id", *_COUNTS)}
    cells = [np.zeros((1 + len(_CELLS), 0), np.int64)]
    for predictor, text, document_ids, counts in scored:
        there = np.flatnonzero(counts.n_tokens)
        row = np.cumsum(counts.n_tokens > 0) - 1 + len(columns["predictor"])
        cells.append(np.stack([row[counts.document], counts.level, counts.firing, counts.silent]))
        columns["predictor"] += [predictor] * len(there)
        columns["text"] += [text] * len(there)
        columns["document_id"] += [document_ids[document] for document in there.tolist()]
        for name in _COUNTS:
            columns[name] += getattr(counts, name)[there].tolist()
    by_cell = pl.DataFrame(dict(zip(("row", *_CELLS), np.concatenate(cells, axis=1), strict=True)))
    lists = by_cell.group_by("row", maintain_order=True).agg(_CELLS).drop("row")
    frame = pl.DataFrame(columns, schema={name: schema[name] for name in columns})
    key = {name: pl.lit(value, schema[name]) for name, value in unit.key().items()}
    return pl.concat([frame, lists], how="horizontal").with_columns(**key).select(schema.names()).cast(schema)


def counts_of_rows(
    document_scores: pl.DataFrame,
) -> Iterator[tuple[tuple[Unit, str, str], list[str], DocumentCounts]]:
    """The counts that rows of ``document_scores`` hold, by unit, predictor and text, with the ids of the documents."""
    frame = document_scores.sort(*_KEY, "document_id")
    columns = {name: frame[name].to_numpy().astype(np.int64) for name in _COUNTS}
    level, firing, silent = (frame[name].explode().to_numpy().astype(np.int64) for name in _CELLS)
    lengths, document_ids = frame["levels"].list.len().to_numpy(), frame["document_id"].to_list()
    cells_before = np.append(0, np.cumsum(lengths, dtype=np.int64)).tolist()
    start = 0
    for number, sign, predictor, text, size in frame.group_by(_KEY, maintain_order=True).len().iter_rows():
        rows = slice(start, start + size)
        cells = slice(cells_before[start], cells_before[start + size])
        start += size
        counts = DocumentCounts(
            **{name: column[rows] for name, column in columns.items()},
            document=np.repeat(np.arange(size), lengths[rows]),
            level=level[cells],
            firing=firing[cells],
            silent=silent[cells],
        )
        yield (Unit(number, sign), predictor, text), document_ids[rows], counts
