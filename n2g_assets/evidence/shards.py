"""Shards of the harvested corpus and their checkpoints.

A shard is some whole documents. For every layer it has a checkpoint of its own: ``<shard>.safetensors`` with a
``LayerState``, and beside it ``<shard>.json``, written after it, with its sha256 and the ids of the documents. On a
later call, a shard is taken over if all of its documents are in the corpus still, in the same order and with the same
tokens; documents that no shard covers become new shards. So a new document costs only its own forward pass, and a
document that went costs that of the documents it shared a shard with.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int32, Int64

from n2g_assets.core.errors import CorpusError, StorageError
from n2g_assets.evidence.leaders import LARGEST_PLACE
from n2g_assets.evidence.streaming import LayerState
from n2g_assets.storage.hashing import file_sha256


@dataclass(frozen=True)
class HarvestCorpus:
    """The contexts of the harvest, numbered in corpus order; documents are numbered by their first context."""

    context_ids: pl.Series
    document_ids: list[str]
    """By the document's number."""
    documents: Int64[np.ndarray, " contexts"]
    """Number of the document of each context."""
    token_ids: Int32[np.ndarray, " tokens"]
    """All contexts one after another."""
    starts: Int64[np.ndarray, " contexts_and_end"]
    """Where each context starts in ``token_ids``."""

    @classmethod
    def from_frame(cls, contexts: pl.DataFrame, context_length: int) -> HarvestCorpus:
        """From rows (context_id, document_id, token_ids), in corpus order.

        Raises:
            CorpusError: There is no context of two tokens or more, or there are too many tokens.
        """
        lengths = contexts["token_ids"].list.len().to_numpy().astype(np.int64)
        if not len(lengths) or int(lengths.max()) < 2:
            raise CorpusError("The harvest has no text: add documents to the corpus, or lower harvest.held_out_share.")
        if int(lengths.max()) > context_length:
            raise CorpusError(
                f"A context has {int(lengths.max())} tokens, more than harvest.context_length ({context_length}): "
                "run the stage corpus_tokens again."
            )
        if len(lengths) * context_length > LARGEST_PLACE:
            raise CorpusError(
                f"The harvest has {len(lengths)} contexts of {context_length} tokens, more than {LARGEST_PLACE} "
                "positions: set max_tokens for its sources."
            )
        names = contexts["document_id"].unique(maintain_order=True)
        numbers = pl.DataFrame({"document_id": names, "number": np.arange(len(names))})
        documents = contexts.select("document_id").join(numbers, on="document_id", how="left", maintain_order="left")
        return cls(
            contexts["context_id"],
            names.to_list(),
            documents["number"].to_numpy().astype(np.int64),
            contexts["token_ids"].explode().drop_nulls().to_numpy().astype(np.int32),
            np.concatenate([[0], np.cumsum(lengths)]),
        )

    @cached_property
    def lengths(self) -> Int64[np.ndarray, " contexts"]:
        """Tokens of each context, BOS included."""
        return np.diff(self.starts)

    @cached_property
    def number_of(self) -> dict[str, int]:
        """Number of each document by its id."""
        return {document_id: number for number, document_id in enumerate(self.document_ids)}

    @cached_property
    def _by_document(self) -> tuple[Int64[np.ndarray, " contexts"], Int64[np.ndarray, " documents_and_end"]]:
        order = np.argsort(self.documents, kind="stable")
        return order, np.searchsorted(self.documents[order], np.arange(len(self.document_ids) + 1))

    def contexts_of(self, documents: Sequence[int]) -> Int64[np.ndarray, " contexts"]:
        """Numbers of the contexts of some documents, ascending."""
        order, starts = self._by_document
        return np.sort(np.concatenate([order[starts[number] : starts[number + 1]] for number in documents]))

    def tokens(self, context: int) -> Int32[np.ndarray, " pos"]:
        """Token ids of a context, BOS included."""
        return self.token_ids[self.starts[context] : self.starts[context + 1]]


@dataclass(frozen=True)
class Shard:
    """Some whole documents of a corpus."""

    shard_id: str
    """Hash of its documents, contexts and tokens."""
    document_ids: tuple[str, ...]
    """In corpus order."""
    contexts: Int64[np.ndarray, " contexts"]
    """Numbers of their contexts, ascending."""
    n_tokens: int
    """Tokens, BOS included."""


def make_shard(corpus: HarvestCorpus, documents: Sequence[int]) -> Shard:
    """The shard of some documents, given by their numbers, ascending."""
    contexts = corpus.contexts_of(documents)
    names = tuple(corpus.document_ids[number] for number in documents)
    digest = hashlib.sha256(json.dumps(names).encode())
    for context_id, context in zip(corpus.context_ids.gather(contexts), contexts, strict=True):
        digest.update(f"\n{context_id}\n".encode())
        digest.update(corpus.tokens(context).tobytes())
    return Shard(digest.hexdigest()[:24], names, contexts, int(corpus.lengths[contexts].sum()))


def plan_shards(corpus: HarvestCorpus, store: ShardStore, layers: Sequence[int], shard_tokens: int) -> list[Shard]:
    """Shards that cover the corpus: those whose checkpoints can be taken over, and new ones for the rest.

    Where known shards overlap, those that save most of the forward pass win, then the larger ones.
    """
    fitting = []
    for shard_id, document_ids in store.known().items():
        numbers = [corpus.number_of.get(document_id, -1) for document_id in document_ids]
        if numbers and min(numbers) >= 0 and all(a < b for a, b in itertools.pairwise(numbers)):
            shard = make_shard(corpus, numbers)
            if shard.shard_id == shard_id:
                saved = shard.n_tokens * sum(store.has(layer, shard_id) for layer in layers)
                fitting.append((-saved, -shard.n_tokens, shard_id, numbers, shard))
    covered: set[int] = set()
    shards = []
    for _, _, _, numbers, shard in sorted(fitting, key=lambda each: each[:3]):
        if covered.isdisjoint(numbers):
            covered.update(numbers)
            shards.append(shard)
    sizes = np.bincount(corpus.documents, weights=corpus.lengths, minlength=len(corpus.document_ids))
    group: list[int] = []
    for number in range(len(corpus.document_ids)):
        if number in covered:
            continue
        if group and sizes[group].sum() + sizes[number] > shard_tokens:
            shards.append(make_shard(corpus, group))
            group = []
        group.append(number)
    if group:
        shards.append(make_shard(corpus, group))
    return sorted(shards, key=lambda shard: int(shard.contexts[0]))


class ShardStore:
    """The checkpoints of one model, hook and setting of the harvest: ``layer=<layer>/<shard>.safetensors``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sound: dict[tuple[int, str], bool] = {}

    def known(self) -> dict[str, tuple[str, ...]]:
        """Every shard that has a checkpoint in some layer, with the ids of its documents."""
        found = {}
        for path in sorted(self.folder.glob("layer=*/*.json")):
            manifest = _read_manifest(path)
            if manifest is not None:
                found[path.stem] = tuple(manifest["documents"])
        return found

    def has(self, layer: int, shard_id: str) -> bool:
        """Whether there is a checkpoint whose file is what its manifest says."""
        key = (layer, shard_id)
        if key not in self._sound:
            manifest = _read_manifest(self._path(layer, shard_id, "json"))
            try:
                self._sound[key] = (
                    manifest is not None
                    and file_sha256(self._path(layer, shard_id, "safetensors")) == manifest["sha256"]
                )
            except OSError:
                self._sound[key] = False
        return self._sound[key]

    def read(self, layer: int, shard_id: str) -> LayerState:
        """The state of a shard.

        Raises:
            StorageError: The checkpoint is gone or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._path(layer, shard_id, "safetensors")
        try:
            return LayerState(**load_file(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise StorageError(
                f"The checkpoint {path} cannot be read ({error}): materialize activation_cache again, which makes it "
                "anew."
            ) from error

    def write(self, layer: int, shard: Shard, state: LayerState) -> None:
        """Write a checkpoint: the file, then its manifest, each moved into place at once.

        Raises:
            StorageError: The folder cannot be written, or the disk is full.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        path = self._path(layer, shard.shard_id, "safetensors")
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                save_file(state.tensors(), part)
                manifest = {
                    "documents": list(shard.document_ids),
                    "tokens": shard.n_tokens,
                    "sha256": file_sha256(part),
                }
                os.replace(part, path)
                part.write_text(json.dumps(manifest), encoding="utf-8")
                os.replace(part, path.with_suffix(".json"))
            finally:
                part.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            raise StorageError(
                f"The checkpoint {path} cannot be written ({error}): free disk space, or set N2G_HOME to a folder that "
                "can be written; finished shards are kept."
            ) from error
        self._sound[layer, shard.shard_id] = True

    def _path(self, layer: int, shard_id: str, ending: str) -> Path:
        return self.folder / f"layer={layer}" / f"{shard_id}.{ending}"


def _read_manifest(path: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    complete = isinstance(manifest, dict) and isinstance(manifest.get("documents"), list) and "sha256" in manifest
    return manifest if complete else None
