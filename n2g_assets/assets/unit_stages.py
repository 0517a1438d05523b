"""The stages from the activation cache to the rule tests, in pipeline order: each turns a unit's rows into the next.

Only the units whose input rows or settings changed are computed (``stage.fill_layer``).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import dagster as dg
import polars as pl

from n2g_assets.assets.learning import graph_threads
from n2g_assets.assets.metadata import explorer_link
from n2g_assets.assets.proposer import proposer_identity, proposer_of
from n2g_assets.assets.session import Session
from n2g_assets.assets.stage import LayerStage, fill_layer, large_layers, read_together
from n2g_assets.core import settings as parts
from n2g_assets.core.progress import Progress
from n2g_assets.core.units import Unit, unit_text
from n2g_assets.evaluation.class_tests import try_class_rules
from n2g_assets.evaluation.rule_tests import try_rules
from n2g_assets.evaluation.trials import FreshText
from n2g_assets.method.augment import augment_examples
from n2g_assets.method.class_graphs import build_class_graphs
from n2g_assets.method.class_rows import graph_of_rows, stored_importances
from n2g_assets.method.classes import GROWTH_VERSION
from n2g_assets.method.graph import build_graphs
from n2g_assets.method.prune import prune_examples
from n2g_assets.method.results import BlockResult
from n2g_assets.method.top_examples import choose_top_examples
from n2g_assets.report.class_picture import draw_classes
from n2g_assets.report.plots import as_markdown_image
from n2g_assets.report.svg import draw_graph
from n2g_assets.storage.hashing import hash_json
from n2g_assets.storage.stages import StageReport


def _unit_stage(
    name: str, inputs: Sequence[str], part: type[parts.Settings], compute: Callable[..., BlockResult],
    also: Callable[[Session], Any] = lambda session: None, **about: Any,
) -> LayerStage:  # fmt: skip
    """A stage of the method. Of ``compute`` the session and the layer come first, then what ``fill_layer`` hands over.

    ``part`` are those settings of the method that it reads, ``also`` what else every unit's result depends on.
    """

    def work(session: Session, layer: int, show: Progress) -> StageReport:
        return fill_layer(
            session, stage, layer, show, inputs=inputs, settings=[session.settings.method.part(part)],
            compute=partial(compute, session, layer), also=also(session),
        )  # fmt: skip

    stage = LayerStage(name=name, work=work, ahead=large_layers(work), **about)
    return stage


TOP_EXAMPLES = _unit_stage(
    "top_examples",
    inputs=("top_contexts",),
    part=parts.TopExampleSettings,
    compute=lambda session, layer, units, rows, a_max, settings: choose_top_examples(
        units, rows["top_contexts"], session.contexts, a_max, layer, settings, session.cluster_of
    ),
    also=lambda session: {"clusters": session.clusters_hash},
    description="The strongest contexts of each unit, at most two a document, split at random into train and test "
    "so that no document, and no near-duplicate of one, stands on both sides.",
    code_version="2",
    preview_columns=["unit", "sign", "rank", "split", "activation", "peak", "context_id"],
    kinds={"polars", "parquet"},
)

PRUNED_EXAMPLES = _unit_stage(
    "pruned_examples",
    inputs=("top_examples",),
    part=parts.PruneSettings,
    compute=lambda session, layer, units, rows, a_max, settings: prune_examples(
        units, rows["top_examples"], a_max, session.vocabulary, session.prober(layer), settings
    ),
    description="Each train context cut to the shortest text on which the unit still fires half as strongly at its "
    "peak, with the importance of every kept token, found by masking.",
    code_version="1",
    runs_model=True,
    preview_columns=["unit", "sign", "rank", "kept_share", "reduced", "peak", "token_ids"],
)

AUGMENTED_EXAMPLES = _unit_stage(
    "augmented_examples",
    inputs=("pruned_examples",),
    part=parts.AugmentSettings,
    compute=lambda session, layer, units, rows, a_max, settings: augment_examples(
        units, rows["pruned_examples"], session.vocabulary, session.prober(layer), proposer_of(session), settings
    ),
    also=proposer_identity,
    description="Variants of each pruned prompt with one important token exchanged for a likely substitute, and "
    "whether the unit still fires on them.",
    code_version="1",
    runs_model=True,
    preview_columns=["unit", "sign", "rank", "position", "original_id", "substitute", "activation", "kept"],
)


def _picture(session: Session, layer: int) -> Mapping[str, dg.MetadataValue]:
    nodes = session.read("graph_nodes", layer, columns=["unit", "sign", "activation"])
    link = explorer_link(session.study.name, layer)
    if nodes.is_empty():
        return link
    method = session.settings.method
    of_paper = method.preset == "paper"
    measure = pl.len() if of_paper else pl.max("activation")
    units = nodes.group_by("unit", "sign").agg(measure.alias("measure")).sort("measure", "unit", "sign")
    number, sign, _ = units.row(units.height // 2)
    graph = session.read("graph_nodes", layer, units=[Unit(number, sign)])
    title = f"{session.study.name}: {unit_text(layer, number, sign, session.settings.word)}"
    if of_paper:
        picture = draw_graph(graph, title=title, subtitle="graph of median size")
    else:
        members = session.read("token_classes", layer, units=[Unit(number, sign)])
        picture = draw_classes(
            graph_of_rows(graph, members, session.vocabulary.bos_id), stored_importances(graph),
            session.vocabulary.tokens, threshold=method.firing_threshold, title=title,
            subtitle="of the layer's units the median by what the strongest rule expects",
        )  # fmt: skip
    return link | {"a graph": dg.MetadataValue.md(as_markdown_image(picture))}


def _build(session: Session, layer: int, show: Progress) -> StageReport:
    method = session.settings.method
    if method.preset == "paper":
        return fill_layer(
            session, NEURON_GRAPHS, layer, show,
            inputs=("pruned_examples", "saliencies", "augmented_examples"), settings=[method.part(parts.GraphSettings)],
            compute=lambda units, rows, a_max, settings: build_graphs(
                units, rows["pruned_examples"], rows["saliencies"], rows["augmented_examples"], a_max,
                session.vocabulary, settings,
            ),
        )  # fmt: skip
    return fill_layer(
        session, NEURON_GRAPHS, layer, show,
        inputs=("top_examples", "pruned_examples", "saliencies"), settings=[method.part(parts.ClassSettings)],
        compute=lambda *block: build_class_graphs(
            *block, text=session.learning.text(layer).lagged, read=session.learning.read(layer),
            without=session.learning.text(layer).without, vocabulary=session.vocabulary,
            threads=graph_threads(len(session.learning.text(layer).text.encoded)),
        ),
        also=session.learning.inputs(layer),
    )  # fmt: skip


NEURON_GRAPHS = LayerStage(
    name="neuron_graphs",
    description="The token graph of each unit, which says on which tokens it fires and which context it needs: classes "
    "of tokens learnt from all that the harvest saw, or (method.preset: paper) a trie of pruned prompts.",
    code_version=GROWTH_VERSION,
    work=_build,
    ahead=large_layers(_build),
    prepare=read_together,
    extra=_picture,
    preview_columns=["unit", "sign", "rule_id", "pattern", "activation", "count"],
    kinds={"polars", "parquet"},
)


def _try(session: Session, layer: int, show: Progress) -> StageReport:
    held_out = session.held_out_contexts.get("random")
    contexts = session.contexts if held_out is None else held_out
    fresh = cache(lambda: FreshText.of(contexts, session.vocabulary))  # only where something is computed
    also = {"contexts": hash_json(contexts["context_id"].to_list())}
    method, tests = session.settings.method, session.settings.evaluation.part(parts.RuleTestSettings)
    if method.preset == "paper":
        return fill_layer(
            session, RULE_TESTS, layer, show,
            inputs=("rules", "graph_nodes"), settings=[method.part(parts.PredictionSettings), tests],
            compute=lambda units, rows, a_max, method, tests: try_rules(
                units, rows["rules"], rows["graph_nodes"], fresh(), a_max, session.prober(layer), method, tests
            ),
            also=also,
        )  # fmt: skip
    return fill_layer(
        session, RULE_TESTS, layer, show,
        inputs=("rules", "graph_nodes", "token_classes"), settings=[method.part(parts.Firing), tests],
        compute=lambda units, rows, a_max, firing, tests: try_class_rules(
            units, rows["rules"], rows["graph_nodes"], rows["token_classes"], fresh(), a_max, session.prober(layer),
            firing.firing_threshold, tests,
        ),
        also=also,
    )  # fmt: skip


RULE_TESTS = LayerStage(
    name="rule_tests",
    description="Rules tried on the model. Of classes: the activation should change as the rule says when one token in "
    "fresh contexts is exchanged for one outside its class. Of the paper: the rule's tokens in fresh contexts should "
    "make the unit fire, and with one of them exchanged, moved or removed it should stay silent.",
    code_version="5",
    work=_try,
    ahead=large_layers(_try),
    runs_model=True,
    preview_columns=["unit", "sign", "rule_id", "predicted", "otherwise", "match_mean", "near_miss_mean", "held"],
)

STAGES = (TOP_EXAMPLES, PRUNED_EXAMPLES, AUGMENTED_EXAMPLES, NEURON_GRAPHS, RULE_TESTS)
