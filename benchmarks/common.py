"""What several benchmarks share: the default subject model, a named corpus, a bare pass, a mean of ratios."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch
from jaxtyping import Int64

from n2g_assets.core.home import Home
from n2g_assets.core.progress import Progress
from n2g_assets.core.settings import HarvestSettings, MethodSettings
from n2g_assets.core.sources import NamedSource, WheelSubject
from n2g_assets.core.units import Unit
from n2g_assets.corpus.documents import read_documents
from n2g_assets.corpus.spelling import Spelling
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.derive import derive
from n2g_assets.evidence.store import Evidence, read_evidence
from n2g_assets.method.augment import augment_examples
from n2g_assets.method.graph import build_graphs
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.prune import prune_examples
from n2g_assets.model.batching import TokenBudget, run_batches
from n2g_assets.model.infill import InfillProposer
from n2g_assets.model.load import load_subject
from n2g_assets.model.model import SubjectModel
from n2g_assets.model.prober import LayerProber
from n2g_assets.model.sources import SubjectFiles, resolve_subject
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.slices import SliceStore

GRAPH_SHAPE = ["node_id", "parent_id", "kind", "token"]
"""Columns of ``graph_nodes`` that make a graph's shape."""


def find_model(home: Home) -> SubjectFiles:
    """The default subject model."""
    settings = WheelSubject(source="wheel", name="smollm2-135m-instruct")
    return resolve_subject(settings, study_folder=Path.cwd(), home=home)


def load_model(home: Home, dtype: Literal["float32", "bfloat16"] = "float32") -> SubjectModel:
    """The default subject model, read as a study with default settings reads it."""
    return load_subject(find_model(home), "mlp.hook_post", HarvestSettings(), MethodSettings().mask_token, dtype=dtype)


def stored_layers(store: SliceStore, table: str, study: str) -> list[int]:
    """The layers of which a table has a slice, ascending."""
    return [key.layer for key in store.keys(study) if key.table == table and key.layer is not None]


def named_contexts(model: SubjectModel, home: Home, name: str, max_tokens: int | None = None) -> pl.DataFrame:
    """The harvested contexts of a named corpus."""
    corpus = read_documents(
        [NamedSource(source="named", name=name, max_tokens=max_tokens)],
        study_folder=Path.cwd(),
        home=home,
        tokenizer=model.tokenizer,
        spelling=Spelling(model.vocabulary(normalise=False).tokens),
        bos_id=model.bos_id,
        harvest=HarvestSettings(),
        needed_contexts=MethodSettings().top_contexts,
    )
    return corpus.contexts.filter(split="harvest")


def harvest(
    model: SubjectModel,
    contexts: pl.DataFrame,
    units: Mapping[int, Sequence[Unit]],
    settings: HarvestSettings,
    method: MethodSettings,
    *,
    exact: SubjectModel | None = None,
    progress: Progress | None = None,
) -> tuple[Evidence, dict[int, dict[str, pl.DataFrame]]]:
    """The evidence of units on contexts, kept in a temporary folder, and by layer the rows that are made of it.

    ``exact`` is the model in float32 where ``model`` is not.
    """
    neurons = {layer: [unit.number for unit in asked] for layer, asked in units.items()}
    settings = settings.model_copy(update={"dtype": str(model.dtype).removeprefix("torch.")})
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Home(Path(folder)))
        corpus = TokenCorpus.from_frame(contexts)
        evidence = read_evidence(model, corpus, neurons, settings, cache=cache, progress=progress)

        def measured(layer: int, context_ids: pl.Series) -> Callable[[Sequence[int]], np.ndarray]:
            shortlisted = TokenCorpus.from_frame(contexts.filter(pl.col("context_id").is_in(context_ids.to_list())))
            assert exact is not None
            again = read_evidence(exact, shortlisted, {layer: neurons[layer]}, settings.exact, cache=cache)
            return partial(again.rows, layer)

        rows = {
            layer: derive(
                partial(evidence.rows, layer), evidence.corpus, asked, strongest=settings.strongest,
                top_contexts=method.top_contexts, contexts_per_document=method.contexts_per_document,
                remeasure=None if exact is None else partial(measured, layer),
            )
            for layer, asked in units.items()
        }  # fmt: skip
    return evidence, rows


def cut_after(model: SubjectModel, layer: int) -> torch.nn.Module:
    """The plain model without unembedding and without the layers after ``layer``; weights are shared."""
    bare = copy.copy(model.plain.base_model)
    bare._modules = dict(bare._modules)
    for name, module in bare._modules.items():
        if isinstance(module, torch.nn.ModuleList) and len(module) == model.n_layers:
            bare._modules[name] = module[: layer + 1]
    bare.config = copy.copy(bare.config)
    bare.config.num_hidden_layers = layer + 1
    return bare


def warm_up(prober: LayerProber) -> None:
    """A first call, which is slower, with what is checked once a model: whether it packs, and whether it narrows."""
    prober.activations([np.zeros(length, np.int32) for length in (2, 3)], [Unit(0, 1)] * 2)


def build_tables(
    units: Sequence[Unit],
    top_examples: pl.DataFrame,
    a_max: Mapping[Unit, float],
    vocabulary: Vocabulary,
    prober: LayerProber,
    proposer: InfillProposer,
    method: MethodSettings,
) -> dict[str, pl.DataFrame]:
    """The tables from pruning to graphs of a layer's units, as one block."""
    pruned = prune_examples(units, top_examples, a_max, vocabulary, prober, method).tables
    augmented = augment_examples(units, pruned["pruned_examples"], vocabulary, prober, proposer, method).tables
    graphs = build_graphs(units, **pruned, **augmented, a_max=a_max, vocabulary=vocabulary, settings=method).tables
    return pruned | augmented | graphs


def sampled_batches(
    lengths: Int64[np.ndarray, " contexts"], batch_tokens: int, every: int
) -> dict[int, tuple[Int64[np.ndarray, " batch"], float]]:
    """The first of every ``every`` batches of a pass, and for how many batches of its size it stands.

    Batches come with the longest contexts first, and the last ones hold fewer tokens. Each batch that is run stands for
    the tokens up to the next one that is run, so that short contexts count as much as in a whole pass.

    Args:
        lengths: tokens of each context.
        batch_tokens: tokens of a batch.
        every: one in so many is run.

    Returns:
        By the number of the batch, its contexts and the factor for its seconds.
    """
    batches = [batch for batch, _ in run_batches(lengths, TokenBudget(batch_tokens), len)]
    sizes = [int(lengths[batch].sum()) for batch in batches]
    return {n: (batches[n], sum(sizes[n : n + every]) / sizes[n]) for n in range(0, len(batches), every)}


def geometric(values: Sequence[float]) -> float:
    """The geometric mean."""
    return float(np.exp(np.mean(np.log(values))))
