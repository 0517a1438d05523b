"""Kinds of failure: each named exactly from its threshold on, from rows written out by hand."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from n2g_assets.core.units import Unit
from n2g_assets.evaluation.failures import FAILURE_RULES, component_counts, name_failures
from n2g_assets.method.results import unit_schema
from n2g_assets_tests.method.toy import conform, vocabulary_of

UNIT = Unit(7, 1)
A_MAX = 4.0
VOCABULARY = vocabulary_of(["cat", " Cat", "dog", " the", "\n", " "])


def frame(table, rows) -> pl.DataFrame:
    """Rows of a table of one unit; columns that are not given are NULL."""
    schema = unit_schema(table)
    rows = [dict.fromkeys(schema) | UNIT.key() | row for row in rows]
    return pl.DataFrame(rows, schema=schema, orient="row")


def tables_of(
    peaks=(), reduced=(), rules=(), graph=(), causes=(), tests=(), split="test", kind="miss", predicted=1.0
) -> dict[str, pl.DataFrame]:
    """Everything ``name_failures`` reads, for one unit.

    Args:
        peaks: activation at the peak of each context of side ``split``.
        reduced: of each pruned context.
        rules: (forms, count) of each rule.
        graph: (text, true positives, false positives, recall) of the graph.
        causes: of each counterexample of kind ``kind``.
        tests: (matches, fired) of each tested rule.
        split: side of the contexts.
        kind: kind of the counterexamples.
        predicted: what each tested rule predicts.
    """
    rows = {
        "top_examples": [{"rank": rank, "split": split, "activation": peak} for rank, peak in enumerate(peaks)],
        "pruned_examples": [{"rank": rank, "reduced": one} for rank, one in enumerate(reduced)],
        "rules": [{"rule_id": i, "tokens": list(forms), "count": count} for i, (forms, count) in enumerate(rules)],
        "evaluation": [
            {"predictor": "graph", "text": text, "true_positives": right, "false_positives": wrong, "recall": recall}
            for text, right, wrong, recall in graph
        ],
        "counterexamples": [{"kind": kind, "rank": rank, "cause": cause} for rank, cause in enumerate(causes)],
        "rule_tests": [
            {"rule_id": i, "n_matches": n, "fired": fired, "predicted": predicted} for i, (n, fired) in enumerate(tests)
        ],
        "graph_nodes": [],
        "token_classes": [],
    }
    return {name: frame(name, own) for name, own in rows.items()}


def named(a_max=A_MAX, threshold=0.5, tables=None, **given) -> list[dict]:
    failures = name_failures(UNIT, tables or tables_of(**given), VOCABULARY, a_max, threshold)
    assert set(failures.select("unit", "sign").iter_rows()) <= {UNIT}
    return conform("failures", failures).rows(named=True)


def kinds(**given) -> list[str]:
    return [row["kind"] for row in named(**given)]


def the_one(**given) -> tuple[str, float, str]:
    (row,) = named(**given)
    return row["kind"], row["share"], row["reason"]


def test_context_beyond_window_from_a_third_on():
    assert the_one(reduced=[False, True, True]) == (
        "context_beyond_window",
        1 / 3,
        "Pruning found no short enough prompt for 1 of 3 train contexts.",
    )
    assert kinds(reduced=[False] * 3 + [True] * 6) == ["context_beyond_window"]
    assert kinds(reduced=[False] * 3 + [True] * 7) == []


NARROW = {"causes": ["token unknown", "token unknown", "context unmatched", "context unmatched"]}


def test_token_classes_too_narrow_from_half_of_the_misses_on():
    assert the_one(**NARROW, graph=[("top", 1, 0, 0.25)]) == (
        "token_classes_too_narrow",
        0.5,
        "2 of 4 misses are on tokens that no rule has as its activating token; recall on its own test contexts is "
        "0.25.",
    )
    below = ["token unknown", "context unmatched", "context unmatched"]
    assert kinds(causes=below, graph=[("top", 1, 0, 0.25)]) == []


def test_token_classes_too_narrow_needs_three_misses_and_a_recall_below_a_half():
    assert kinds(causes=["token unknown"] * 3, graph=[("top", 1, 0, 0.0)]) == ["token_classes_too_narrow"]
    assert kinds(causes=["token unknown"] * 2, graph=[("top", 1, 0, 0.0)]) == []
    assert kinds(causes=["token unknown"] * 3, kind="false_alarm", graph=[("top", 1, 0, 0.0)]) == []
    assert kinds(**NARROW, graph=[("top", 1, 0, 0.49)]) == ["token_classes_too_narrow"]
    assert kinds(**NARROW, graph=[("top", 1, 0, 0.5)]) == []
    assert kinds(**NARROW, graph=[("top", 1, 0, None)]) == []
    assert kinds(**NARROW, graph=[("random", 1, 0, 0.25)]) == []


def test_over_general_rule_where_fewer_than_half_of_the_alarms_on_random_text_are_right():
    assert the_one(graph=[("random", 2, 3, 1.0), ("top", 9, 0, 1.0)]) == (
        "over_general_rule",
        0.4,
        "2 of 5 alarms on random text are right.",
    )
    assert kinds(graph=[("random", 3, 3, 1.0), ("top", 0, 9, 1.0)]) == []


def test_over_general_rule_goes_by_top_contexts_where_random_text_has_fewer_than_five_alarms():
    assert the_one(graph=[("random", 4, 0, 1.0), ("top", 1, 2, 1.0)]) == (
        "over_general_rule",
        1 / 3,
        "1 of 3 alarms on its own test contexts are right.",
    )
    assert kinds(graph=[("random", 0, 4, 1.0), ("top", 1, 1, 1.0)]) == []
    assert kinds(graph=[("random", 0, 4, 1.0), ("top", 0, 0, 1.0)]) == []
    assert kinds(graph=[("top", 0, 1, 1.0)]) == ["over_general_rule"]
    assert kinds(graph=[("random", 0, 4, 1.0)]) == []
    assert kinds(graph=[("out_of_domain", 0, 9, 1.0), ("quantiles", 0, 9, 1.0)]) == []


def test_over_general_rule_where_fewer_than_half_of_the_matching_texts_fire():
    assert the_one(tests=[(4, 0), (4, 3)]) == (
        "over_general_rule",
        0.375,
        "The unit fires on 3 of 8 texts made to match rules that predict firing.",
    )
    assert kinds(tests=[(4, 0), (4, 4)]) == []
    assert kinds(tests=[(0, 0)]) == []
    assert kinds(tests=[(4, 0)], predicted=0.5) == ["over_general_rule"]
    assert kinds(tests=[(4, 0)], predicted=0.49) == []


def test_over_general_rule_says_both_where_both_hold_and_goes_by_the_smaller_share():
    assert the_one(graph=[("random", 2, 6, 1.0)], tests=[(10, 1)]) == (
        "over_general_rule",
        0.1,
        "2 of 8 alarms on random text are right, and the unit fires on 1 of 10 texts made to match "
        "rules that predict firing.",
    )
    assert the_one(graph=[("random", 2, 6, 1.0)], tests=[(10, 5)])[1:] == (
        0.25,
        "2 of 8 alarms on random text are right.",
    )


def test_weak_peak_below_half_of_the_test_contexts():
    assert the_one(peaks=[2.0, 1.9, 1.9]) == (
        "weak_peak",
        1 / 3,
        "The unit fires at the peak of 1 of 3 test contexts.",
    )
    assert kinds(peaks=[2.0, 1.9]) == []
    assert kinds(peaks=[0.9, 0.9], split="train") == []
    assert kinds(peaks=[2.0, 2.0], threshold=0.6) == ["weak_peak"]
    assert kinds(peaks=[2.0, 2.0], a_max=4.1) == ["weak_peak"]


def test_polysemantic_from_two_components_of_a_fifth_each_on():
    joined = [((b"a", None, b"x"), 2), ((b"b", b"x"), 2)]
    assert the_one(rules=[*joined, ((b"c", None), 1)]) == (
        "polysemantic",
        0.2,
        "2 of 2 components of rules that share no token hold 4 and 1 of 5 prompts.",
    )
    assert kinds(rules=[*joined, ((b"c",), 1), ((b"d",), 1)]) == []
    assert kinds(rules=[((b"a",), 5)]) == []
    assert the_one(rules=[((b"a",), 4), ((b"b",), 3), ((b"c",), 2), ((b"d",), 1)])[1:] == (
        0.3,
        "3 of 4 components of rules that share no token hold 4, 3 and 2 of 10 prompts.",
    )


def test_rules_are_joined_by_a_context_token_of_one_and_the_activating_token_of_another_but_not_by_any_token():
    assert component_counts([((b"a", None), 1), ((b"b", None), 1)]) == [1, 1]
    assert component_counts([((b"a", b"c"), 1), ((b"b", b"d"), 2), ((b"d", b"a"), 4)]) == [7]


def class_graph(*rules: tuple[float, int, dict[int, list[int]]]) -> dict[str, pl.DataFrame]:
    """Rows of a graph in which each node splits off one rule from all that is left.

    A rule holds its value, its firings, and a class of token ids by offset; those of one rule hang below each other.
    """
    nodes = [{"node_id": 0, "end_activation": 0.0, "rank": 1, "offset": 0, "all_but": False, "firings": 0}]
    members, last = [], 0
    for value, firings, classes in rules:
        rest, parent = None, last
        for offset, tokens in classes.items():
            node = len(nodes)
            rank = (node + 1) // 2 + 1
            nodes[parent]["until"] = rank - 1
            common = {"parent_id": parent, "rank": rank, "offset": offset, "end_activation": 0.0, "firings": 0}
            nodes += [{"node_id": node, "all_but": False, **common}, {"node_id": node + 1, "all_but": True, **common}]
            of_token = {"node_id": node, "count": 1, "mean": 1.0, "deviation": 0.0}
            members += [{"token_id": token, **of_token} for token in tokens]
            rest, parent = rest or node + 1, node
        nodes[parent] |= {"end_activation": value, "firings": firings}
        last = rest
    nodes = [node | {"end_count": 1, "documents": 1, "activation": node["end_activation"]} for node in nodes]
    rules_ = [{"rule_id": node["node_id"], "end_node_id": node["node_id"], "tokens": [], "rank": 1} for node in nodes]
    return {name: frame(name, own) for name, own in
            (("graph_nodes", nodes), ("token_classes", members), ("rules", rules_))}  # fmt: skip


def named_of_classes(*rules) -> list[tuple[str, float, str]]:
    rows = named(tables=tables_of() | class_graph(*rules))
    return [(row["kind"], row["share"], row["reason"]) for row in rows]


CAT, TITLED_CAT, DOG, THE, LINE, SPACE = range(2, 8)


def test_class_rules_are_polysemantic_where_their_activating_classes_share_no_token():
    assert named_of_classes((0.8, 4, {0: [CAT]}), (0.4, 1, {0: [DOG]})) == [
        ("polysemantic", 0.2, "2 of 2 components of rules that share no token hold 4 and 1 of 5 firings.")
    ]
    assert named_of_classes((0.8, 5, {0: [CAT]}), (0.4, 1, {0: [DOG]})) == []


def test_class_rules_share_tokens_in_any_case_and_with_or_without_space_around_them():
    assert named_of_classes((0.8, 1, {0: [CAT]}), (0.8, 1, {0: [DOG, TITLED_CAT]})) == []
    assert len(named_of_classes((0.8, 1, {0: [LINE]}), (0.8, 1, {0: [SPACE]}))) == 1


def test_class_rules_below_half_of_the_strongest_and_classes_of_the_context_do_not_count():
    assert named_of_classes((0.8, 1, {0: [CAT]}), (0.39, 1, {0: [DOG]})) == []
    assert len(named_of_classes((0.8, 1, {0: [CAT], -1: [THE]}), (0.8, 1, {0: [DOG], -1: [THE]}))) == 1


def test_a_class_rule_that_names_no_activating_token_shares_all():
    assert named_of_classes((0.8, 1, {0: [CAT]}), (0.8, 1, {-1: [THE]}), (0.8, 1, {0: [DOG]})) == []


def test_only_the_best_rules_of_a_graph_of_classes_count():
    weak = [(0.1, 0, {-2: [THE]})] * 8
    assert len(named_of_classes(*weak, (0.8, 1, {0: [CAT]}))) == 0
    assert len(named_of_classes(*weak[:7], (0.8, 1, {0: [CAT]}), (0.8, 1, {0: [DOG]}))) == 1
    assert named_of_classes(*weak, (0.8, 1, {0: [CAT]}), (0.8, 1, {0: [DOG]})) == []


def test_what_a_scan_alone_showed_joins_nothing_and_makes_no_component():
    tables = class_graph((0.8, 1, {0: [CAT, LINE]}), (0.8, 1, {0: [DOG, LINE]}))
    assert named(tables=tables_of() | tables) == []
    scanned = tables["token_classes"].with_columns(count=(pl.col("token_id") != LINE).cast(pl.Int32))
    assert [row["kind"] for row in named(tables=tables_of() | tables | {"token_classes": scanned})] == ["polysemantic"]
    unsupported = tables["graph_nodes"].with_columns(
        end_count=pl.when(pl.col("end_activation").eq(0.8) & pl.col("node_id").lt(3)).then(0).otherwise("end_count")
    )
    changed = {"token_classes": scanned, "graph_nodes": unsupported}
    assert named(tables=tables_of() | tables | changed) == []


def test_a_class_graph_that_fires_nowhere_is_not_polysemantic():
    assert named_of_classes((0.8, 0, {0: [CAT]}), (0.8, 0, {0: [DOG]})) == []


RULE = st.tuples(st.tuples(st.integers(0, 9), st.lists(st.none() | st.integers(0, 9), max_size=2)), st.integers(1, 5))


@given(st.lists(RULE, max_size=12))
def test_components_are_those_of_a_flood_from_rule_to_rule(drawn):
    rules = [((first, *rest), count) for (first, rest), count in drawn]
    sets = [{form for form in forms if form is not None} for forms, _ in rules]
    left, expected = set(range(len(rules))), []
    while left:
        group = {min(left)}
        while more := {i for i in left - group if any(sets[i] & sets[j] for j in group)}:
            group |= more
        left -= group
        expected.append(sum(rules[i][1] for i in group))
    as_bytes = [(tuple(None if form is None else bytes([form]) for form in forms), count) for forms, count in rules]
    assert sorted(component_counts(as_bytes)) == sorted(expected)


EVERYTHING = {
    "peaks": [1.0], "reduced": [False], "rules": [((b"a",), 1), ((b"b",), 1)], "graph": [("top", 1, 2, 0.1)],
    "causes": ["token unknown"] * 3, "tests": [(4, 0)],
}  # fmt: skip


def test_a_unit_may_have_all_kinds_or_none():
    everything = name_failures(UNIT, tables_of(**EVERYTHING), VOCABULARY, A_MAX, 0.5)
    assert everything["kind"].to_list() == list(FAILURE_RULES)
    assert named() == []


def test_only_the_graph_is_judged():
    tables = tables_of(graph=[("random", 0, 9, 0.0)])
    tables["evaluation"] = tables["evaluation"].with_columns(predictor=pl.lit("graph_shuffled"))
    assert named(tables=tables) == []


@pytest.mark.parametrize("kind", FAILURE_RULES)
def test_every_kind_has_its_rule_in_one_sentence(kind):
    assert FAILURE_RULES[kind].count(".") == 1
    assert FAILURE_RULES[kind].endswith(".")
