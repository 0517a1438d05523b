"""Graphs, texts and toy neurons for the tests of rules."""

import numpy as np
import polars as pl

from n2g_assets.core.settings import EvaluationSettings, MethodSettings
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.rule_tests import try_rules
from n2g_assets.evaluation.trials import FreshText
from n2g_assets.method.graph import NO_CLASSES, rule_rows
from n2g_assets.method.results import unit_frame
from n2g_assets_tests.method.toy import BOS, conform, vocabulary_of

FILLERS = [" of", " them", ".", " the", " a", " cat", " sat", " on", " mat", " and"]
VOCABULARY = vocabulary_of([" except", "All", " all", "ALL", " every", *FILLERS])
A_MAX = 4.0
METHOD = MethodSettings()
UNIT = Unit(7, 1)


def token(word: str) -> int:
    return VOCABULARY.tokens.index(word.encode())


def contexts_of(rows) -> pl.DataFrame:
    rows = [{"context_id": f"d{i}:0", "document_id": f"d{i}", "token_ids": [BOS, *row]} for i, row in enumerate(rows)]
    schema = {"context_id": pl.String, "document_id": pl.String, "token_ids": pl.List(pl.Int32)}
    return pl.DataFrame(rows, schema=schema)


def text_of(words, seed=0, contexts=6, length=40):
    generator = np.random.default_rng(seed)
    ids = [token(word) for word in words]
    return contexts_of([generator.choice(ids, size=length).tolist() for _ in range(contexts)])


HELD_OUT = text_of([*FILLERS, " except", " all", " all", "All", " every"])


def graph_of(*paths, unit=UNIT) -> list[dict]:
    """Rows of ``graph_nodes`` of a unit: each path holds forms from the activating token backwards (None: any)."""
    nodes: dict[tuple, dict] = {}
    for path in paths:
        for length in range(1, len(path) + 1):
            key = path[:length]
            if key not in nodes:
                nodes[key] = {
                    **unit.key(), "node_id": len(nodes),
                    "parent_id": nodes[key[:-1]]["node_id"] if key[:-1] else None, "depth": length - 1,
                    "offset": 1 - length, "all_but": False, **NO_CLASSES,
                    "token": key[-1], "activation": 1.0, "importance": None,
                    "kind": "activating" if length == 1 else "ignore" if key[-1] is None else "context",
                    "end_activation": None, "end_count": 0,
                }  # fmt: skip
        nodes[path] |= {"end_activation": 1.0, "end_count": nodes[path]["end_count"] + 1}
    return list(nodes.values())


def frames(*graphs):
    """Tables ``rules`` and ``graph_nodes`` of some graphs."""
    own = [{"unit": graph[0]["unit"], "sign": graph[0]["sign"]} for graph in graphs]
    rules = [one | rule for one, graph in zip(own, graphs, strict=True) for rule in rule_rows(graph)]
    nodes = [row for graph in graphs for row in graph]
    return unit_frame("rules", rules), unit_frame("graph_nodes", nodes)


def tried(units, graphs, prober, contexts=HELD_OUT, method=METHOD, **evaluation):
    a_max = dict.fromkeys(units, A_MAX)
    settings = EvaluationSettings(**evaluation)
    return try_rules(units, *frames(*graphs), FreshText.of(contexts, VOCABULARY), a_max, prober, method, settings)


def follows(*forms, strength=A_MAX):
    """A neuron that fires where some forms, from the activating token backwards, match, and nowhere else."""

    def activations(tokens):
        return np.array([strength * matches(forms, tokens[: end + 1]) for end in range(len(tokens))])

    return activations


def matches(forms, tokens) -> bool:
    """The slow definition: what a rule asks of a text that ends with its activating token; BOS never counts."""
    if len(tokens) - 1 < len(forms):
        return False
    return all(form is None or VOCABULARY.form(tokens[-1 - back]) == form for back, form in enumerate(forms))


ALL_EXCEPT = (b"except", None, b"all")


def row_of(result):
    return conform("rule_tests", result.tables["rule_tests"]).row(0, named=True)
