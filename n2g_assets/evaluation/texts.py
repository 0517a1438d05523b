"""The texts of the evaluation: what units are scored on.

``random`` and ``out_of_domain`` are whole documents that no unit's graph was built from, the same for all units of a
layer, so that one forward pass serves them all. ``quantiles`` are a unit's own choice among the contexts of
``random``: the paper looks at the strongest examples only, here every strength is asked about.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Float64, Int32

from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.text import EncodedText

DECILES = 10


@dataclass(frozen=True)
class DocumentText:
    """Contexts in sequence, and the context and document that every token belongs to."""

    contexts: pl.DataFrame
    """Columns context_id, document_id and token_ids, in the order of the text."""
    encoded: EncodedText
    windows: Int32[np.ndarray, " tokens"]
    """Number of the context of every token."""
    documents: Int32[np.ndarray, " tokens"]
    """Number of the document of every token."""
    document_ids: list[str]
    """By number, in ascending order."""

    @classmethod
    def of(cls, contexts: pl.DataFrame, vocabulary: Vocabulary) -> "DocumentText":
        """The text of contexts with the columns named above, in their order."""
        lengths = contexts["token_ids"].list.len().to_numpy().astype(np.int64)
        windows = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        positions = (np.arange(len(windows)) - (np.cumsum(lengths) - lengths)[windows]).astype(np.int32)
        token_ids = contexts["token_ids"].explode(empty_as_null=False).to_numpy()
        forms = vocabulary.form_of[token_ids]
        encoded = EncodedText.from_forms(forms, positions, len(vocabulary.forms), token_ids)
        document_ids, numbers = np.unique(contexts["document_id"].to_numpy(), return_inverse=True)
        return cls(contexts, encoded, windows, numbers.astype(np.int32)[windows], document_ids.tolist())

    @cached_property
    def inside(self) -> Bool[np.ndarray, " tokens"]:
        """The tokens that count: all but BOS."""
        return self.encoded.positions > 0


def normalised(activations: pl.Series, a_max: float) -> Float64[np.ndarray, " tokens"]:
    """Activations as shares of a_max.

    Raises:
        ValueError: one is NaN, which would silently count as silence.
    """
    values = activations.to_numpy().astype(np.float64) / a_max
    if np.isnan(values).any():
        raise ValueError("an activation is NaN")
    return values


class Drawn(NamedTuple):
    """A context that is drawn for one unit."""

    tenth: int
    """Of the unit's positive activations the tenth that it was drawn from, 0 the weakest."""
    token: int
    """The token that was drawn, as its number in the text."""
    window: int
    """Number of its context."""


def draw_quantiles(
    text: DocumentText, activations: Float[np.ndarray, " tokens"], per_decile: int, seed: Sequence[int]
) -> list[Drawn]:
    """The contexts that are drawn for one unit, each once.

    1. The positions where the unit is positive are cut into ten groups of equal size by their activation.
    2. Of each group, the weakest first, positions are drawn at random; the contexts of the first ``per_decile`` whose
       contexts were not drawn before are taken.
    """
    positive = np.flatnonzero(text.inside & (activations > 0))
    generator = np.random.default_rng(np.random.SeedSequence(list(seed)))
    chosen: dict[int, Drawn] = {}
    for tenth, group in enumerate(np.array_split(np.argsort(activations[positive], kind="stable"), DECILES)):
        drawn: dict[int, int] = {}
        for token in positive[generator.permutation(group)].tolist():
            drawn.setdefault(int(text.windows[token]), token)
        new = [Drawn(tenth, token, window) for window, token in drawn.items() if window not in chosen]
        chosen |= {each.window: each for each in new[:per_decile]}
    return list(chosen.values())


def tokens_of(text: DocumentText, drawn: Sequence[Drawn]) -> Bool[np.ndarray, " tokens"]:
    """The tokens that count in contexts that were drawn."""
    return text.inside & np.isin(text.windows, sorted(each.window for each in drawn))


def drawn_rows(
    text: DocumentText, drawn: Sequence[Drawn], activations: Float[np.ndarray, " tokens"]
) -> list[dict[str, Any]]:
    """Rows of ``strength_examples`` without the key: of each tenth the first context that was drawn."""
    first = {each.tenth: each for each in reversed(drawn)}
    starts = np.searchsorted(text.windows, np.arange(len(text.contexts) + 1))
    return [
        {
            "tenth": tenth, "context_id": text.contexts["context_id"][each.window],
            "position": int(text.encoded.positions[each.token]), "activation": float(activations[each.token]),
            "activations": activations[starts[each.window] : starts[each.window + 1]].tolist(),
        }
        for tenth, each in sorted(first.items())
    ]  # fmt: skip
