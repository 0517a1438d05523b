"""The activations of asked neurons on evaluation texts, from one forward pass, kept in the cache.

1. The contexts are cut into shards of whole documents, each known by the hash of its contexts and tokens.
2. For each shard, the neurons that no cache entry holds yet are read in one pass that stops at the deepest of their
   layers; contexts go through it in batches of like length, padded on the right, and only the asked columns are copied
   from the model's device. So scoring again costs no pass, and more units cost the pass of the new ones.
3. Each layer's new columns become one cache entry, written when the shard is done: a killed run goes on with the next
   shard. Its file ``activations.npy`` is memory-mapped when it is read.
4. A layer whose activations are not finite gets no entry; it fails when it is read, the others go on without it.
5. Where the device runs out of memory, the batch is repeated in halves, and later batches are as small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from n2g_assets.core.errors import StorageError, SubjectError
from n2g_assets.core.progress import Progress
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.evidence.shards import Shard, TokenCorpus, cut
from n2g_assets.model.batching import Batch, TokenBudget, pad, run_batches
from n2g_assets.model.model import SubjectModel
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.files import temporary_folder
from n2g_assets.storage.hashing import hash_json

SHARD_TOKENS = 16_384
_FILE = "activations.npy"
_CODE_VERSION = "2"


@dataclass(frozen=True)
class CachedActivations:
    """Activations on the contexts of a text, read from disk when they are asked for, one shard at a time."""

    shards: tuple[pl.DataFrame, ...]
    """The rows of the contexts of each shard, in their order: whole documents, and together all contexts."""
    tokens_run: int
    """Tokens, BOS included, that went through the model now."""
    tokens_reused: int
    """Tokens of shards of which all was on disk."""
    _read: Callable[[int, int, Sequence[int]], Float32[np.ndarray, "neurons tokens"]]

    def activations(self, layer: int, shard: int, neurons: Sequence[int]) -> Float32[np.ndarray, "neurons tokens"]:
        """Activations of some neurons, not normalised, at every token of a shard.

        Args:
            layer: A layer that was read.
            shard: Number of the shard in ``shards``.
            neurons: Neurons that were read in this layer, in any order.

        Returns:
            A row for each neuron, in the order asked; a column for each token of the shard's contexts, one context
            behind another, BOS included.

        Raises:
            SubjectError: The layer's activations are not finite.
            StorageError: An entry was damaged or removed since.
            ValueError: The layer or a neuron was not read.
        """
        return self._read(layer, shard, neurons)


def read_texts(
    model: SubjectModel,
    contexts: pl.DataFrame,
    neurons: Mapping[int, Sequence[int]],
    settings: HarvestSettings,
    *,
    cache: Cache,
    progress: Progress | None = None,
) -> CachedActivations:
    """Read the activations of some neurons on texts, or take over what is on disk.

    Args:
        model: The subject model; in float32, since what is measured is decided on.
        contexts: Rows (context_id, document_id, token_ids); the contexts of a document stand one behind another.
        neurons: For each layer, the neurons to read.
        settings: Only ``batch_tokens`` is read.
        cache: Where they are kept; texts, studies and models may share it.
        progress: Told the tokens done and the tokens to run.

    Raises:
        SubjectError: The model lacks a layer or neuron, or the device has no memory left for a single context.
        SettingsError: A context is longer than the model reads.
        StorageError: A file cannot be written.
        ValueError: The model is not in float32, or a document's contexts do not stand together.
    """
    if model.dtype != torch.float32:
        raise ValueError("Cached activations need the model in float32.")
    wanted = {layer: np.unique(np.asarray(asked, np.int32)) for layer, asked in neurons.items()}
    longest = int(contexts["token_ids"].list.len().max() or 0)  # type: ignore[arg-type]
    for layer, asked in wanted.items():
        model.check_study([layer], asked.tolist(), longest)
    if contexts["document_id"].rle_id().n_unique() != contexts["document_id"].n_unique():
        raise ValueError("The contexts of a document must stand one behind another.")
    store = _Store(cache, model)
    corpus = TokenCorpus.from_frame(contexts)
    shards = cut(corpus, range(len(corpus.document_ids)), SHARD_TOKENS)
    lacking = [
        {layer: left for layer, asked in wanted.items() if len(left := store.lacking(layer, shard, asked))}
        for shard in shards
    ]
    total = sum(shard.n_tokens for shard, lacks in zip(shards, lacking, strict=True) if lacks)
    done = 0
    budget, not_finite = TokenBudget(settings.batch_tokens), set[int]()
    for shard, lacks in zip(shards, lacking, strict=True):
        new = {layer: asked for layer, asked in lacks.items() if layer not in not_finite}
        if not new:
            continue
        for tokens in _run(model, corpus, shard, new, budget, store, not_finite):
            done += tokens
            if progress is not None:
                progress(done, total)

    def read(layer: int, number: int, asked: Sequence[int]) -> Float32[np.ndarray, "neurons tokens"]:
        if layer in not_finite:
            raise SubjectError(
                f"Activations of {model.name} in layer {layer} are not finite on the evaluation texts: leave the layer "
                "out, or choose another hook."
            )
        unread = np.setdiff1d(np.asarray(asked, np.int32), wanted.get(layer, np.zeros(0, np.int32)))
        if layer not in wanted or len(unread):
            raise ValueError(f"Layer {layer}, neurons {unread.tolist()}: not among those that were read.")
        return store.read(layer, shards[number], asked)

    reused = sum(shard.n_tokens for shard, lacks in zip(shards, lacking, strict=True) if not lacks)
    return CachedActivations(tuple(contexts[shard.contexts] for shard in shards), done, reused, read)


# ------------------------------------------------------------------------------------------ one pass
def _run(
    model: SubjectModel,
    corpus: TokenCorpus,
    shard: Shard,
    new: Mapping[int, Int32[np.ndarray, " neurons"]],
    budget: TokenBudget,
    store: _Store,
    not_finite: set[int],
) -> Iterator[int]:
    """Run a shard and write the new neurons of each layer; yields the tokens of each batch.

    Layers whose activations are not finite are added to ``not_finite`` instead.
    """
    lengths = corpus.lengths[shard.contexts]
    with temporary_folder(store.folder) as folder:
        columns = {
            layer: _Columns(asked, lengths, model.device, folder / f"{layer}.npy") for layer, asked in new.items()
        }

        def run(batch: Batch) -> None:  # filling in the same columns twice does no harm
            tokens = pad([corpus.tokens(number) for number in shard.contexts[batch]], model.bos_id)
            model.run(tokens, {layer: partial(taken.add_batch, batch) for layer, taken in columns.items()})

        for batch, _ in run_batches(lengths, budget, run):
            yield int(lengths[batch].sum())
        for layer in new:
            taken = columns.pop(layer)
            if taken.finite:
                store.write(layer, shard, taken)
            else:
                not_finite.add(layer)


class _Columns:
    """The activations of these neurons of a layer on a shard, filled batch by batch in a memory-mapped file.

    So memory does not grow with the number of units.
    """

    def __init__(
        self,
        neurons: Int32[np.ndarray, " neurons"],
        lengths: Int64[np.ndarray, " contexts"],
        device: torch.device,
        path: Path,
    ) -> None:
        self.neurons = neurons
        self.finite = True
        self.path = path
        self._ends = np.cumsum(lengths)
        self._lengths = lengths
        self._index = torch.from_numpy(neurons.astype(np.int64)).to(device)
        # zeros are written, not only a size: a full disk is then an error here, not a crash at the map
        np.save(path, np.broadcast_to(np.float32(0), (len(neurons), self._ends[-1])))
        self.values = np.load(path, mmap_mode="r+")

    def add_batch(self, batch: Int64[np.ndarray, " batch"], activations: Float[Tensor, "batch pos d_mlp"]) -> None:
        """Take over the columns of a batch of contexts, without its padding."""
        rows = activations.index_select(2, self._index).float().cpu().numpy()
        for row, end, length in zip(rows, self._ends[batch], self._lengths[batch], strict=True):
            self.finite = self.finite and bool(np.isfinite(row[:length]).all())
            self.values[:, end - length : end] = row[:length].T


# ------------------------------------------------------------------------------------------ the cache
class _Store:
    """The entries of one model and hook."""

    def __init__(self, cache: Cache, model: SubjectModel) -> None:
        key = hash_json([_CODE_VERSION, model.facts["file_sha256"], model.hook.name, str(model.dtype)])
        self.cache = cache
        self.folder = cache.home.cache / "activations" / key
        self._kind = f"activations/{key}"
        self._held: dict[tuple[int, str], list[tuple[str, Int32[np.ndarray, " neurons"]]]] = {}
        self._listed: dict[tuple[int, str], list[tuple[str, Int32[np.ndarray, " neurons"]]]] = {}
        """By layer and shard, the keys of the entries that were there at first, with their neurons, ascending."""
        for name, about in cache.listing(self._kind).items():
            place = (about["layer"], about["shard"])
            self._listed.setdefault(place, []).append((name, np.array(about["neurons"], np.int32)))

    def lacking(
        self, layer: int, shard: Shard, asked: Int32[np.ndarray, " neurons"]
    ) -> Int32[np.ndarray, " new_neurons"]:
        """The asked neurons that no whole entry holds; entries that hold others only are not looked through."""
        held = self._held.setdefault((layer, shard.shard_id), [])
        left = asked
        for key, neurons in self._listed.get((layer, shard.shard_id), []):
            if np.isin(neurons, left).any() and self.cache.find(self._kind, key) is not None:
                held.append((key, neurons))
                left = np.setdiff1d(left, neurons)
        return left

    def read(self, layer: int, shard: Shard, asked: Sequence[int]) -> Float32[np.ndarray, "neurons tokens"]:
        found = np.empty((len(asked), shard.n_tokens), np.float32)
        for key, neurons in self._held[layer, shard.shard_id]:
            rows = np.flatnonzero(np.isin(asked, neurons))
            if not len(rows):
                continue
            entry = self.cache.find(self._kind, key)
            if entry is None:
                raise StorageError(
                    f"The cached activations {key} of layer {layer} are gone or damaged: materialize evaluation again, "
                    "which makes them anew."
                )
            values = np.load(entry.path(_FILE), mmap_mode="r")
            for row in rows.tolist():
                found[row] = values[np.searchsorted(neurons, asked[row])]
        return found

    def write(self, layer: int, shard: Shard, columns: _Columns) -> None:
        """Makes the finished columns of a shard an entry.

        Raises:
            StorageError: The cache cannot be written, or the disk is full.
        """
        columns.values.flush()
        about = {"layer": layer, "shard": shard.shard_id, "neurons": columns.neurons.tolist()}
        key = hash_json(about)
        self.cache.write(self._kind, key, lambda folder: columns.path.rename(folder / _FILE), about)
        self._held[layer, shard.shard_id].append((key, columns.neurons))
