"""Readings: the activations of asked neurons on evaluation texts, from one forward pass, kept on disk.

1. The contexts are cut into shards of whole documents, each known by the hash of its contexts and tokens.
2. For each shard, the neurons that no sound file holds yet are read in one pass that stops at the deepest of their
   layers; contexts go through it in batches of like length, padded on the right, and only the asked columns are copied
   from the model's device. So scoring again costs no pass, and more units cost the pass of the new ones.
3. Each layer's new columns become one file, written when the shard is done: a killed run goes on with the next shard.
4. A layer whose activations are not finite gets no file; it fails when it is read, the others go on without it.
5. Where the device runs out of memory, the batch is repeated in halves, and later batches are as small.

A file is ``<model>/layer=<layer>/<shard>-<neurons>.safetensors`` with ``neurons`` and ``activations``, the shard's
contexts one behind another. The sha256 of its content stands in its header, so a file is sound or not by itself: two
runs that write the same one at once cannot spoil it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from n2g_assets.core.errors import StorageError, SubjectError
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.evidence.harvest import Progress
from n2g_assets.model.batching import Batch, TokenBudget, pad, run_batches
from n2g_assets.model.model import SubjectModel
from n2g_assets.storage.files import disk_full_error, is_disk_full, write_atomically
from n2g_assets.storage.hashing import hash_json

SHARD_TOKENS = 16_384
"""A shard is full before the document with which it would hold more tokens than this; a longer one stands alone."""
_CODE_VERSION = "1"
_CHUNK = 2**20


@dataclass(frozen=True)
class Readings:
    """What was read of some texts; activations are read from disk when they are asked for, one shard at a time."""

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
            StorageError: A file was damaged or removed since.
            ValueError: The layer or a neuron was not read.
        """
        return self._read(layer, shard, neurons)


def read_texts(
    model: SubjectModel,
    contexts: pl.DataFrame,
    neurons: Mapping[int, Sequence[int]],
    settings: HarvestSettings,
    *,
    cache_folder: Path,
    progress: Progress | None = None,
) -> Readings:
    """Read the activations of some neurons on texts, or take over what is on disk.

    Args:
        model: The subject model; in float32, since what is measured is decided on.
        contexts: Rows (context_id, document_id, token_ids); the contexts of a document stand one behind another.
        neurons: For each layer, the neurons to read.
        settings: Only ``batch_tokens`` is read.
        cache_folder: Where the files are kept; texts, studies and models may share it.
        progress: Told the tokens done and the tokens to run.

    Raises:
        SubjectError: The model lacks a layer or neuron, or the device has no memory left for a single context.
        SettingsError: A context is longer than the model reads.
        StorageError: A file cannot be written.
        ValueError: The model is not in float32, or a document's contexts do not stand together.
    """
    if model.dtype != torch.float32:
        raise ValueError("Readings need the model in float32.")
    wanted = {layer: np.unique(np.asarray(asked, np.int32)) for layer, asked in neurons.items()}
    longest = int(contexts["token_ids"].list.len().max() or 0)  # type: ignore[arg-type]
    for layer, asked in wanted.items():
        model.check_study([layer], asked.tolist(), longest)
    store = _Store(cache_folder / _key(model))
    shards = _cut(contexts)
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
        for tokens in _run(model, shard, new, budget, store, not_finite):
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
    return Readings(tuple(shard.contexts for shard in shards), done, reused, read)


def _key(model: SubjectModel) -> str:
    """Hash of all that the activations depend on beside the tokens."""
    facts = {
        "code_version": _CODE_VERSION,
        "model": model.facts.file_sha256,
        "hook": model.hook.name,
        "dtype": str(model.dtype),
    }
    return hash_json(facts)


# ------------------------------------------------------------------------------------------ shards
@dataclass(frozen=True, eq=False)
class _Shard:
    """Some whole documents of a text."""

    shard_id: str
    contexts: pl.DataFrame
    tokens: list[Int32[np.ndarray, " length"]]
    """Token ids of each context."""
    starts: Int64[np.ndarray, " contexts_and_end"]
    """Where each context starts among the shard's tokens."""

    @property
    def n_tokens(self) -> int:
        return int(self.starts[-1])


def _cut(contexts: pl.DataFrame) -> list[_Shard]:
    """Shards of about ``SHARD_TOKENS``, which depend on what stands before them alone: a text that grows keeps them."""
    documents = contexts.select(pl.col("document_id").rle().struct.unnest())
    if documents["value"].n_unique() != len(documents):
        raise ValueError("The contexts of a document must stand one behind another.")
    lengths = contexts["token_ids"].list.len().to_numpy().astype(np.int64)
    ends = np.cumsum(documents["len"].to_numpy().astype(np.int64))
    cuts, held = [0], 0
    for start, end in itertools.pairwise([0, *ends.tolist()]):
        size = int(lengths[start:end].sum())
        if held and held + size > SHARD_TOKENS:
            cuts.append(start)
            held = 0
        held += size
    return [_make_shard(contexts[start:end]) for start, end in itertools.pairwise([*cuts, len(contexts)]) if end]


def _make_shard(contexts: pl.DataFrame) -> _Shard:
    tokens = [np.asarray(ids, np.int32) for ids in contexts["token_ids"]]
    digest = hashlib.sha256()
    for context_id, ids in zip(contexts["context_id"], tokens, strict=True):
        digest.update(f"{context_id}\n{len(ids)}\n".encode())
        digest.update(ids.tobytes())
    starts = np.concatenate([[0], np.cumsum([len(ids) for ids in tokens])])
    return _Shard(digest.hexdigest()[:24], contexts, tokens, starts)


# ------------------------------------------------------------------------------------------ one pass
def _run(
    model: SubjectModel,
    shard: _Shard,
    new: Mapping[int, Int32[np.ndarray, " neurons"]],
    budget: TokenBudget,
    store: _Store,
    not_finite: set[int],
) -> Iterator[int]:
    """Run a shard and write the new neurons of each layer; yields the tokens of each batch.

    Layers whose activations are not finite are added to ``not_finite`` instead.
    """
    with store.writing():
        store.folder.mkdir(parents=True, exist_ok=True)
        columns = {layer: _Columns(asked, shard, model.device, store.folder) for layer, asked in new.items()}
    lengths = np.diff(shard.starts)

    def run(batch: Batch) -> None:  # filling in the same columns twice does no harm
        tokens = pad([shard.tokens[number] for number in batch], model.bos_id)
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
    """The activations of some neurons of a layer on a shard, filled batch by batch.

    They lie in a file without a name, so that memory does not grow with the number of units, and that nothing is left
    of a killed run.
    """

    def __init__(
        self, neurons: Int32[np.ndarray, " neurons"], shard: _Shard, device: torch.device, folder: Path
    ) -> None:
        self.neurons = neurons
        self.finite = True
        self._starts = shard.starts
        self._index = torch.from_numpy(neurons.astype(np.int64)).to(device)
        shape = (len(neurons), shard.n_tokens)
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (it lives as long as the map of it)
        left = 4 * shape[0] * shape[1]
        while left:  # written, not only sized: a full disk is then an error here, not a crash at the map
            left -= file.write(bytes(min(left, _CHUNK)))
        file.flush()
        self.values = np.memmap(file, np.float32, "r+", shape=shape)

    def add_batch(self, batch: Int64[np.ndarray, " batch"], activations: Float[Tensor, "batch pos d_mlp"]) -> None:
        """Take over the columns of a batch of contexts, without its padding."""
        rows = activations.index_select(2, self._index).float().cpu().numpy()
        for number, row in zip(batch, rows, strict=True):
            start, end = self._starts[number : number + 2]
            mine = row[: end - start]
            self.finite = self.finite and bool(np.isfinite(mine).all())
            self.values[:, start:end] = mine.T


# ------------------------------------------------------------------------------------------ files
class _Store:
    """The files of one model and hook."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[tuple[int, str], list[tuple[Path, Int32[np.ndarray, " neurons"]]]] = {}

    def lacking(
        self, layer: int, shard: _Shard, asked: Int32[np.ndarray, " neurons"]
    ) -> Int32[np.ndarray, " new_neurons"]:
        """The asked neurons that no sound file holds; files that hold others only are not looked through."""
        held = self._held.setdefault((layer, shard.shard_id), [])
        left = asked
        for path in sorted((self.folder / f"layer={layer}").glob(f"{shard.shard_id}-*.safetensors")):
            neurons = _sound_neurons(path, shard.n_tokens, left)
            if neurons is not None:
                held.append((path, neurons))
                left = np.setdiff1d(left, neurons)
        return left

    def read(self, layer: int, shard: _Shard, asked: Sequence[int]) -> Float32[np.ndarray, "neurons tokens"]:
        rows_of: dict[int, list[int]] = {}
        for row, neuron in enumerate(asked):
            rows_of.setdefault(int(neuron), []).append(row)
        found = np.empty((len(asked), shard.n_tokens), np.float32)
        for path, neurons in self._held[layer, shard.shard_id]:
            wanted = [(at, neuron) for at, neuron in enumerate(neurons.tolist()) if neuron in rows_of]
            if not wanted:
                continue
            offset = len(_header(len(neurons), shard.n_tokens)) + neurons.nbytes
            try:
                values = np.memmap(path, np.float32, "r", offset, (len(neurons), shard.n_tokens))
            except (OSError, ValueError) as error:
                raise StorageError(
                    f"The readings {path} cannot be read ({error}): materialize evaluation again, which makes them "
                    "anew."
                ) from error
            for at, neuron in wanted:
                found[rows_of.pop(neuron)] = values[at]
        assert not rows_of
        return found

    def write(self, layer: int, shard: _Shard, columns: _Columns) -> None:
        """Write one file, moved into place when it is whole.

        Raises:
            StorageError: The folder cannot be written, or the disk is full.
        """
        name = hashlib.sha256(columns.neurons.astype("<i4").tobytes()).hexdigest()[:16]
        path = self.folder / f"layer={layer}" / f"{shard.shard_id}-{name}.safetensors"
        with self.writing():
            write_atomically(path, lambda temporary: _fill(temporary, columns))
        self._held[layer, shard.shard_id].append((path, columns.neurons))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turns what the file system says into an error with a cure."""
        try:
            yield
        except OSError as error:
            if is_disk_full(error):
                raise disk_full_error(self.folder) from error
            raise StorageError(
                f"The readings in {self.folder} cannot be written ({error}): set N2G_HOME to a folder that can be "
                "written; finished shards are kept."
            ) from error


def _header(n_neurons: int, n_tokens: int, digest: str = "0" * 64) -> bytes:
    """The start of a file: all that stands before the neurons and the activations; its length is that of any digest."""
    middle = 4 * n_neurons
    end = middle + 4 * n_neurons * n_tokens
    described = {
        "__metadata__": {"sha256": digest},
        "neurons": {"dtype": "I32", "shape": [n_neurons], "data_offsets": [0, middle]},
        "activations": {"dtype": "F32", "shape": [n_neurons, n_tokens], "data_offsets": [middle, end]},
    }
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _fill(path: Path, columns: _Columns) -> None:
    """Write the neurons and their rows, then the header with their sha256."""
    digest = hashlib.sha256()
    n_neurons, n_tokens = columns.values.shape
    with path.open("wb") as file:
        file.write(_header(n_neurons, n_tokens))
        for part in itertools.chain([columns.neurons.astype("<i4")], columns.values):
            digest.update(part.data)
            file.write(part.data)
        file.seek(0)
        file.write(_header(n_neurons, n_tokens, digest.hexdigest()))


def _sound_neurons(
    path: Path, n_tokens: int, asked: Int32[np.ndarray, " neurons"]
) -> Int32[np.ndarray, " neurons"] | None:
    """The neurons of a file; none where the file is damaged, or holds none of the asked ones."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
            start += file.read(min(int.from_bytes(start, "little"), _CHUNK))
            described = json.loads(start[8:])
            n_neurons, digest = int(described["neurons"]["shape"][0]), str(described["__metadata__"]["sha256"])
            size = len(start) + 4 * n_neurons * (1 + n_tokens)
            if start != _header(n_neurons, n_tokens, digest) or path.stat().st_size != size:
                return None
            listed = file.read(4 * n_neurons)
            neurons = np.frombuffer(listed, "<i4").astype(np.int32)
            if not np.isin(neurons, asked).any():
                return None
            found = hashlib.sha256(listed)
            while chunk := file.read(_CHUNK):
                found.update(chunk)
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
    return neurons if found.hexdigest() == digest else None
