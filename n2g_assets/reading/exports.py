"""A unit's graph in the forms that other programs read: plain data, networkx, and DOT."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from n2g_assets.method.tokens import display_text

if TYPE_CHECKING:
    import networkx as nx

    from n2g_assets.reading.study import Unit

SHOWN = 8
"""Tokens of a class that a label shows."""


def graph_data(unit: "Unit", n_rules: int) -> dict[str, Any]:
    """The graph of ``n_rules`` rules as values that JSON knows; a graph of the paper has one size.

    Nodes come parents before children. A node has the tokens of its class, or with ``all_but`` the tokens that it
    leaves out, those that matter most first; a node of the paper's graphs has one token, or none for any.
    """
    graph = unit.graph
    shown = graph.nodes.filter(pl.col("rank").is_null() | (pl.col("rank") <= n_rules))
    nodes = [_node(unit, row, n_rules) for row in shown.iter_rows(named=True)]
    rules = unit.rules(n_rules).select("rule_id", "pattern", "activation", "count", "documents", "firing_share")
    return {
        "study": unit.study.name, "layer": unit.layer, "unit": unit.number, "sign": unit.sign, "a_max": unit.a_max,
        "n_rules": min(n_rules, graph.n_rules) if unit.study.has_classes else graph.n_rules,
        "nodes": nodes, "rules": rules.to_dicts(),
    }  # fmt: skip


def _node(unit: "Unit", row: dict[str, Any], n_rules: int) -> dict[str, Any]:
    ends = row["end_activation"] is not None and (row["until"] is None or row["until"] >= n_rules)
    return {
        "node": row["node_id"], "parent": row["parent_id"], "offset": row["offset"], "kind": row["kind"],
        "all_but": row["all_but"], "tokens": _tokens(unit, row), "activation": row["activation"],
        "importance": row["importance"], "ends": ends, "count": row["end_count"], "rank": row["rank"],
    }  # fmt: skip


def _tokens(unit: "Unit", row: dict[str, Any]) -> list[str]:
    """For reading: the tokens of a node's class, or its one token; none for any token."""
    vocabulary, graph = unit.study.vocabulary, unit.graph.of_classes
    if graph is None:
        return [] if row["token"] is None else [display_text(row["token"])]
    node = row["node_id"] - 1 if row["all_but"] else row["node_id"]  # all but the class of the node before it
    tokens, _ = graph.by_weight(node)
    return [display_text(vocabulary.tokens[token]) for token in tokens]


def graph_networkx(unit: "Unit", n_rules: int) -> "nx.DiGraph":
    """The graph as networkx, edges from parents to children; nodes and graph carry what ``graph_data`` says of them."""
    import networkx as nx

    data = graph_data(unit, n_rules)
    found = nx.DiGraph(**{name: value for name, value in data.items() if name != "nodes"})
    for node in data["nodes"]:
        found.add_node(node["node"], **node)
        if node["parent"] is not None:
            found.add_edge(node["parent"], node["node"])
    return found


def graph_dot(unit: "Unit", n_rules: int) -> str:
    """The graph in the DOT language of Graphviz; igraph writes it, which escapes the tokens."""
    import igraph

    nodes = graph_data(unit, n_rules)["nodes"]
    place = {node["node"]: index for index, node in enumerate(nodes)}
    graph = igraph.Graph(
        n=len(nodes),
        edges=[(place[node["parent"]], place[node["node"]]) for node in nodes if node["parent"] is not None],
        directed=True,
        vertex_attrs={
            "label": [_label(node) for node in nodes],
            "shape": ["box" if n["ends"] else "oval" for n in nodes],
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.dot"
        graph.write_dot(str(file))
        return file.read_text(encoding="utf-8")


def _label(node: dict[str, Any]) -> str:
    tokens, more = node["tokens"][:SHOWN], len(node["tokens"]) - SHOWN
    named = " | ".join([*tokens, *([f"+{more}"] if more > 0 else [])]) or "any"
    where = f"{node['offset']}: " if node["offset"] else ""
    value = f" ({node['activation']:.2f})" if node["activation"] is not None else ""
    return f"{where}{'not ' if node['all_but'] else ''}{named}{value}"
