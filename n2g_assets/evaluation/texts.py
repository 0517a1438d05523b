"""The texts that units are scored on, besides their own test contexts.

``random`` and ``out_of_domain`` are whole documents that no unit's graph was built from, the same for all units of a
layer, so that one forward pass serves them all. ``quantiles`` are a unit's own choice among the contexts of
``random``: the paper looks at the strongest examples only, here every strength is asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import polars as pl
from jaxtyping import Bool, Float32, Int32, Int64

from n2g_assets.core.units import Unit
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.text import EncodedText

TextName = Literal["top", "quantiles", "random", "out_of_domain"]
TEXTS: tuple[TextName, ...] = get_args(TextName)
"""Values of ``evaluation.text``, in order."""

DECILES = 10


@dataclass(frozen=True)
class Shard:
    """Some whole documents of a text."""

    contexts: pl.DataFrame
    """Columns context_id, document_id and token_ids."""
    encoded: EncodedText
    """The contexts one behind another."""
    documents: Int32[np.ndarray, " tokens"]
    """Number, in the text, of the document of every token."""
    windows: Int32[np.ndarray, " tokens"]
    """Number, in the shard, of the context of every token."""

    @cached_property
    def inside(self) -> Bool[np.ndarray, " tokens"]:
        """The tokens that count: all but BOS."""
        return self.encoded.positions > 0


@dataclass(frozen=True)
class HeldOutText:
    """A text that all units of a layer are scored on."""

    name: TextName
    document_ids: list[str]
    shards: list[Shard]
    read: Callable[[int, Sequence[Unit]], Float32[np.ndarray, "units tokens"]]
    """Activations (signed, not normalised) of some units on the shard of a number."""

    @classmethod
    def of(
        cls,
        name: TextName,
        shards: Sequence[pl.DataFrame],
        vocabulary: Vocabulary,
        read: Callable[[int, Sequence[Unit]], Float32[np.ndarray, "units tokens"]],
    ) -> HeldOutText:
        """The text of some shards of contexts, whole documents each."""
        numbers: dict[str, int] = {}
        made = []
        for contexts in shards:
            token_ids = [np.asarray(tokens, np.int32) for tokens in contexts["token_ids"]]
            lengths = [len(tokens) for tokens in token_ids]
            documents = [numbers.setdefault(document_id, len(numbers)) for document_id in contexts["document_id"]]
            made.append(
                Shard(
                    contexts,
                    EncodedText.from_contexts(token_ids, vocabulary),
                    np.repeat(np.array(documents, np.int32), lengths),
                    np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
                )
            )
        return cls(name, list(numbers), made, read)


def quantile_windows(
    text: HeldOutText, activations: Sequence[Float32[np.ndarray, " tokens"]], per_decile: int, seed: Sequence[int]
) -> list[Bool[np.ndarray, " tokens"]]:
    """For each shard of a text, the tokens of the contexts drawn for one unit.

    1. The positions where the unit is positive are cut into ten groups of equal size by their activation.
    2. Of each group, the weakest first, positions are drawn at random; the contexts of the first ``per_decile`` whose
       contexts were not drawn before are taken.

    Args:
        text: a held-out text.
        activations: of the unit, a shard each.
        per_decile: contexts a group.
        seed: of the draw.
    """
    offsets = np.cumsum([0, *(len(shard.contexts) for shard in text.shards)])
    windows, values = [], []
    for shard, found, offset in zip(text.shards, activations, offsets[:-1], strict=True):
        positive = shard.inside & (found > 0)
        windows.append(shard.windows[positive] + offset)
        values.append(found[positive])
    window = np.concatenate(windows)
    order = np.argsort(np.concatenate(values), kind="stable")
    generator = np.random.default_rng(np.random.SeedSequence(list(seed)))
    chosen: set[int] = set()
    for group in np.array_split(order, DECILES):
        left = per_decile
        for drawn in _first_of_each(window[generator.permutation(group)]).tolist():
            if left and drawn not in chosen:
                chosen.add(drawn)
                left -= 1
    wanted = np.array(sorted(chosen), np.int64)
    return [
        shard.inside & np.isin(shard.windows + offset, wanted)
        for shard, offset in zip(text.shards, offsets[:-1], strict=True)
    ]


def _first_of_each(values: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " different"]:
    """The different values in the order in which they come first."""
    _, first = np.unique(values, return_index=True)
    return values[np.sort(first)]
