"""All stages of the method on a neuron that fires on " except" after "All" or "Everyone", graph written out by hand."""

import numpy as np
import polars as pl
import pytest

from n2g_assets.core.settings import MethodSettings
from n2g_assets.core.units import Unit
from n2g_assets.method.augment import augment_examples
from n2g_assets.method.graph import build_graphs
from n2g_assets.method.predict import TokenGraph
from n2g_assets.method.prune import prune_examples
from n2g_assets.method.text import EncodedText
from n2g_assets.method.top_examples import choose_top_examples
from n2g_assets_tests.method.slow_graph import slow_predict
from n2g_assets_tests.method.toy import DictionaryProposer, ToyProber, conform, encode, except_neuron, vocabulary_of

FILLERS = [" students", " in", " here", " the", " of", " birds", " sing", " today"]
VOCABULARY = vocabulary_of(["All", "Everyone", " all", "Nobody", " except", " excluding", " but", *FILLERS])
UNIT, A_MAX = Unit(0, 1), 4.0
SYNONYMS = {"All": [" all", "Everyone", "Nobody"], "Everyone": ["All", "Nobody"], " except": [" but", " excluding"]}
GRAPH = """
0 - activating except 1.0 1.0 None 0
1 0 ignore * 1.0 None None 0
2 1 context all 1.0 0.875 1.0 3
3 1 context everyone 1.0 0.875 1.0 3
4 1 ignore * 0.75 None None 0
5 4 context all 0.75 0.8333 0.75 3
6 4 context everyone 0.75 0.8333 0.75 3
7 - activating excluding 0.75 1.0 None 0
8 7 ignore * 0.75 None None 0
9 8 context all 0.75 0.875 0.75 3
10 8 ignore * 0.5625 None None 0
11 10 context everyone 0.5625 0.8333 0.5625 3
"""
"""node_id, parent_id, kind, token, activation, importance, end_activation, end_count.

Of the six train contexts three read "All X except" (4.0) and three "Everyone X X except" (3.0). "All" keeps its pattern
for "Everyone" and the other way round, " excluding" fires three quarters as much, " all" equals "All", the others fire
too little.
"""
RULES = """
all * [except] | 1.0 | 3
everyone * [except] | 1.0 | 3
all *{2} [except] | 0.75 | 3
everyone *{2} [except] | 0.75 | 3
all * [excluding] | 0.75 | 3
everyone *{2} [excluding] | 0.5625 | 3
"""


def harvest() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Six documents with one context of each kind: every split into whole documents holds three and three."""
    rows, generator, neuron = [], np.random.default_rng(1), except_neuron(VOCABULARY)
    for document in range(6):
        for window, core in enumerate([["All", "X", " except"], ["Everyone", "X", "X", " except"]]):
            words = ["X", "X", "X", "X", "X", *core, "X"]
            words = [str(generator.choice(FILLERS)) if word == "X" else word for word in words]
            token_ids = encode(VOCABULARY, *words)
            activations = neuron(token_ids)
            rows.append({
                "unit": 0, "sign": 1, "context_id": f"d{document}:{window}", "document_id": f"d{document}",
                "split": "harvest", "token_ids": token_ids.tolist(), "peak": int(activations.argmax()),
                "activation": float(activations.max()), "activations": activations.tolist(),
            })  # fmt: skip
    frame = pl.DataFrame(rows).cast({"unit": pl.Int32, "sign": pl.Int8, "token_ids": pl.List(pl.Int32)})
    top_contexts = frame.sort("activation", descending=True, maintain_order=True).with_row_index("rank")
    return top_contexts.drop("token_ids", "document_id", "split"), frame.select(
        "context_id", "document_id", "split", "token_ids"
    )


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    prober, settings = ToyProber({0: except_neuron(VOCABULARY)}), MethodSettings()
    words = {word: encode(VOCABULARY, word)[1] for text, others in SYNONYMS.items() for word in (text, *others)}
    proposer = DictionaryProposer({words[text]: [[words[one]] for one in others] for text, others in SYNONYMS.items()})
    block, a_max = [UNIT], {UNIT: A_MAX}
    results = [choose_top_examples(block, *harvest(), a_max, prober.layer, settings)]
    top = results[0].tables["top_examples"]
    results.append(prune_examples(block, top, a_max, VOCABULARY, prober, settings))
    pruned, saliencies = results[1].tables.values()
    results.append(augment_examples(block, pruned, VOCABULARY, prober, proposer, settings))
    augmented = results[2].tables["augmented_examples"]
    results.append(build_graphs(block, pruned, saliencies, augmented, a_max, VOCABULARY, settings))
    assert all(result.ledger[UNIT].status == "ok" for result in results)
    return {name: conform(name, frame) for result in results for name, frame in result.tables.items()}


def test_contexts_are_pruned_to_the_subject(tables):
    texts = [VOCABULARY.tokens[row[1]] + VOCABULARY.tokens[row[-1]] for row in tables["pruned_examples"]["token_ids"]]
    assert sorted(texts) == [b"All except"] * 3 + [b"Everyone except"] * 3
    assert tables["pruned_examples"]["peak"].to_list() == [3, 3, 3, 4, 4, 4]
    assert tables["saliencies"].height == 6


def test_synonyms_that_keep_half_the_activation_are_kept(tables):
    augmented = tables["augmented_examples"]
    tried = {
        (VOCABULARY.tokens[row["original_id"]], int(row["substitute"]), row["kept"])
        for row in augmented.iter_rows(named=True)
    }
    ids = {word: int(encode(VOCABULARY, word)[1]) for word in ("All", "Everyone", "Nobody", " but", " excluding")}
    assert tried == {
        (b"All", ids["Everyone"], True), (b"All", ids["Nobody"], False),
        (b"Everyone", ids["All"], True), (b"Everyone", ids["Nobody"], False),
        (b" except", ids[" but"], False), (b" except", ids[" excluding"], True),
    }  # fmt: skip


def test_the_graph_and_its_rules_are_those_written_out_by_hand(tables):
    lines = [
        f"{row['node_id']} {'-' if row['parent_id'] is None else row['parent_id']} {row['kind']} "
        f"{(row['token'] or b'*').decode()} {shown(row['activation'])} {shown(row['importance'])} "
        f"{shown(row['end_activation'])} {row['end_count']}"
        for row in tables["graph_nodes"].iter_rows(named=True)
    ]
    assert lines == GRAPH.strip().splitlines()
    rules = tables["rules"].sort("rule_id").select("pattern", "activation", "count").rows()
    assert ["{} | {} | {}".format(*rule) for rule in rules] == RULES.strip().splitlines()


def shown(number: float | None) -> float | None:
    return None if number is None else round(number, 4)


def test_the_graph_predicts_the_neuron_on_every_test_context(tables):
    graph = TokenGraph.from_rows(tables["graph_nodes"], VOCABULARY)
    test_contexts = tables["top_examples"].filter(split="test")
    assert test_contexts.height == 6
    for row in test_contexts.iter_rows(named=True):
        token_ids = np.array(row["token_ids"])
        values = graph.predict(EncodedText.from_contexts([token_ids], VOCABULARY))
        assert values.tolist() == [activation / A_MAX for activation in row["activations"]]
        assert (
            values.tolist() == slow_predict(tables["graph_nodes"], [VOCABULARY.form(token) for token in token_ids])[0]
        )


def test_the_graph_is_silent_without_its_context(tables):
    graph = TokenGraph.from_rows(tables["graph_nodes"], VOCABULARY)
    text = encode(
        VOCABULARY, " birds", " sing", " except", " the", "Everyone", " here", " except", "Nobody", " in", " excluding"
    )
    assert graph.predict(EncodedText.from_contexts([text], VOCABULARY)).tolist() == [0, 0, 0, 0, 0, 0, 0, 1.0, 0, 0, 0]
