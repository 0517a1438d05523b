"""The activation cache: one forward pass through the corpus for all asked layers, selected while it streams.

1. The corpus is cut into shards of whole documents; those with sound checkpoints are taken over (``shards``).
2. Of each remaining shard, the contexts go through the model in batches of like length, right-padded; the pass stops
   after the deepest layer that the shard lacks, and every layer's activations go to a ``LayerStream`` at once.
3. When a shard is done, each layer's state is written as a checkpoint: a killed harvest goes on with the next shard.
4. A layer whose activations are not finite gets no checkpoint; the others go on without it.
5. The frames of a layer are made by merging its shards, when they are asked for.

Where the device runs out of memory, the shard begins anew with half the tokens a batch, and so do all later ones.

A harvest in bfloat16 keeps a shortlist twice as long; the shortlisted contexts of the recorded units are then measured
again in float32: their top contexts are chosen by that, and a_max and the activations in them are float32. So are those
of their strongest positions that lie in a context which was measured again; which positions are listed, their other
activations, the moments and the quantiles stay those of bfloat16, and all that is kept of units that are not recorded.
Activations at all positions of a context are then given only where they are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from n2g_assets.core.errors import SubjectError
from n2g_assets.core.progress import Progress
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.evidence.frames import LayerHarvest, frames_of
from n2g_assets.evidence.shards import Shard, ShardStore, TokenCorpus, plan_shards
from n2g_assets.evidence.state import BOTH_SIGNS, LayerState, Layout, lay_out, units_of
from n2g_assets.evidence.streaming import LayerStream, merge
from n2g_assets.evidence.top_k import documents_of, pack, select, unpack
from n2g_assets.model.batching import Batch, TokenBudget, pad, run_batches
from n2g_assets.model.model import SubjectModel
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.hashing import hash_json

SAMPLE = 1024
"""Positions of the corpus behind ``neuron_stats.quantiles``."""
_CODE_VERSION = "1"
_SHORTLIST = 2
"""How many times as many contexts a harvest in bfloat16 keeps."""


@dataclass(frozen=True)
class Harvest:
    """A finished harvest; the frames of a layer are made when they are asked for, so that one layer is in memory."""

    tokens_run: int
    """Tokens, BOS included, that went through the model now."""
    tokens_reused: int
    """Tokens of shards whose checkpoints held all layers."""
    shards_run: int
    """Shards that lacked some layer."""
    shards_reused: int
    """Shards whose checkpoints held all layers."""
    _read: Callable[[int], LayerHarvest]

    def frames(self, layer: int) -> LayerHarvest:
        """The rows of one layer.

        Raises:
            SubjectError: The layer's activations are not finite.
            StorageError: A checkpoint was damaged or removed since.
        """
        return self._read(layer)


def harvest(
    model: SubjectModel,
    contexts: pl.DataFrame,
    layers: Sequence[int],
    recorded: Mapping[int, Sequence[int]],
    settings: HarvestSettings,
    *,
    top_contexts: int,
    contexts_per_document: int,
    cache: Cache,
    signs: Sequence[int] = BOTH_SIGNS,
    progress: Progress | None = None,
    exact_model: SubjectModel | None = None,
) -> Harvest:
    """Harvest the activations of some layers, or take over what is cached.

    Args:
        model: The subject model.
        contexts: Rows (context_id, document_id, token_ids) of the harvested split, in corpus order.
        layers: Layers to harvest.
        recorded: For each layer, the neurons whose top contexts are kept with all their activations.
        settings: How to batch and shard, and how many strong positions to keep.
        top_contexts: Strongest contexts kept for every unit.
        contexts_per_document: At most this many of them come from one document.
        cache: Where checkpoints are kept.
        signs: The signs of the recorded neurons for which that is done.
        progress: Told the tokens done and the tokens to run.
        exact_model: The same model in float32; needed where ``model`` is not.

    Raises:
        CorpusError: There is nothing to harvest.
        StorageError: A checkpoint cannot be written.
        SubjectError: The device has no memory left for a single context, or for what is kept of every unit.
    """
    if exact_model is None and model.dtype != torch.float32:
        raise ValueError("A harvest that is not in float32 needs the exact_model.")
    shortlist = _SHORTLIST if exact_model is not None else 1
    budget = TokenBudget(settings.batch_tokens)
    job = _Job(model, settings, top_contexts * shortlist, contexts_per_document * shortlist, recorded, signs, budget)
    corpus = TokenCorpus.from_frame(contexts)
    corpus.check_harvest(settings.context_length)
    store = ShardStore(cache, job.key())
    shards = plan_shards(corpus, store, layers, settings.shard_tokens)
    lacking = [[layer for layer in layers if not store.has(layer, shard.shard_id)] for shard in shards]
    total = sum(shard.n_tokens for shard, lacks in zip(shards, lacking, strict=True) if lacks)
    done = run = 0
    not_finite: set[int] = set()
    for shard, lacks in zip(shards, lacking, strict=True):
        wanted = [layer for layer in lacks if layer not in not_finite]
        if not wanted:
            continue
        run += 1
        for tokens in job.run(corpus, shard, wanted, store, not_finite):
            if progress is not None:
                progress(done + tokens, total)
        done += shard.n_tokens

    def read(layer: int) -> LayerHarvest:
        if layer in not_finite:
            raise SubjectError(
                f"Activations of {model.name} in layer {layer} are not finite in {settings.dtype}: set harvest.dtype "
                "to float32, or choose another hook."
            )
        state = merge(
            ((store.read(layer, shard.shard_id), shard.contexts) for shard in shards),
            documents=corpus.documents,
            context_length=settings.context_length,
            contexts_per_document=job.contexts_per_document,
            sample=SAMPLE,
        )
        if exact_model is not None:
            state = _narrow(state, units_of(recorded.get(layer, ()), signs, model.d_mlp))
            state = _measure_again(exact_model, layer, state, corpus, settings.context_length, budget)
            state = _shorten(state, corpus, settings.context_length, top_contexts, contexts_per_document)
        return frames_of(state, corpus, settings.context_length)

    reused = [shard for shard, lacks in zip(shards, lacking, strict=True) if not lacks]
    return Harvest(done, sum(shard.n_tokens for shard in reused), run, len(reused), read)


@dataclass(frozen=True)
class _Job:
    """A model and the settings that decide what is kept of it."""

    model: SubjectModel
    settings: HarvestSettings
    top_contexts: int
    contexts_per_document: int
    recorded: Mapping[int, Sequence[int]]
    signs: Sequence[int]
    budget: TokenBudget

    def key(self) -> str:
        """Hash of all that decides what a shard's checkpoint holds, but for the recorded units."""
        facts = {
            "code_version": _CODE_VERSION,
            "model": self.model.facts["file_sha256"],
            "hook": self.model.hook.name,
            "dtype": str(self.model.dtype),
            "context_length": self.settings.context_length,
            "strongest": self.settings.strongest,
            "top_contexts": self.top_contexts,
            "contexts_per_document": self.contexts_per_document,
            "sample": SAMPLE,
        }
        return hash_json(facts)

    def run(
        self, corpus: TokenCorpus, shard: Shard, layers: Sequence[int], store: ShardStore, not_finite: set[int]
    ) -> Iterator[int]:
        """Run a shard and write its checkpoints; yields the tokens done of it after each batch.

        Layers whose activations are not finite are added to ``not_finite`` instead.
        """
        layout = lay_out(
            corpus.context_ids.gather(shard.contexts).to_list(),
            corpus.documents[shard.contexts],
            corpus.lengths[shard.contexts],
            self.settings.context_length,
            SAMPLE,
        )
        while True:
            try:
                yield from self._stream(corpus, shard, layers, layout, store, not_finite)
                return
            except _Interrupted:
                pass
            except MemoryError as error:
                raise SubjectError(
                    f"There is no memory left for what the harvest keeps of every unit of {len(layers)} layers: lower "
                    "harvest.strongest, or ask for fewer layers or neurons."
                ) from error

    def _stream(
        self,
        corpus: TokenCorpus,
        shard: Shard,
        layers: Sequence[int],
        layout: Layout,
        store: ShardStore,
        not_finite: set[int],
    ) -> Iterator[int]:
        keep = (self.settings.strongest, self.top_contexts, self.contexts_per_document)
        streams = {
            layer: LayerStream(self.model.d_mlp, layout, *keep, self.recorded.get(layer, ()), signs=self.signs)
            for layer in layers
        }
        all_lengths, done, whole = corpus.lengths[shard.contexts], 0, True

        def run(batch: Batch) -> int:
            nonlocal whole
            if not whole:  # some layers have taken in a batch that failed after them
                raise _Interrupted
            whole = False
            lengths = all_lengths[batch]
            tokens = pad([corpus.tokens(shard.contexts[number]) for number in batch], self.model.bos_id)
            self.model.run(
                tokens, {layer: partial(stream.add_batch, batch, lengths=lengths) for layer, stream in streams.items()}
            )
            whole = True
            return int(lengths.sum())

        for _, tokens in run_batches(all_lengths, self.budget, run):
            done += tokens
            yield done

        def close(layer: int) -> bool:
            state = streams.pop(layer).finish()
            finite = bool(torch.isfinite(state.squares).all())
            if finite:
                store.write(layer, shard, state)
            return finite

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            finite = list(pool.map(close, layers))
        not_finite.update(layer for layer, sound in zip(layers, finite, strict=True) if not sound)


class _Interrupted(Exception):  # noqa: N818  (a signal, no error)
    """The device ran out of memory: the shard has to begin anew, with the smaller batches that follow."""


# ------------------------------------------------------------------------------------------ bfloat16
def _narrow(state: LayerState, units: Int64[np.ndarray, " units"]) -> LayerState:
    """The state with the windows of some units alone; other studies may have recorded more."""
    asked = torch.isin(state.recorded, torch.from_numpy(units))
    return replace(state, recorded=state.recorded[asked], windows=state.windows[asked])


def _measure_again(
    model: SubjectModel,
    layer: int,
    state: LayerState,
    corpus: TokenCorpus,
    context_length: int,
    budget: TokenBudget,
) -> LayerState:
    """The state with the shortlisted contexts of its recorded units, and what lies in them, measured by ``model``."""
    units = state.recorded
    neurons, signs = units % model.d_mlp, torch.where(units < model.d_mlp, 1.0, -1.0)
    numbers, strong_numbers = (
        unpack(entries[units])[1].div(context_length, rounding_mode="floor")
        for entries in (state.contexts, state.strongest)
    )
    windows, contexts, strongest = state.windows.clone(), state.contexts.clone(), state.strongest.clone()
    asked = np.unique(numbers[numbers >= 0].numpy())

    def run(batch: Batch) -> None:
        def take(activations: Float[Tensor, "batch pos d_mlp"]) -> None:
            measured = activations.index_select(2, neurons.to(activations.device)).float().cpu() * signs
            for row, number in zip(measured, asked[batch], strict=True):
                tokens = int(corpus.lengths[number])
                activation, peak = row[1:tokens].max(dim=0)
                unit, slot = (numbers == number).nonzero(as_tuple=True)
                contexts[units[unit], slot] = pack(activation[unit], number * context_length + 1 + peak[unit])
                windows[unit, slot, :tokens] = row[:tokens, unit].t()
                unit, slot = (strong_numbers == number).nonzero(as_tuple=True)
                offsets = unpack(state.strongest[units[unit], slot])[1]
                strongest[units[unit], slot] = pack(row[offsets % context_length, unit], offsets)

        model.run(pad([corpus.tokens(number) for number in asked[batch]], model.bos_id), {layer: take})

    for _ in run_batches(corpus.lengths[asked], budget, run):
        pass
    strongest[units] = strongest[units].sort(dim=1, descending=True).values
    return replace(state, windows=windows, contexts=contexts, strongest=strongest)


def _shorten(
    state: LayerState, corpus: TokenCorpus, context_length: int, top_contexts: int, per_document: int
) -> LayerState:
    """The state with the shortlist cut to the strongest contexts."""
    documents = documents_of(state.contexts, torch.from_numpy(corpus.documents), context_length)
    contexts, chosen = select(state.contexts, top_contexts, documents, per_document)
    index = chosen[state.recorded][:, :, None].expand(-1, -1, context_length)
    return replace(state, contexts=contexts, windows=state.windows.gather(1, index))
