"""Reach: how local a unit is at all. The model itself, shown BOS and only the last k tokens, predicts what it does.

1. Positions of every held-out text are drawn in a seeded order, the same for all units and layers.
2. The *window* of a position is BOS and the last k tokens up to it; where there are fewer, the whole prefix. Equal
   windows are one context of a corpus, which the model reads in one pass for all units.
3. The unit's activation at the end of a window is a prediction of the one at the position in the full text, and is
   scored as any predictor is: what an explanation that looks at k tokens is measured by.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float, Float32, Int64

from n2g_assets.core.units import Unit
from n2g_assets.evaluation.document_counts import count_documents
from n2g_assets.evaluation.scores import score_row
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.derive import sample_positions
from n2g_assets.method.results import BlockResult, finish_block, unit_frame

LAST_TOKENS = (1, 2, 3, 5, 8, 16, 32)
"""The k of the windows, BOS not counted."""

_SCORES = ("pearson_r", "explained_variance", "average_precision", "f1", "n_firings")
_NO_DRAWS = np.zeros((0, 1), np.uint8)


@dataclass(frozen=True)
class Windows:
    """The windows of drawn positions of some texts."""

    corpus: TokenCorpus
    """Every different window once, as a context and a document of its own: a new one leaves the others as they are."""
    places: dict[str, Int64[np.ndarray, " positions"]]
    """By text, where in its ``token_ids`` the drawn positions stand, in the order in which they were drawn."""
    ends: dict[str, Int64[np.ndarray, "lengths positions"]]
    """By text, where in the ``token_ids`` of ``corpus`` the window of each of ``last_tokens`` and position ends."""
    last_tokens: tuple[int, ...]


def cut_windows(
    texts: Mapping[str, TokenCorpus], n_positions: int, seed: int, last_tokens: Sequence[int] = LAST_TOKENS
) -> Windows:
    """Draw ``n_positions`` of each text and cut their windows.

    Position 0 is never drawn; a text with fewer positions gives all. The first of more positions are the same, and
    every position is as likely, so that documents count by their length.
    """
    texts = texts if n_positions else {}
    places = {name: sample_positions(text, n_positions, seed) for name, text in texts.items()}
    cut = {
        name: [[_window(text, place, k) for place in places[name].tolist()] for k in last_tokens]
        for name, text in texts.items()
    }
    different = sorted({window for rows in cut.values() for row in rows for window in row})
    ids = pl.Series("context_id", [hashlib.sha256(window).hexdigest()[:16] for window in different], pl.String)
    tokens = [np.frombuffer(window, np.int32).tolist() for window in different]
    columns = [ids, ids.alias("document_id"), pl.Series("token_ids", tokens, pl.List(pl.Int32))]
    corpus = TokenCorpus.from_frame(pl.DataFrame(columns))
    end_of = dict(zip(different, (corpus.starts[1:] - 1).tolist(), strict=True))
    ends = {name: np.array([[end_of[window] for window in row] for row in rows], int) for name, rows in cut.items()}
    return Windows(corpus, places, ends, tuple(last_tokens))


def _window(text: TokenCorpus, place: int, k: int) -> bytes:
    """BOS and the last k tokens of a context up to a place in ``token_ids``, as the bytes of an int32 array."""
    start = int(text.starts[np.searchsorted(text.starts, place, side="right") - 1])
    return text.token_ids[[start, *range(max(start, place - k) + 1, place + 1)]].tobytes()


def reach_of_units(
    units: Sequence[Unit],
    windows: Windows,
    read_text: Callable[[str, Unit], Float32[np.ndarray, " tokens"]],
    read_windows: Callable[[Unit], Float32[np.ndarray, " window_tokens"]],
    a_max: Mapping[Unit, float],
    threshold: float,
) -> BlockResult:
    """Compare each unit's activations at the ends of the windows with those in the full texts.

    Args:
        units: A block of units of one layer, none dead.
        windows: What ``cut_windows`` gives.
        read_text: Activations of a unit, times its sign, at every token of a text.
        read_windows: The same at every token of ``windows.corpus``; neither is asked where no position was drawn.
        a_max: By unit, its largest activation over the harvest.
        threshold: Normalised activation from which a unit fires, in the text and in the window.

    Returns:
        Table ``reach`` with a row for each unit, text that has a position, and number of last tokens.

    Raises:
        ValueError: An activation is not finite, or the threshold is not above 0.
    """
    rows = []
    drawn = {name: places for name, places in windows.places.items() if len(places)}
    for unit in units if drawn else ():
        windowed = read_windows(unit) / a_max[unit]
        for name, places in drawn.items():
            actual = read_text(name, unit)[places] / a_max[unit]
            for k, ends in zip(windows.last_tokens, windows.ends[name], strict=True):
                scores = _scores(actual, windowed[ends], threshold)
                rows.append({**unit.key(), "text": name, "last_tokens": k, "n_positions": len(places), **scores})
    return finish_block(units, {"reach": unit_frame("reach", rows)})


def _scores(
    actual: Float[np.ndarray, " positions"], predicted: Float[np.ndarray, " positions"], threshold: float
) -> dict[str, object]:
    """Those of ``scores.score_row`` that table ``reach`` has; no interval is drawn, so all positions count as one."""
    counts = count_documents(actual, predicted, np.zeros(len(actual), np.int64), 1, threshold)
    scores = score_row(actual, predicted, counts, _NO_DRAWS, threshold)
    return {name: scores[name] for name in _SCORES}
