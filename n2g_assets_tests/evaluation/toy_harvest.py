"""Tiny harvests: contexts of one-letter words, what a unit does there, and which documents are left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from hypothesis import strategies as st

from n2g_assets.core.home import Home
from n2g_assets.core.settings import ClassSettings
from n2g_assets.evaluation.harvest import HarvestLabels, HarvestText
from n2g_assets.evaluation.texts import DocumentText
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.suffixes import Suffixes, suffix_numbers
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.text import EncodedText
from n2g_assets.storage.cache import Cache
from n2g_assets_tests.evaluation.slow_baselines import slow_evidence
from n2g_assets_tests.method.toy import BOS, vocabulary_of

WORDS = [*"abcdefgh"]
VOCABULARY = vocabulary_of([*WORDS, "A", " a"])
"""``A`` and `` a`` are other tokens than ``a``; the last has its form."""
LETTERS = "abcdeA_"
"""One character a token; _ stands for `` a``."""
A_MAX = 2.0


def ids(words: str) -> list[int]:
    """Token ids of BOS and of one-letter words."""
    return [BOS, *(VOCABULARY.tokens.index(word.replace("_", " a").encode()) for word in words)]


def forms(token_ids) -> list[int]:
    return VOCABULARY.form_of[token_ids].tolist()


def text_of(*contexts: str) -> EncodedText:
    return EncodedText.from_contexts([np.array(ids(words)) for words in contexts], VOCABULARY)


def numbering(contexts: pl.DataFrame) -> Callable[[np.ndarray], Suffixes]:
    """What numbers the runs of symbols that stand for the tokens of these contexts."""

    def number_runs(symbols: np.ndarray) -> Suffixes:
        with TemporaryDirectory() as folder:
            corpus = replace(TokenCorpus.from_frame(contexts), token_ids=symbols)
            return suffix_numbers(corpus, Cache(Home(Path(folder))), threads=1)

    return number_runs


OFFSETS = ClassSettings().class_offsets


def harvest_of(
    contexts: pl.DataFrame, vocabulary: Vocabulary, cluster_of: Mapping[str, str] | None = None, targeted: int = 0,
    scanned: int = 0,
) -> HarvestText:  # fmt: skip
    text = DocumentText.of(contexts, vocabulary)
    return HarvestText(text, cluster_of or {}, numbering(contexts), OFFSETS, targeted, scanned)


@dataclass
class ToyHarvest:
    """By context id, its document and token ids, and raw activations, that of BOS first."""

    contexts: dict[str, tuple[str, list[int]]]
    activations: dict[str, list[float]]
    left_out: Sequence[str]
    cluster_of: dict[str, str]

    @cached_property
    def harvest(self) -> HarvestText:
        rows = [(name, document, token_ids) for name, (document, token_ids) in self.contexts.items()]
        schema = {"context_id": pl.String, "document_id": pl.String, "token_ids": pl.List(pl.Int32)}
        return harvest_of(pl.DataFrame(rows, schema=schema, orient="row"), VOCABULARY, self.cluster_of)

    @property
    def labels(self) -> HarvestLabels:
        row = np.concatenate([self.activations[name] for name in self.contexts])
        return HarvestLabels.of(self.harvest, row.astype(np.float32), A_MAX, self.left_out)

    def rows(self, of_forms: bool, left_out: Sequence[str] = ()) -> list[tuple[list[int], list[float | None]]]:
        """Symbols of every context and what may be learnt there, as the slow evidence gives it."""
        contexts = {name: (document, forms(t) if of_forms else t) for name, (document, t) in self.contexts.items()}
        known = slow_evidence(contexts, self.cluster_of, self.activations, [*self.left_out, *left_out], A_MAX)
        return [(contexts[name][1], labels) for name, labels in known.items()]


def toy_harvest(contexts: dict[str, str], strong=(), left_out=(), cluster_of=None, **rows) -> ToyHarvest:
    """Contexts by id, ``document:number``, each a string of one-letter words.

    ``strong`` says (context, position, activation); all other positions are 0, but that of BOS. ``rows`` give the whole
    of the contexts of a document that has one.
    """
    made = {name: (name.split(":")[0], ids(words)) for name, words in contexts.items()}
    activations = {name: [9.0, *[0.0] * len(words)] for name, words in contexts.items()}
    for name, position, value in strong:
        activations[name][position] = value
    for document, row in rows.items():
        activations[f"{document}:0"] = row
    return ToyHarvest(made, activations, list(left_out), cluster_of or {})


@st.composite
def harvests(draw) -> ToyHarvest:
    """Tiny harvests with near-duplicates and documents that are left out."""
    words = st.text(LETTERS, min_size=0, max_size=12)
    contexts = {f"{document}:{number}": draw(words) for document in "uvwxyz" for number in (0, 1)}
    values = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 0.5, 1.0, 1.0, 1.5, 2.0])
    made = toy_harvest(
        contexts,
        left_out=draw(st.lists(st.sampled_from("uvwxyz"), max_size=2)),
        cluster_of=draw(st.dictionaries(st.sampled_from("uvwxyz"), st.sampled_from(["one", "two"]))),
    )
    for name, words in contexts.items():
        made.activations[name] = [9.0, *(draw(values) for _ in words)]
    return made
