"""Stage ``neuron_graphs`` of the method ``evidence``: a graph of token classes for each unit of a block.

The graph is grown on all that the harvest saw of the unit but its own test documents (``classes``). The prompts that
pruning kept, with the importances that masking found, then mark the nodes they pass through.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
from jaxtyping import Bool, Float32

from n2g_assets.core.settings import ClassSettings
from n2g_assets.core.units import Unit
from n2g_assets.method.class_rows import graph_frames, importances_of
from n2g_assets.method.classes import ClassGraph, LaggedText, grow_graph
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.results import BlockResult, finish_block, unit_frame

Read = Callable[[Unit], Float32[np.ndarray, " tokens"]]
Without = Callable[[Collection[str]], Bool[np.ndarray, " tokens"]]


def grow_unit(
    unit: Unit, top_examples: pl.DataFrame, a_max: float, settings: ClassSettings, text: LaggedText, read: Read,
    without: Without, bos_id: int,
) -> ClassGraph:  # fmt: skip
    """The graph of one unit, given its top examples, grown without the documents of its test contexts.

    The other arguments are those of ``build_class_graphs``.
    """
    counted = np.flatnonzero(without(top_examples.filter(split="test")["document_id"].unique().to_list()))
    return grow_graph(text, read(unit) / np.float32(a_max), counted, bos_id, settings.firing_threshold, settings)


def build_class_graphs(
    units: Sequence[Unit],
    rows: Mapping[str, pl.DataFrame],
    a_max: Mapping[Unit, float],
    settings: ClassSettings,
    *,
    text: LaggedText,
    read: Read,
    without: Without,
    vocabulary: Vocabulary,
    threads: int,
) -> BlockResult:
    """Tables ``graph_nodes``, ``rules`` and ``token_classes`` of a block of units.

    Args:
        units: the units of the block.
        rows: their rows of ``top_examples``, ``pruned_examples`` and ``saliencies``.
        a_max: their largest activations over the harvest.
        settings: how graphs grow.
        text: the harvest.
        read: a unit's activations there, times its sign and not normalised.
        without: the harvested positions that count if nothing of some documents may.
        vocabulary: the subject model's.
        threads: units whose graphs grow side by side.
    """

    def build(unit: Unit) -> dict[str, pl.DataFrame]:
        top, pruned, salient = (
            rows[table].filter(unit=unit.number, sign=unit.sign)
            for table in ("top_examples", "pruned_examples", "saliencies")
        )
        graph = grow_unit(unit, top, a_max[unit], settings, text, read, without, vocabulary.bos_id)
        contexts = {
            rank: np.array(token_ids, np.int32) for rank, token_ids in top.select("rank", "token_ids").iter_rows()
        }
        starts = dict(pruned.select("rank", "start").iter_rows())
        marks = salient.select("rank", "position", "importances").rows()
        return graph_frames(unit, graph, importances_of(graph, contexts, starts, marks), vocabulary)

    with ThreadPoolExecutor(threads) as pool:
        built = list(pool.map(build, units))
    names = ("graph_nodes", "rules", "token_classes")
    tables = {name: pl.concat([unit_frame(name, []), *(frames[name] for frames in built)]) for name in names}
    return finish_block(units, tables)
