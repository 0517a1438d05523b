"""What a predictor does to a unit's tokens, counted and summed by document: intervals and layer means are made of it.

A token *fires* where its normalised activation reaches the threshold (arXiv 2305.19911, section 4). A measure that has
no denominator is None, never 0: whoever averages says what becomes of it.

The *level* of a prediction is the prediction rounded down to thousandths, within 0 to 1000. What is less than a
millionth below a thousandth counts as that thousandth, since float32 holds most thousandths a little too low. Levels
serve ranking, calibration bins and drawn curves. Whether a token is predicted to fire is never read off a level but
asked of the prediction itself, in its own precision: float32 0.7 reaches a threshold of 0.7.

Correlation and explained variance are made of plain sums in float64 of the activations and predictions themselves,
negative ones included. Activations are normalised, of order 1, so that no sum has to be centred: with a mean a hundred
times the spread, r keeps ten digits.
"""

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
_SUMS = ("actual_sum", "predicted_sum", "actual_square_sum", "predicted_square_sum", "product_sum")
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
    """Counts and sums of one unit, predictor and text, by document, and counts by document and level."""

    n_tokens: Int64[np.ndarray, " documents"]
    true_positives: Int64[np.ndarray, " documents"]
    false_positives: Int64[np.ndarray, " documents"]
    false_negatives: Int64[np.ndarray, " documents"]
    document: Int64[np.ndarray, " cells"]
    """Document of each cell: a level that tokens of a document have. Cells are ordered by document and level."""
    levels: Int64[np.ndarray, " cells"]
    firing: Int64[np.ndarray, " cells"]
    """Firing tokens of the document at this level."""
    silent: Int64[np.ndarray, " cells"]
    """Silent tokens of the document at this level."""
    sums: Float64[np.ndarray, "documents 5"]
    """Sums over the document's tokens of the actual and of the predicted activation, of their squares, and of their
    product."""

    @property
    def total(self) -> Counts:
        """The counts over all documents."""
        n_tokens, hits, alarms, misses = (int(getattr(self, name).sum()) for name in _COUNTS)
        return Counts(hits, alarms, misses, n_tokens - hits - alarms - misses)

    @property
    def n_documents(self) -> int:
        """Documents that have a token."""
        return int(np.count_nonzero(self.n_tokens))

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
    alarm_threshold: float | None = None,
) -> DocumentCounts:
    """Counts the tokens of a text; the caller leaves out position 0 of every context.

    ``actual`` and ``predicted`` are normalised activations, ``documents`` the number of each token's document, from 0
    to below ``n_documents``. A token fires from ``threshold`` on, and is predicted to from ``alarm_threshold`` on, if
    that is another one.

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
    fires, alarm = actual >= threshold, predicted >= (threshold if alarm_threshold is None else alarm_threshold)
    hits, alarms, misses = (
        np.bincount(documents[where], minlength=n_documents)
        for where in (fires & alarm, ~fires & alarm, fires & ~alarm)
    )
    n_tokens = np.bincount(documents, minlength=n_documents)
    level = levels_of(predicted)
    # Silent tokens of level 0 are most of a text: they are counted as what is left over, not sorted.
    sorted_out = np.flatnonzero(fires | (level > 0))
    rest = n_tokens - np.bincount(documents[sorted_out], minlength=n_documents)
    keys = [documents[sorted_out].astype(np.int64) * _STRIDE + level[sorted_out], np.flatnonzero(rest) * _STRIDE]
    cells, cell_of = np.unique(np.concatenate(keys), return_inverse=True)
    tokens = np.append(np.ones(len(sorted_out), np.int64), rest[rest > 0])
    firing = np.bincount(cell_of[: len(sorted_out)][fires[sorted_out]], minlength=len(cells))
    silent = np.bincount(cell_of, tokens, len(cells)).astype(np.int64) - firing
    sums = _sums(actual.astype(np.float64), predicted.astype(np.float64), documents, n_documents)
    return DocumentCounts(n_tokens, hits, alarms, misses, cells // _STRIDE, cells % _STRIDE, firing, silent, sums)


def _sums(
    truth: Float64[np.ndarray, " tokens"],
    guess: Float64[np.ndarray, " tokens"],
    documents: Int[np.ndarray, " tokens"],
    n_documents: int,
) -> Float64[np.ndarray, "documents 5"]:
    """``DocumentCounts.sums``, by runs of tokens of one document: a quarter of the time of ``np.bincount``."""
    begins = np.flatnonzero(np.diff(documents, prepend=-1))
    summed = (truth, guess, truth * truth, guess * guess, truth * guess)
    sums = np.zeros((n_documents, len(_SUMS)))
    np.add.at(sums, documents[begins], np.stack([np.add.reduceat(values, begins) for values in summed], axis=1))
    return sums


def levels_of(predicted: Float[np.ndarray, " tokens"]) -> Int64[np.ndarray, " tokens"]:
    """The level of each prediction."""
    return np.minimum(np.clip(predicted.astype(np.float64), 0, 1) * LEVELS + _SLACK, LEVELS).astype(np.int64)


def document_rows(unit: Unit, scored: Sequence[tuple[str, str, Sequence[str], DocumentCounts]]) -> pl.DataFrame:
    """Rows of table ``document_scores`` of one unit, without ``study`` and ``layer``.

    They are made from predictor, text, ids of the text's documents by number, and counts. A document without a token
    has no row.
    """
    schema, counted = unit_schema("document_scores"), [counts for _, _, _, counts in scored]
    keys = [
        (unit.number, unit.sign, predictor, text, document_ids[document])
        for predictor, text, document_ids, counts in scored
        for document in np.flatnonzero(counts.n_tokens).tolist()
    ]
    by_row = {
        name: np.concatenate([getattr(counts, name)[counts.n_tokens > 0] for counts in counted]) for name in _COUNTS
    }
    sums = np.concatenate([counts.sums[counts.n_tokens > 0] for counts in counted])
    by_row |= dict(zip(_SUMS, sums.T, strict=True))
    by_cell = {name: np.concatenate([getattr(counts, name) for counts in counted]) for name in ("document", *_CELLS)}
    pair = np.repeat(np.arange(len(counted)), [len(counts.document) for counts in counted])
    lists = pl.DataFrame({"pair": pair, **by_cell}).group_by("pair", "document", maintain_order=True).agg(_CELLS)
    frame = pl.DataFrame(keys, {name: schema[name] for name in (*_KEY, "document_id")}, orient="row")
    columns = [*(pl.Series(name, values) for name, values in by_row.items()), *lists.select(_CELLS)]
    return frame.with_columns(columns).select(schema.names()).cast(schema)


def counts_of_rows(document_scores: pl.DataFrame) -> Iterator[tuple[tuple[Any, ...], list[str], DocumentCounts]]:
    """The counts in rows of ``document_scores``, by unit, sign, predictor and text, with the ids of the documents."""
    frame = document_scores.sort(*_KEY, "document_id")
    by_row = {name: frame[name].to_numpy().astype(np.int64) for name in _COUNTS}
    sums = frame.select(_SUMS).to_numpy()
    by_cell = {name: frame[name].explode().to_numpy().astype(np.int64) for name in _CELLS}
    lengths, document_ids = frame["levels"].list.len().to_numpy(), frame["document_id"].to_list()
    row_of_cell = np.repeat(np.arange(len(frame)), lengths)
    start = 0
    for *key, size in frame.group_by(_KEY, maintain_order=True).len().iter_rows():
        rows, cells = slice(start, start + size), slice(*np.searchsorted(row_of_cell, (start, start + size)))
        counts = {name: column[rows] for name, column in by_row.items()}
        counts |= {name: column[cells] for name, column in by_cell.items()}
        document = row_of_cell[cells] - start
        yield tuple(key), document_ids[rows], DocumentCounts(**counts, document=document, sums=sums[rows])
        start += size
