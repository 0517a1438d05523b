"""The harvest as baselines read it: its text, and what one unit does at its tokens.

The activations of a unit are known at every harvested token. What a unit may be learnt from are all of them but BOS and
the documents of its test contexts, with what nearly equals these.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Float32, Int32, Int64

from n2g_assets.core.errors import RowsError
from n2g_assets.evaluation.indexes import PairIndex, SuffixIndex
from n2g_assets.evaluation.texts import DocumentText
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.suffixes import Suffixes, suffix_numbers
from n2g_assets.method.classes import LaggedText
from n2g_assets.method.probing import Vocabulary
from n2g_assets.storage.cache import Cache

FOLDS = 2
"""Parts of the harvest that are left out in turn."""


@dataclass(frozen=True)
class HarvestText:
    """The harvested contexts in sequence, behind them those of further text that graphs asked for, and then the scan.

    The same for a layer's units.
    """

    text: DocumentText
    cluster_of: Mapping[str, str]
    """By document id, the id of its cluster of near-duplicates; a document that is missing stands alone."""
    number_runs: Callable[[Int32[np.ndarray, " tokens"]], Suffixes]
    """Numbers the runs of these symbols, one a token of the text; called when a predictor first needs them."""
    class_offsets: int
    """Offsets at which graphs of token classes ask."""
    targeted: int = 0
    """So many contexts before the scan are targeted ones (``evidence/targeted.py``)."""
    scanned: int = 0
    """The last so many contexts are no text but a scan of the vocabulary (``evidence/scan.py``)."""

    @classmethod
    def of(
        cls, contexts: pl.DataFrame, targeted: pl.DataFrame | None, scan: pl.DataFrame | None, vocabulary: Vocabulary,
        cluster_of: Mapping[str, str], cache: Cache, class_offsets: int,
    ) -> "HarvestText":  # fmt: skip
        """From the contexts of the harvest, and others where there are any; the cache keeps numbers of runs."""
        beside = [0 if frame is None else frame.height for frame in (targeted, scan)]
        parts = [frame for frame in (contexts, targeted, scan) if frame is not None]
        contexts = pl.concat([frame.select("context_id", "document_id", "token_ids") for frame in parts])
        corpus = TokenCorpus.from_frame(contexts)

        def number_runs(symbols: Int32[np.ndarray, " tokens"]) -> Suffixes:
            return suffix_numbers(replace(corpus, token_ids=symbols), cache)

        return cls(DocumentText.of(contexts, vocabulary), cluster_of, number_runs, class_offsets, *beside)

    @cached_property
    def real(self) -> Bool[np.ndarray, " tokens"]:
        """Whether each token is one of the harvest: what stands behind it teaches, and supports nothing."""
        return self.text.windows < self.text.contexts.height - self.scanned - self.targeted

    @cached_property
    def _of_scan(self) -> Bool[np.ndarray, " tokens"]:
        return self.text.windows >= self.text.contexts.height - self.scanned

    @cached_property
    def beside_ids(self) -> frozenset[str]:
        """The documents behind the harvest, and the names under which the scan stands among them."""
        return frozenset(self.text.contexts["document_id"].tail(self.targeted + self.scanned))

    @cached_property
    def _taught(self) -> Bool[np.ndarray, " tokens"]:
        """The tokens that may be learnt from: all of documents but BOS, and the last of each context of the scan."""
        return self.text.inside & (~self._of_scan | (np.diff(self.text.windows, append=-1) != 0))

    @cached_property
    def offsets(self) -> dict[str, int]:
        """By context id, the token at which it begins (its BOS)."""
        begins = np.flatnonzero(self.text.encoded.positions == 0).tolist()
        return dict(zip(self.text.contexts["context_id"], begins, strict=True))

    def starts_of(self, context_ids: pl.Series) -> Int64[np.ndarray, " contexts"]:
        """The tokens at which contexts begin.

        Raises:
            RowsError: a context is not among the harvested ones.
        """
        offsets = [self.offsets.get(context_id, -1) for context_id in context_ids]
        if -1 in offsets:
            raise RowsError(
                f"Context {context_ids[offsets.index(-1)]} is not among the harvested ones: its rows belong to another "
                "corpus, make them again from this one."
            )
        return np.array(offsets, np.int64)

    @cached_property
    def cluster_ids(self) -> list[str]:
        """By number of the document, the id of its cluster."""
        return [self.cluster_of.get(document_id, document_id) for document_id in self.text.document_ids]

    def inside(self, document_ids: Collection[str]) -> Bool[np.ndarray, " tokens"]:
        """Whether each token stands in one of these documents or in a near-duplicate of one."""
        asked = {self.cluster_of.get(document_id, document_id) for document_id in document_ids}
        return np.array([cluster_id in asked for cluster_id in self.cluster_ids], bool)[self.text.documents]

    def inside_contexts(self, context_ids: pl.Series) -> Bool[np.ndarray, " tokens"]:
        """Whether each token stands in one of these contexts.

        Raises:
            RowsError: a context is not among the harvested ones.
        """
        asked = np.zeros(self.text.contexts.height, bool)
        asked[self.text.windows[self.starts_of(context_ids)]] = True
        return asked[self.text.windows]

    @cached_property
    def by_cluster(self) -> tuple[Int64[np.ndarray, " tokens"], Int64[np.ndarray, " clusters_and_end"]]:
        """The tokens ordered by the cluster of their document, and where the tokens of each cluster begin."""
        numbers = np.unique(np.array(self.cluster_ids, str), return_inverse=True)[1][self.text.documents]
        return np.argsort(numbers, kind="stable"), np.concatenate([[0], np.cumsum(np.bincount(numbers))])

    def without(self, document_ids: Collection[str]) -> Bool[np.ndarray, " tokens"]:
        """The tokens that count where these documents and their near-duplicates may not; never BOS."""
        return self._taught & ~self.inside(document_ids)

    def folds(self, seed: int | str) -> list[list[str]]:
        """The documents in ``FOLDS`` parts, each cluster in the part that the hash of (seed, cluster) says.

        What stands behind the harvest is in none: it is always learnt from, but near-duplicates of what is left out.
        """
        parts: list[list[str]] = [[] for _ in range(FOLDS)]
        for document_id, cluster_id in zip(self.text.document_ids, self.cluster_ids, strict=True):
            if document_id in self.beside_ids:
                continue
            digest = hashlib.blake2b(f"{seed} {cluster_id}".encode(), digest_size=8).digest()
            parts[int.from_bytes(digest, "little") % FOLDS].append(document_id)
        return parts

    @cached_property
    def lagged(self) -> LaggedText:
        """The harvest as graphs of token classes read it.

        Its halves are drawn a position; those of documents would be no more honest, as a unit's test documents are left
        out whole, and they leave less to learn from (``docs/method.md``). Of the scan, the second round stands in the
        second half.
        """
        half = np.random.default_rng(0).integers(0, 2, len(self.real), np.uint8)
        half[self._of_scan] = (self.text.windows >= self.text.contexts.height - self.scanned // 2)[self._of_scan]
        encoded, documents = self.text.encoded, self.text.documents
        return LaggedText.of(encoded.token_ids, encoded.positions, documents, half, self.class_offsets, self.real)

    @cached_property
    def suffixes(self) -> SuffixIndex:
        """The runs of the harvest's tokens, told apart by their exact ids."""
        return SuffixIndex(self.text.encoded, "token_ids", self.number_runs(self.text.encoded.token_ids))

    @cached_property
    def runs_of_forms(self) -> SuffixIndex:
        """The same of forms."""
        return SuffixIndex(self.text.encoded, "forms", self.number_runs(self.text.encoded.forms))

    @cached_property
    def pairs(self) -> PairIndex:
        """The pairs of forms in the harvest."""
        return PairIndex(self.text.encoded)


@dataclass(frozen=True)
class HarvestLabels:
    """What one unit does on the tokens of the harvest, some documents left out."""

    harvest: HarvestText
    counted: Bool[np.ndarray, " tokens"]
    """Tokens that may be learnt from; never BOS."""
    values: Float32[np.ndarray, " tokens"]
    """Their normalised signed activations; 0 at all other tokens."""

    @classmethod
    def of(
        cls,
        harvest: HarvestText,
        activations: Float[np.ndarray, " tokens"],
        a_max: float,
        left_out: Collection[str],
    ) -> "HarvestLabels":
        """The labels of one unit from its activations (times its sign) at every token of the harvest.

        Documents ``left_out`` and their near-duplicates do not count.

        Raises:
            ValueError: there are not as many activations as tokens, or one that counts is NaN or infinite.
        """
        text = harvest.text
        if len(activations) != len(text.encoded):
            raise ValueError(f"{len(activations)} activations do not belong to a harvest of {len(text.encoded)} tokens")
        counted = harvest.without(left_out)
        values = np.where(counted, activations, 0).astype(np.float32) / np.float32(a_max)
        if not np.isfinite(values).all():
            raise ValueError("a harvested activation is NaN or infinite")
        return cls(harvest, counted, values)

    @property
    def ordinary(self) -> Bool[np.ndarray, " tokens"]:
        """Those of the harvest: what is predicted of them, left out, decides on thresholds and weights."""
        return self.counted & self.harvest.real

    @property
    def mean(self) -> float:
        """Mean over all tokens that count: what is expected of a token of which nothing is known; 0 without any."""
        return float(self.values.sum(dtype=np.float64)) / max(1, int(np.count_nonzero(self.counted)))
