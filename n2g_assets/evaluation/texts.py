"""The texts that units are scored on, besides their own test contexts.

``random`` and ``out_of_domain`` are whole documents that no unit's graph was built from, the same for all units of a
layer, so that one forward pass serves them all. ``quantiles`` are a unit's own choice among the contexts of
``random``: the paper looks at the strongest examples only, here every strength is asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Float32, Int32

from n2g_assets.core.units import Unit
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.text import EncodedText

DECILES = 10


@dataclass(frozen=True)
class HeldOutText:
    """A text that all units of a layer are scored on."""

    name: str
    """As in column ``evaluation.text``."""
    contexts: pl.DataFrame
    """Columns context_id, document_id and token_ids: whole documents, in the order of the text."""
    encoded: EncodedText
    """The contexts in sequence."""
    documents: Int32[np.ndarray, " tokens"]
    """Number of the document of every token."""
    document_ids: list[str]
    """By number."""
    windows: Int32[np.ndarray, " tokens"]
    """Number of the context of every token."""
    read: Callable[[Unit], Float32[np.ndarray, " tokens"]]
    """Activation (signed, not normalised) of a unit at every token."""

    @classmethod
    def of(
        cls,
        name: str,
        contexts: pl.DataFrame,
        vocabulary: Vocabulary,
        read: Callable[[Unit], Float32[np.ndarray, " tokens"]],
    ) -> HeldOutText:
        """The text of some contexts."""
        token_ids = [np.asarray(tokens, np.int32) for tokens in contexts["token_ids"]]
        lengths = [len(tokens) for tokens in token_ids]
        numbers: dict[str, int] = {}
        documents = [numbers.setdefault(document_id, len(numbers)) for document_id in contexts["document_id"]]
        return cls(
            name, contexts, EncodedText.from_contexts(token_ids, vocabulary),
            documents=np.repeat(np.array(documents, np.int32), lengths), document_ids=list(numbers),
            windows=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths), read=read,
        )  # fmt: skip

    @cached_property
    def inside(self) -> Bool[np.ndarray, " tokens"]:
        """The tokens that count: all but BOS."""
        return self.encoded.positions > 0


def quantile_tokens(
    text: HeldOutText, activations: Float[np.ndarray, " tokens"], per_decile: int, seed: Sequence[int]
) -> Bool[np.ndarray, " tokens"]:
    """The tokens of the contexts that are drawn for one unit.

    1. The positions where the unit is positive are cut into ten groups of equal size by their activation.
    2. Of each group, the weakest first, positions are drawn at random; the contexts of the first ``per_decile`` whose
       contexts were not drawn before are taken.
    """
    positive = text.inside & (activations > 0)
    windows = text.windows[positive].astype(np.int64)
    order = np.argsort(activations[positive], kind="stable")
    generator = np.random.default_rng(np.random.SeedSequence(list(seed)))
    chosen: set[int] = set()
    for group in np.array_split(order, DECILES):
        left = per_decile
        for drawn in dict.fromkeys(windows[generator.permutation(group)].tolist()):
            if left and drawn not in chosen:
                chosen.add(drawn)
                left -= 1
    return text.inside & np.isin(text.windows, np.array(sorted(chosen), np.int64))
