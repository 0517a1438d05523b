"""The evidence: activations of asked neurons at every token of a corpus, from one forward pass, kept in the cache.

1. The contexts are cut into shards of whole documents; what the store has of them is taken over (``plan``).
2. For each shard, the neurons that no entry holds yet are read in one pass that stops at the deepest of their layers.
   Before the first pass the disk is asked for the bytes of all new entries.
3. Contexts go through the model in batches of like length, padded on the right; where memory runs out, in halves. Each
   layer's neurons are gathered on the device, and those of all layers copied to the host at once. Threads write them,
   without padding, into memory-mapped files while the next batch runs.
4. When a shard is done, each layer's new units become an entry with one file ``activations.npy`` (``kept``),
   memory-mapped when it is read. A killed run goes on with the next shard.
5. A layer whose activations are not finite gets no entry; it fails when it is read, the others go on without it.
"""

import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from n2g_assets.core.errors import StorageError, SubjectError
from n2g_assets.core.home import MINIMUM_FREE_BYTES
from n2g_assets.core.progress import Progress
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.core.units import Unit
from n2g_assets.evidence.corpus import Shard, TokenCorpus
from n2g_assets.evidence.kept import FILE, Held, Numbers, Pairs, Rows
from n2g_assets.evidence.plan import Plan, entry_kind, plan_evidence
from n2g_assets.evidence.precision import DTYPES
from n2g_assets.model.batching import Batch, TokenBudget, on_host, pad, ranges, run_batches
from n2g_assets.model.model import SubjectModel, multiplying
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.files import temporary_folder
from n2g_assets.storage.hashing import hash_json

logger = logging.getLogger(__name__)

_TIMED = 2
"""Batches of which a speed is measured."""
_BATCH_BYTES = 2**28
"""Largest size of what a batch gives for all layers together; four times as much may be in memory at once."""


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
    _dtype: np.dtype = field(repr=False)
    """Of the codes in the files."""
    _plan: Plan = field(repr=False)
    """With the files that the pass wrote."""
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
        for shard in self._plan.shards:
            unread = np.ones(len(asked), bool)
            for held in self._plan.files.get((layer, shard.shard_id), ()):
                places = np.searchsorted(held.units, asked).clip(max=len(held.units) - 1)
                here = np.flatnonzero(unread & (held.units[places] == asked)).tolist()
                if not here:
                    continue
                unread[here] = False
                read = held.opened(self._dtype, shard.n_tokens)
                for row in here:
                    values = read(places[row])
                    for tokens, in_shard in shard.ranges:
                        found[row, tokens] = values[in_shard]
            if unread.any():
                raise ValueError(f"Layer {layer}, neurons {asked[unread].tolist()}: not among those that were read.")
        return found

    def of_unit(self, layer: int, unit: Unit) -> Float32[np.ndarray, " tokens"]:
        """A unit's activations, times its sign and not normalised, at every token of the corpus; fails as ``rows``."""
        return self.rows(layer, [unit.number])[0] * np.float32(unit.sign)


def read_evidence(
    model: SubjectModel,
    corpus: TokenCorpus,
    neurons: Mapping[int, Sequence[int]],
    settings: HarvestSettings,
    *,
    cache: Cache,
    progress: Progress | None = None,
    shard_id: str = "",
) -> Evidence:
    """Read the activations of some neurons on a corpus, or take over what is on disk.

    Args:
        model: The subject model, loaded in the dtype that ``settings.dtype`` needs.
        corpus: What the model reads.
        neurons: For each layer, the neurons to read.
        settings: All are read but those of the corpus; what another dtype or precision gave is kept apart.
        cache: Where they are kept; corpora, studies and models may share it.
        progress: Told the tokens done and the tokens to run.
        shard_id: Of the corpus, where it is one shard: then entries of others are not looked at.

    Raises:
        SubjectError: The model lacks a layer or neuron, or the device has no memory left for a single context.
        SettingsError: A context is longer than the model reads.
        StorageError: The disk has too little space, which is said before the pass; or a file cannot be written.
    """
    if (settings.dtype == "bfloat16") != (model.dtype == torch.bfloat16):
        raise ValueError(f"The model is in {model.dtype}, but the pass is to be in {settings.dtype}.")
    for layer, asked in neurons.items():
        model.check_study([layer], asked, int(corpus.lengths.max(initial=0)))
    plan = plan_evidence(model.facts, corpus, neurons, settings, cache, shard_id=shard_id)
    _check_disk(plan, settings.evidence_dtype, cache.home.store)
    done = run = 0
    failed, most = dict[int, str](), max((sum(map(len, lacks.values())) for _, lacks in plan.work), default=0)
    budget = TokenBudget(min(settings.batch_tokens, max(1, _BATCH_BYTES // (4 * max(1, most)))))
    with multiplying(settings.dtype):
        for shard, lacks in plan.work:
            new = {layer: lacks[layer] for layer in lacks if layer not in failed}
            run += bool(new)
            batches = _run_shard(model, corpus, shard, new, budget, settings, cache, plan, failed) if new else ()
            for tokens in batches:
                done += tokens
                if progress is not None:
                    progress(done, plan.tokens)
    reused = [shard.n_tokens for shard, lacks in plan.work if not lacks]
    dtype = DTYPES[settings.evidence_dtype]
    return Evidence(corpus, done, sum(reused), run, len(reused), dtype, plan, failed)


def tokens_a_second(model: SubjectModel, layer: int, settings: HarvestSettings) -> float:
    """The speed of a pass of full batches to a layer, measured on made-up contexts; the first batch warms up."""
    length = min(settings.context_length, settings.batch_tokens)
    contexts = torch.arange(settings.batch_tokens // length * length).reshape(-1, length) % model.d_vocab
    began = 0.0
    with multiplying(settings.dtype):
        for number in range(1 + _TIMED):
            model.read_layers(contexts, [layer])[layer][0, 0, 0].item()  # which waits for the device
            began = began if number else time.perf_counter()
    return _TIMED * contexts.numel() / (time.perf_counter() - began)


def _check_disk(plan: Plan, dtype: str, home: Path) -> None:
    needed = sum(plan.new_bytes(dtype))
    if not needed:
        return
    free = shutil.disk_usage(next(path for path in (home, *home.parents) if path.exists())).free - MINIMUM_FREE_BYTES
    layers = ", ".join(map(str, sorted({layer for _, lacks in plan.work for layer in lacks})))
    said = f"New evidence of layers {layers} takes {needed:,} bytes in {home}, where it may take {free:,}"
    if needed > free:
        raise StorageError(
            f"{said}: set layers_at_once to a small count, or harvest.evidence_dtype to int8, ask for fewer units or "
            "layers, the lowest first, or set N2G_HOME to a folder on another disk."
        )
    logger.info("%s.", said)


def _run_shard(
    model: SubjectModel,
    corpus: TokenCorpus,
    shard: Shard,
    new: Mapping[int, Numbers],
    budget: TokenBudget,
    settings: HarvestSettings,
    cache: Cache,
    plan: Plan,
    failed: dict[int, str],
) -> Iterator[int]:
    """Run a shard, yielding the tokens of each batch; each layer's new file, or its failure, is noted at the end."""
    lengths = corpus.lengths[shard.contexts]
    starts = np.cumsum(lengths) - lengths
    pick = {layer: model.picker(layer, torch.from_numpy(asked.astype(np.int64))) for layer, asked in new.items()}
    sparse = [layer for layer in new if layer in plan.active]
    dense = [layer for layer in new if layer not in plan.active]
    ends = np.cumsum([len(new[layer]) for layer in dense], dtype=np.int64)

    def run(batch: Batch) -> tuple[Tensor, ...]:
        """The rows of all dense layers together; of each sparse one where its units are not 0, and what they are."""
        gathered: dict[int, Tensor] = {}

        def gather(layer: int, carried: Float[Tensor, "batch pos width"]) -> None:
            gathered[layer] = pick[layer](carried)

        tokens = pad([corpus.tokens(number) for number in shard.contexts[batch]], model.bos_id)
        model.run(tokens, {layer: partial(gather, layer) for layer in new})
        found = [torch.cat([gathered.pop(layer) for layer in dense]).float()] if dense else []
        for values in (gathered.pop(layer) for layer in sparse):
            fired = values.nonzero()
            found += [fired, values[fired[:, 0], fired[:, 1]]]
        return tuple(found)

    def finish(layer: int) -> None:
        made = making[layer]
        if not made.finite:
            cure = "leave the layer out" if settings.dtype == "float32" else "set harvest.dtype to float32"
            said = f"Activations of {model.name} in layer {layer} are not finite in {settings.dtype}"
            failed[layer] = f"{said}: {cure}, or choose another hook."
            return
        path, how = made.finish(settings.evidence_dtype)
        held = new[layer].tolist()
        kind, key = f"{entry_kind(model.facts, settings, layer)}/{shard.shard_id}", hash_json(held)
        about = {"layer": layer, "shard": shard.shard_id, "neurons": held, "documents": shard.document_ids, **how}
        entry = cache.find(kind, key)  # another run may have been faster, and read it while it is replaced
        entry = entry or cache.write(kind, key, lambda to: path.rename(to / FILE), about)
        made.drop()
        plan.files[layer, shard.shard_id].append(Held.of(entry.path(FILE), entry.about))

    in_work = cache.home.cache / "evidence" / "shard"
    with temporary_folder(in_work) as folder, ThreadPoolExecutor(torch.get_num_threads()) as threads:
        rows = {layer: Rows(folder / f"{layer}.npy", len(new[layer]), shard.n_tokens) for layer in dense}
        pairs = {layer: Pairs(folder / f"{layer}.npy", len(new[layer])) for layer in sparse}
        making: dict[int, Rows | Pairs] = {**rows, **pairs}
        writing: list[Future[None]] = []
        for batch, found in on_host(run_batches(lengths, budget, run)):
            for each in writing:
                each.result()
            sizes = lengths[batch]
            places = ranges(starts[batch], sizes)
            kept = np.flatnonzero(np.arange(sizes.max()) < sizes[:, None])
            parts = np.split(found.pop(0), ends[:-1]) if dense else ()
            writing = [
                threads.submit(rows[layer].add, places, kept, part) for layer, part in zip(dense, parts, strict=True)
            ]
            padded = len(batch) * int(sizes.max())
            for layer, fired, values in zip(sparse, found[::2], found[1::2], strict=True):
                writing.append(threads.submit(pairs[layer].add, places, kept, fired, values, padded))
            yield len(places)
        for each in writing:
            each.result()
        list(threads.map(finish, new))
