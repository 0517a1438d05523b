"""The evidence: activations of asked neurons at every token of a corpus, from one forward pass, kept in the cache.

1. The contexts are cut into shards of whole documents; shards that the store knows are taken over (``corpus``).
2. For each shard, the neurons that no entry holds yet are read in one pass that stops at the deepest of their layers.
   Before the first pass the disk is asked for the bytes of all new entries.
3. Contexts go through the model in batches of like length, padded on the right; where memory runs out, in halves. Each
   layer's neurons are gathered on the device, and those of all layers copied to the host at once. Threads write them,
   without padding, into memory-mapped files while the next batch runs.
4. When a shard is done, each layer's new neurons become an entry with one file ``activations.npy`` [neuron, token] in
   float32, which is memory-mapped when it is read. A killed run goes on with the next shard.
5. A layer whose activations are not finite gets no entry; it fails when it is read, the others go on without it.
"""

from __future__ import annotations

import itertools
import logging
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32
from torch import Tensor

from n2g_assets.core.errors import StorageError, SubjectError
from n2g_assets.core.progress import Progress
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.evidence.corpus import Shard, TokenCorpus, plan_shards
from n2g_assets.model.batching import Batch, TokenBudget, pad, run_batches
from n2g_assets.model.model import SubjectModel
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.files import new_map, temporary_folder
from n2g_assets.storage.hashing import hash_json

logger = logging.getLogger(__name__)

_FILE = "activations.npy"
_CODE_VERSION = "1"
_BATCH_BYTES = 2**28
"""Largest size of what a batch gives for all layers together; three times as much may be in memory at once."""
_Neurons = Int32[np.ndarray, " neurons"]
_Files = dict[tuple[int, str], list[tuple[Path, _Neurons]]]
"""By layer and shard, the files that were found whole or written now, with their neurons, ascending."""


@dataclass(frozen=True)
class Evidence:
    """Activations at every token of a corpus, read from disk when they are asked for."""

    corpus: TokenCorpus
    tokens_run: int
    """Tokens, BOS included, that went through the model now."""
    tokens_reused: int
    """Tokens of shards of which all was on disk."""
    shards_run: int
    shards_reused: int
    _shards: Sequence[Shard] = field(repr=False)
    _files: _Files = field(repr=False)
    _failed: Mapping[int, str] = field(repr=False)
    """By layer whose activations are not finite, what is said of it."""

    def rows(self, layer: int, neurons: Sequence[int]) -> Float32[np.ndarray, "neurons tokens"]:
        """Activations of some neurons, without sign and not normalised, at every token of the corpus.

        Returns:
            A row for each neuron, in the order asked; a column for each of ``corpus.token_ids``, BOS included.

        Raises:
            SubjectError: The layer's activations are not finite.
            StorageError: An entry was removed since.
            ValueError: The layer or a neuron was not read.
        """
        if layer in self._failed:
            raise SubjectError(self._failed[layer])
        asked = np.asarray(neurons, np.int32)
        found = np.empty((len(asked), len(self.corpus.token_ids)), np.float32)
        for shard in self._shards:
            unread = np.ones(len(asked), bool)
            for path, held in self._files.get((layer, shard.shard_id), ()):
                places = np.searchsorted(held, asked).clip(max=len(held) - 1)
                here = np.flatnonzero(unread & (held[places] == asked)).tolist()
                if not here:
                    continue
                unread[here] = False
                try:
                    header = path.stat().st_size - 4 * len(held) * shard.n_tokens  # np.load takes twice the time
                    values = np.memmap(path, np.float32, "r", header, (len(held), shard.n_tokens)).view(np.ndarray)
                except OSError as error:
                    raise StorageError(f"{path} is gone: run the same command again, which makes it anew.") from error
                for row, (tokens, in_shard) in itertools.product(here, shard.ranges):
                    found[row, tokens] = values[places[row], in_shard]
            if unread.any():
                raise ValueError(f"Layer {layer}, neurons {asked[unread].tolist()}: not among those that were read.")
        return found


def read_evidence(
    model: SubjectModel,
    corpus: TokenCorpus,
    neurons: Mapping[int, Sequence[int]],
    settings: HarvestSettings,
    *,
    cache: Cache,
    progress: Progress | None = None,
) -> Evidence:
    """Read the activations of some neurons on a corpus, or take over what is on disk.

    Args:
        model: The subject model; what it gives in float32 and in bfloat16 is kept apart, both as float32.
        corpus: What the model reads.
        neurons: For each layer, the neurons to read.
        settings: ``batch_tokens`` and ``shard_tokens`` are read.
        cache: Where they are kept; corpora, studies and models may share it.
        progress: Told the tokens done and the tokens to run.

    Raises:
        SubjectError: The model lacks a layer or neuron, or the device has no memory left for a single context.
        SettingsError: A context is longer than the model reads.
        StorageError: The disk has too little space, which is said before the pass; or a file cannot be written.
    """
    wanted = {layer: np.unique(np.asarray(asked, np.int32)) for layer, asked in neurons.items()}
    for layer, asked in wanted.items():
        model.check_study([layer], asked.tolist(), int(corpus.lengths.max(initial=0)))
    kind = "evidence/" + hash_json([_CODE_VERSION, model.facts["file_sha256"], model.hook.name, str(model.dtype)])
    listing = cache.listing(kind)
    shards = plan_shards(corpus, listing.values(), wanted, settings.shard_tokens)
    files: _Files = defaultdict(list)
    left = {(layer, shard.shard_id): asked for shard in shards for layer, asked in wanted.items()}
    for key, about in listing.items():
        place, held = (about["layer"], about["shard"]), np.array(about["neurons"], np.int32)
        if np.isin(left.get(place, ()), held).any() and (entry := cache.find(kind, key)) is not None:
            files[place].append((entry.path(_FILE), held))
            left[place] = np.setdiff1d(left[place], held)
    work = [(shard, {layer: rest for layer in wanted if len(rest := left[layer, shard.shard_id])}) for shard in shards]
    needed = sum(4 * shard.n_tokens * len(rest) for shard, lacks in work for rest in lacks.values())
    home = cache.home.root
    free = shutil.disk_usage(next(path for path in (home, *home.parents) if path.exists())).free
    layers = ", ".join(map(str, sorted({layer for _, lacks in work for layer in lacks})))
    said = f"New evidence of layers {layers} takes {needed:,} bytes in {home}, where {free:,} bytes are free"
    if needed > free:
        raise StorageError(
            f"{said}: ask for fewer units, or for fewer layers, the lowest first, or set N2G_HOME to a folder on "
            "another disk."
        )
    if needed:
        logger.info("%s.", said)
    total = sum(shard.n_tokens for shard, lacks in work if lacks)
    done = run = 0
    failed, most = dict[int, str](), max((sum(map(len, lacks.values())) for _, lacks in work), default=0)
    budget = TokenBudget(min(settings.batch_tokens, max(1, _BATCH_BYTES // (4 * max(1, most)))))
    for shard, lacks in work:
        new = {layer: lacks[layer] for layer in lacks if layer not in failed}
        run += bool(new)
        for tokens in _run_shard(model, corpus, shard, new, budget, cache, kind, files, failed) if new else ():
            done += tokens
            if progress is not None:
                progress(done, total)
    reused = [shard.n_tokens for shard, lacks in work if not lacks]
    return Evidence(corpus, done, sum(reused), run, len(reused), shards, files, failed)


def _run_shard(
    model: SubjectModel,
    corpus: TokenCorpus,
    shard: Shard,
    new: Mapping[int, _Neurons],
    budget: TokenBudget,
    cache: Cache,
    kind: str,
    files: _Files,
    failed: dict[int, str],
) -> Iterator[int]:
    """Run a shard, yielding the tokens of each batch; each layer's new file, or its failure, is noted at the end."""
    lengths = corpus.lengths[shard.contexts]
    starts = np.cumsum(lengths) - lengths
    indices = {layer: torch.from_numpy(asked.astype(np.int64)).to(model.device) for layer, asked in new.items()}
    ends = np.cumsum([len(asked) for asked in new.values()])

    def run(batch: Batch) -> Float32[np.ndarray, "all_neurons padded_tokens"]:
        gathered: dict[int, Tensor] = {}

        def gather(layer: int, activations: Float[Tensor, "batch pos d_mlp"]) -> None:
            gathered[layer] = activations.flatten(0, 1).t().index_select(0, indices[layer])

        tokens = pad([corpus.tokens(number) for number in shard.contexts[batch]], model.bos_id)
        model.run(tokens, {layer: partial(gather, layer) for layer in new})
        rows = torch.cat([gathered.pop(layer) for layer in new]).float()
        on_host = rows.to("cpu", non_blocking=rows.is_cuda)  # from cuda into pinned memory
        if rows.is_cuda:
            torch.cuda.current_stream(rows.device).synchronize()
        return on_host.numpy()

    def finish(layer: int, values: Float32[np.ndarray, "neurons tokens"]) -> None:
        if not np.isfinite([values.min(), values.max()]).all():
            cure = "leave the layer out" if model.dtype == torch.float32 else "set harvest.dtype to float32"
            dtype = str(model.dtype).removeprefix("torch.")
            said = f"Activations of {model.name} in layer {layer} are not finite in {dtype}"
            failed[layer] = f"{said}: {cure}, or choose another hook."
            return
        held = new[layer].tolist()
        about = {"layer": layer, "shard": shard.shard_id, "neurons": held, "documents": shard.document_ids}
        key = f"layer={layer}.{shard.shard_id}.{hash_json(held)}"
        entry = cache.write(kind, key, lambda to: paths[layer].rename(to / _FILE), about)
        files[layer, shard.shard_id].append((entry.path(_FILE), new[layer]))

    with temporary_folder(cache.home.cache / kind) as folder, ThreadPoolExecutor(torch.get_num_threads()) as threads:
        paths = {layer: folder / f"{layer}.npy" for layer in new}
        maps = [new_map(paths[layer], (len(new[layer]), shard.n_tokens), np.float32) for layer in new]
        writing: Iterator[None] = iter(())
        for batch, rows in run_batches(lengths, budget, run):
            list(writing)
            sizes = lengths[batch]
            places = np.arange(sizes.sum()) + np.repeat(starts[batch] - np.cumsum(sizes) + sizes, sizes)
            kept = np.flatnonzero(np.arange(sizes.max()) < sizes[:, None])
            writing = threads.map(partial(_scatter, places, kept), maps, np.split(rows, ends[:-1]))
            yield len(places)
        list(writing)
        list(threads.map(finish, new, maps))


def _scatter(places: np.ndarray, kept: np.ndarray, values: np.ndarray, rows: np.ndarray) -> None:
    """Write the kept columns of ``rows`` to these places of ``values`` [neuron, token]; twice does no harm."""
    for to, row in zip(values, rows, strict=True):
        to[places] = row[kept]
