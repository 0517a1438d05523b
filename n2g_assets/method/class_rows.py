"""A graph of token classes as rows of the tables ``graph_nodes``, ``rules`` and ``token_classes``, and back.

A rule's pattern stands in the order of the text, the activating token last and in square brackets. A class is its
tokens between braces, those that matter most first: by the squared distance of a token's mean from what the parent
expects, times its count. ``{a|b|+7}`` leaves out seven tokens, ``{not a|b}`` takes all but these; ``*`` is any token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float32, Float64, Int32, Int64

from n2g_assets.core.units import Unit
from n2g_assets.method.classes import FOREVER, ClassGraph
from n2g_assets.method.graph import ACTIVATING, CONTEXT, IGNORE, visible
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.results import unit_schema

SHOWN = 5
"""Tokens of a class that a pattern shows."""


Weighted = tuple[Int32[np.ndarray, " members"], Float64[np.ndarray, " members"]]
"""Tokens, those that matter most first, and how much each matters."""


@dataclass(frozen=True)
class TokenClass:
    """What a rule takes at one offset."""

    offset: int
    """0 or less."""
    tokens: Int32[np.ndarray, " members"]
    """Token ids, those that matter most first."""
    weights: Float64[np.ndarray, " members"]
    """How much each matters: its count, times the squared distance of its mean from what the parent expects."""
    all_but: bool
    """Whether it takes every token but these."""
    deviations: Float32[np.ndarray, " members"]
    """What each adds to the expected activation; 0 where ``all_but``."""


def classes_of(graph: ClassGraph, node: int) -> list[TokenClass]:
    """The classes that a text must match to reach a node, from offset 0 backwards; an offset without one is left out.

    At an offset, the nearest class among the node and its ancestors holds, less what the nearer ``all_but`` nodes leave
    out; where there is no class, all tokens but those.
    """
    given: dict[int, Weighted] = {}
    excluded: dict[int, list[Weighted]] = {}
    added: dict[int, list[int]] = {}
    for step in graph.path(node):
        offset = int(graph.offsets[step])
        if not graph.all_but[step]:
            if offset not in given:
                given[offset] = graph.by_weight(step)
            added.setdefault(offset, []).append(step)
        elif offset not in given:
            excluded.setdefault(offset, []).insert(0, graph.by_weight(step - 1))
    found = []
    for offset in sorted(given.keys() | excluded.keys(), reverse=True):
        parts = excluded.get(offset, [])
        if offset in given:
            tokens, weights = given[offset]
            if parts:
                kept = ~np.isin(tokens, np.concatenate([without for without, _ in parts]))
                tokens, weights = tokens[kept], weights[kept]
            deviations = np.sum([_deviations(graph, step, tokens) for step in added[offset]], axis=0)
        else:
            tokens, weights = _ordered(*(np.concatenate(part) for part in zip(*parts, strict=True)))
            deviations = np.zeros(len(tokens), np.float32)
        found.append(TokenClass(offset, tokens, weights, offset not in given, deviations))
    return found


def reach(graph: ClassGraph, node: int) -> float:
    """The most that the rule which ends at a node expects of a token of its class that the harvest has.

    It is the base with the largest deviation of such a token; the base alone where the rule has no class at offset 0.
    """
    own = [each for each in classes_of(graph, node) if each.offset == 0 and not each.all_but]
    seen = [each.deviations[each.weights > 0] for each in own]
    return float(graph.bases[node] + max((part.max() for part in seen if len(part)), default=0.0))


def _deviations(graph: ClassGraph, node: int, tokens: Int32[np.ndarray, " members"]) -> Float32[np.ndarray, " members"]:
    members = graph.members(node)
    own = graph.tokens[members]
    places = np.searchsorted(own, tokens).clip(max=len(own) - 1)
    return np.where(own[places] == tokens, graph.deviations[members][places], np.float32(0))


def _ordered(tokens: Int32[np.ndarray, " members"], weights: Float64[np.ndarray, " members"]) -> Weighted:
    order = np.argsort(-weights, kind="stable")
    return tokens[order], weights[order]


def pattern(classes: Sequence[TokenClass], vocabulary: Vocabulary) -> str:
    """The readable pattern of a rule."""
    at = {each.offset: _class_text(each, vocabulary) for each in classes}
    words = [at.get(offset, "*") for offset in range(min(at, default=0), 1)]
    return " ".join([*words[:-1], f"[{words[-1]}]"])


def _class_text(found: TokenClass, vocabulary: Vocabulary) -> str:
    shown = "|".join(visible(vocabulary.tokens[token]) for token in found.tokens[:SHOWN])
    more = f"|+{len(found.tokens) - SHOWN:,}" if len(found.tokens) > SHOWN else ""
    return f"{{{'not ' if found.all_but else ''}{shown}{more}}}"


def graph_frames(
    unit: Unit, graph: ClassGraph, importances: Mapping[int, float], vocabulary: Vocabulary
) -> dict[str, pl.DataFrame]:
    """The rows of one unit, without ``study`` and ``layer``.

    Args:
        unit: whose graph it is.
        graph: the graph.
        importances: by node, how much the activation depends on its token, where that was measured.
        vocabulary: the subject model's.
    """
    n, key = len(graph), {"unit": pl.lit(unit.number, pl.Int32), "sign": pl.lit(unit.sign, pl.Int8)}
    depths = np.zeros(n, np.int32)
    for node in range(1, n):
        depths[node] = depths[graph.parents[node]] + 1
    kinds = [IGNORE, *(ACTIVATING if offset == 0 else CONTEXT for offset in graph.offsets[1:].tolist())]
    until = pl.Series(graph.until).replace(FOREVER, None)
    common = {"rank": graph.ranks, "until": until, "documents": graph.documents, "firings": graph.firings}
    nodes = pl.DataFrame({
        "node_id": np.arange(n, dtype=np.int32), "parent_id": pl.Series(graph.parents).replace(-1, None),
        "depth": depths, "kind": kinds, "token": pl.Series([None] * n, dtype=pl.Binary), "offset": graph.offsets,
        "all_but": graph.all_but, "activation": graph.values, "end_activation": graph.bases,
        "importance": [importances.get(node) for node in range(n)], "end_count": graph.supports, **common,
    }, strict=False)  # fmt: skip
    order = np.argsort(-graph.values, kind="stable")
    rules = pl.DataFrame({
        "rule_id": np.argsort(order).astype(np.int32), "end_node_id": np.arange(n, dtype=np.int32),
        "pattern": [pattern(classes_of(graph, node), vocabulary) for node in range(n)],
        "tokens": pl.Series([[]] * n, dtype=pl.List(pl.Binary)), "activation": graph.values, "count": graph.supports,
        **common,
    })  # fmt: skip
    members = pl.DataFrame({
        "node_id": np.repeat(np.arange(n, dtype=np.int32), np.diff(graph.starts)), "token_id": graph.tokens,
        "count": graph.counts, "mean": graph.means, "deviation": graph.deviations,
    })  # fmt: skip
    frames = {"graph_nodes": nodes, "rules": rules.sort("rule_id"), "token_classes": members}
    schemas = {table: unit_schema(table) for table in frames}
    return {
        table: frame.with_columns(**key).select(schemas[table].names()).cast(schemas[table])
        for table, frame in frames.items()
    }


def graph_of_rows(graph_nodes: pl.DataFrame, token_classes: pl.DataFrame, bos_id: int) -> ClassGraph:
    """The graph of one unit from its rows."""
    nodes, members = graph_nodes.sort("node_id"), token_classes.sort("node_id", "token_id")

    def column(name: str, dtype: type, fill: int | None = None) -> np.ndarray:
        series = nodes[name] if fill is None else nodes[name].fill_null(fill)
        return series.to_numpy().astype(dtype)

    sizes = np.bincount(members["node_id"].to_numpy(), minlength=len(nodes))
    return ClassGraph(
        bos_id=bos_id, parents=column("parent_id", np.int32, -1), offsets=column("offset", np.int32),
        all_but=column("all_but", np.bool_), ranks=column("rank", np.int32), until=column("until", np.int32, FOREVER),
        values=column("activation", np.float32), bases=column("end_activation", np.float32),
        supports=column("end_count", np.int64),
        documents=column("documents", np.int32), firings=column("firings", np.int64),
        starts=np.concatenate([[0], np.cumsum(sizes)]), tokens=members["token_id"].to_numpy().astype(np.int32),
        counts=members["count"].to_numpy().astype(np.int64), means=members["mean"].to_numpy().astype(np.float32),
        deviations=members["deviation"].to_numpy().astype(np.float32),
    )  # fmt: skip


def stored_importances(graph_nodes: pl.DataFrame) -> dict[int, float]:
    """What ``importances_of`` gave, from the rows of one unit."""
    return dict(graph_nodes.select("node_id", "importance").drop_nulls().iter_rows())


def importances_of(
    graph: ClassGraph,
    contexts: Mapping[int, Int32[np.ndarray, " length"]],
    starts: Mapping[int, int],
    saliencies: Sequence[tuple[int, int, Sequence[float]]],
) -> dict[int, float]:
    """By node, the largest importance of its token over the measured positions whose text passes through it.

    Args:
        graph: the graph.
        contexts: by rank, the token ids of a train context, BOS at position 0.
        starts: by rank, the position in the context of the pruned prompt's first token after BOS.
        saliencies: rank, activating position in the pruned prompt, and importance of each of the prompt's tokens.
    """
    found: dict[int, float] = {}
    ends: dict[int, Int64[np.ndarray, " length"]] = {}
    for rank, position, importances in saliencies:
        if rank not in ends:
            tokens = contexts[rank]
            ends[rank] = graph.ends(tokens, np.arange(len(tokens), dtype=np.int32), [FOREVER])[0].astype(np.int64)
        for node in graph.path(int(ends[rank][starts[rank] + position - 1])):
            token = position + int(graph.offsets[node])
            if token >= 1:
                found[node] = max(found.get(node, -np.inf), float(importances[token]))
    return found
