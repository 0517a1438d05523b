import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.core.settings import MethodSettings
from n2g_assets.core.units import Unit
from n2g_assets.method import graph
from n2g_assets.method.augment import augment_examples
from n2g_assets.method.graph import Path, build_graphs, build_trie, make_path, node_rows
from n2g_assets.method.prune import prune_examples
from n2g_assets.method.results import unit_frame
from n2g_assets_tests.method.slow_graph import SlowPath, nodes_by_forms, slow_merge, slow_nodes, slow_paths
from n2g_assets_tests.method.test_augment import VOCABULARY, dictionaries, prompts
from n2g_assets_tests.method.toy import (
    BOS,
    DictionaryProposer,
    ToyProber,
    conform,
    encode,
    hash_neuron,
    top_example_rows,
)

UNITS = [Unit(0, 1), Unit(1, 1), Unit(1, -1)]


def path(text: str, activation: float) -> Path:
    """``"x * a"``: x fires, any token before it, and before that a."""
    activating, *before = text.split()
    steps = [(("activating", activating.encode()), 1.0)]
    steps += [(("ignore", b""), None) if one == "*" else (("context", one.encode()), 0.8) for one in before]
    return steps, activation


def ends_of(rows: list[dict]) -> dict[str, tuple[float, int]]:
    """Every end by its text, as ``path`` reads it."""
    return {
        " ".join("*" if form is None else form.decode() for form in forms): (value, count)
        for forms, (_, _, value, count) in nodes_by_forms(rows).items()
        if count
    }


def test_a_path_walks_back_to_its_last_important_token_and_never_reaches_bos():
    forms = [b"<bos>", b"a", b"b", b"c", b"d"]
    importances = [1.0, 0.1, 0.75, 0.7, 0.9]
    made = make_path(forms, importances, 4, 0.75)
    assert made == [(("activating", b"d"), 0.9), (("ignore", b""), None), (("context", b"b"), 0.75)]
    assert [kind for (kind, _), _ in make_path(forms, [9.0, 0, 0, 0, 0], 4, 0.75)] == ["activating"]
    assert [form for (_, form), _ in make_path(forms, [9.0, 9, 9, 9, 9], 1, 0.75)] == [b"a"]


def test_subtrees_of_siblings_are_merged_into_the_ignore_node_two_levels_deep():
    rows = node_rows(build_trie([path("x a b c", 1.0), path("x * b d", 0.75), path("x * * e", 0.5), path("x a", 0.25)]))
    assert ends_of(rows) == {
        "x a": (0.25, 1),
        "x a b c": (1.0, 1),
        "x * b c": (1.0, 1),
        "x * b d": (0.75, 1),
        "x * * c": (1.0, 1),
        "x * * d": (0.75, 1),
        "x * * e": (0.5, 1),
    }
    assert [row["token"] for row in rows] == [
        b"x", b"a", b"b", b"c", None, b"b", b"c", b"d", None, b"c", b"d", b"e",
    ]  # fmt: skip


def test_merged_ends_are_means_weighted_by_their_counts():
    rows = node_rows(build_trie([path("x a b", 1.0), path("x a b", 0.7), path("x c b", 0.4), path("x * b", 0.1)]))
    ends = ends_of(rows)
    assert ends["x a b"] == (pytest.approx(0.85), 2)
    assert ends["x * b"] == (pytest.approx((1.0 + 0.7 + 0.4 + 0.1) / 4), 4)
    assert ends["x c b"] == (pytest.approx(0.4), 1)


def test_a_node_holds_the_largest_activation_and_importance_of_the_paths_through_it():
    one, two = path("x a b", 0.5), path("x a c", 1.0)
    louder = ([one[0][0], (("context", b"a"), 0.95), *one[0][2:]], 0.6)
    nodes = nodes_by_forms(node_rows(build_trie([one, two, louder])))
    assert nodes[b"x", b"a"] == (1.0, 0.95, None, 0)
    assert nodes[b"x", b"a", b"b"] == (0.6, 0.8, pytest.approx(0.55), 2)
    assert nodes[(b"x",)][0] == 1.0


def test_an_ignore_node_is_never_an_end():
    rows = node_rows(build_trie([path("x a", 1.0), path("x b", 1.0), path("x * c", 0.5)]))
    assert ends_of(rows) == {"x a": (1.0, 1), "x b": (1.0, 1), "x * c": (0.5, 1)}


slow_path_strategy = st.builds(
    lambda first, middle, last, activation: SlowPath(
        (first, *middle, *last), tuple(None if one is None else 0.9 for one in (first, *middle, *last)), activation
    ),
    st.sampled_from([b"x", b"y"]),
    st.lists(st.sampled_from([None, None, b"a", b"b"]), max_size=4),
    st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=1),
    st.sampled_from([0.5, 0.75, 1.0]),
) | st.builds(
    lambda first, activation: SlowPath((first,), (0.9,), activation), st.just(b"x"), st.floats(0.5, 1, width=16)
)


@settings(max_examples=120)
@given(st.lists(slow_path_strategy, max_size=9))
def test_the_trie_holds_exactly_the_paths_and_their_copies_by_definition(paths):
    fast = [
        (
            [
                (("activating" if not depth else "ignore" if form is None else "context", form or b""), importance)
                for depth, (form, importance) in enumerate(zip(one.forms, one.importances, strict=True))
            ],
            one.activation,
        )
        for one in paths
    ]
    assert_same_nodes(node_rows(build_trie(fast)), slow_nodes(slow_merge(paths)))
    assert node_rows(build_trie(fast)) == node_rows(build_trie(sorted(fast, key=repr)[::-1]))


def assert_same_nodes(rows, expected):
    found = nodes_by_forms(rows)
    assert set(found) == set(expected)
    for forms, (activation, importance, end_activation, end_count) in expected.items():
        assert found[forms] == (
            pytest.approx(activation, rel=1e-6),
            importance if importance is None else pytest.approx(importance, rel=1e-6),
            end_activation if end_activation is None else pytest.approx(end_activation, rel=1e-6),
            end_count,
        )
    siblings = [(row["parent_id"], row["kind"], row["token"] or b"") for row in rows]
    for parent in {one[0] for one in siblings}:
        assert (mine := [one[1:] for one in siblings if one[0] == parent]) == sorted(mine)


def stages(windows, words, seed, method, units=UNITS):
    """Pruned examples, saliencies and variants of hash neurons, and a_max."""
    neurons = {0: hash_neuron(seed, 3), 1: hash_neuron(seed, 9)}
    top_examples, a_max = top_example_rows(neurons, dict.fromkeys(units, windows)), dict.fromkeys(units, 2.0)
    pruned = prune_examples(units, top_examples, a_max, VOCABULARY, ToyProber(neurons), method).tables
    augmented = augment_examples(
        units, pruned["pruned_examples"], VOCABULARY, ToyProber(neurons), DictionaryProposer(words), method
    )
    return pruned["pruned_examples"], pruned["saliencies"], augmented.tables["augmented_examples"], a_max


@settings(max_examples=60)
@given(st.lists(prompts, min_size=1, max_size=5), dictionaries, st.integers(0, 10**6))
def test_graphs_of_random_neurons_are_those_of_the_definition(windows, words, seed):
    method = MethodSettings(important_threshold=0.5, augment_threshold=0.5)
    *frames, a_max = stages(windows, words, seed, method)
    result = build_graphs(UNITS, *frames, a_max, VOCABULARY, method)
    nodes, rules = conform("graph_nodes", result.tables["graph_nodes"]), conform("rules", result.tables["rules"])
    for unit in UNITS:
        rows = nodes.filter(unit=unit.number, sign=unit.sign)
        expected = slow_nodes(slow_merge(slow_paths(unit, *frames, a_max[unit], VOCABULARY, method)))
        assert_same_nodes(rows.rows(named=True), expected)
        tokens = rules.filter(unit=unit.number, sign=unit.sign)["tokens"].to_list()
        assert sorted(map(repr, map(tuple, tokens))) == sorted(
            repr(forms) for forms, node in expected.items() if node[3]
        )
        assert result.ledger[unit].status == "ok"


@settings(max_examples=20)
@given(st.lists(prompts, min_size=1, max_size=4), dictionaries, st.integers(0, 10**6))
def test_units_alone_and_together_and_rows_in_any_order_give_the_same_graphs(windows, words, seed):
    method = MethodSettings()
    *frames, a_max = stages(windows, words, seed, method)
    together = build_graphs(UNITS, *frames, a_max, VOCABULARY, method)
    shuffled = [frame.sample(fraction=1, shuffle=True, seed=seed) for frame in frames]
    for unit in UNITS:
        alone = build_graphs([unit], *shuffled, a_max, VOCABULARY, method)
        for table, frame in alone.tables.items():
            assert frame.equals(together.tables[table].filter(unit=unit.number, sign=unit.sign))


def test_variants_take_the_importances_of_what_they_stand_for_and_fire_only_where_the_original_did():
    cat, fish = VOCABULARY.tokens.index(b"cat"), VOCABULARY.tokens.index(b" fish")
    key = {"unit": 0, "sign": 1, "rank": 4}
    pruned = unit_frame("pruned_examples", [{
        **key, "peak": 3, "start": 1, "token_ids": encode(VOCABULARY, "cat", " bird", " fish"), "activation": 2.0,
        "full_activation": 4.0, "kept_share": 0.5, "reduced": True, "activations": [0, 0, 0, 2.0],
        "importances": [0, 0.9, 0, 1.0],
    }])  # fmt: skip
    saliencies = unit_frame("saliencies", [{**key, "position": 3, "activation": 4.0, "importances": [0, 0.9, 0, 1.0]}])
    variants = [
        {"position": 1, "choice": 0, "token_ids": encode(VOCABULARY, " do", "g", " bird", " fish"),
         "origins": [0, 1, 1, 2, 3], "activations": [9, 2.0, 0, 2.0, 1.5], "kept": True},
        {"position": 1, "choice": 1, "token_ids": encode(VOCABULARY, " cow", " bird", " fish"),
         "origins": [0, 1, 2, 3], "activations": [0, 0, 0, 0.9], "kept": False},
        {"position": 3, "choice": 0, "token_ids": encode(VOCABULARY, "cat", " bird", " do", "g"),
         "origins": [0, 1, 2, 3, 3], "activations": [0, 0, 0, 1.0, 1.0], "kept": True},
        {"position": 3, "choice": 1, "token_ids": encode(VOCABULARY, "cat", " bird", " cow"),
         "origins": [0, 1, 2, 3], "activations": [0, 0, 0, 0.99], "kept": True},
    ]  # fmt: skip
    augmented = unit_frame("augmented_examples", [
        {**key, "original_id": cat if one["position"] == 1 else fish, "substitute": "s", "proposer": "p",
         "activation": one["activations"][-1], **one} for one in variants
    ])  # fmt: skip
    unit = Unit(0, 1)
    result = build_graphs([unit], pruned, saliencies, augmented, {unit: 4.0}, VOCABULARY, MethodSettings())
    assert ends_of(result.tables["graph_nodes"].rows(named=True)) == {
        "fish * cat": (1.0, 1),
        "fish * g do": (0.75, 1),  # both tokens of the substitute are as important as the cat they stand for
        "do * cat": (0.5, 1),
        "g do * cat": (0.5, 1),  # the substitute's first token is as important as the fish it stands for
    }


def test_a_peak_below_the_threshold_and_one_that_is_not_positive_still_give_a_path():
    for activation in (0.5, 0.0, -1.0):
        key = {"unit": 0, "sign": 1, "rank": 0}
        pruned = unit_frame("pruned_examples", [{
            **key, "peak": 1, "start": 1, "token_ids": [BOS, 4], "activation": activation, "full_activation": 0.5,
            "kept_share": 1.0, "reduced": False, "activations": [0, activation], "importances": [0, 1.0],
        }])  # fmt: skip
        saliencies = unit_frame(
            "saliencies", [{**key, "position": 1, "activation": activation, "importances": [0, 1.0]}]
        )
        unit = Unit(0, 1)
        result = build_graphs(
            [unit], pruned, saliencies, unit_frame("augmented_examples", []), {unit: 4.0}, VOCABULARY, MethodSettings()
        )
        (row,) = result.tables["graph_nodes"].iter_rows(named=True)
        assert (row["kind"], row["token"], row["end_activation"], row["end_count"]) == (
            "activating", b"cat", activation / 4, 1,
        )  # fmt: skip


def test_a_graph_that_merging_makes_too_large_fails_its_unit_only(monkeypatch):
    monkeypatch.setattr(graph, "MAX_NODES", 3)
    key = {"unit": 0, "sign": 1}
    pruned, saliencies = [], []
    for rank, tokens in enumerate([[BOS, 2], [BOS, 5], [BOS, 9], [BOS, 10]]):
        pruned.append({
            **key, "rank": rank, "peak": 1, "start": 1, "token_ids": tokens, "activation": 1.0, "full_activation": 1.0,
            "kept_share": 1.0, "reduced": True, "activations": [0, 1.0], "importances": [0, 1.0],
        })  # fmt: skip
        saliencies.append({**key, "rank": rank, "position": 1, "activation": 1.0, "importances": [0, 1.0]})
    pruned_frame, salient = unit_frame("pruned_examples", pruned), unit_frame("saliencies", saliencies)
    small = {"unit": pl.lit(1, pl.Int32)}
    units = [Unit(0, 1), Unit(1, 1)]
    result = build_graphs(
        units, pruned_frame.vstack(pruned_frame[:1].with_columns(**small)),
        salient.vstack(salient[:1].with_columns(**small)), unit_frame("augmented_examples", []),
        dict.fromkeys(units, 1.0), VOCABULARY, MethodSettings(),
    )  # fmt: skip
    assert [result.ledger[unit].status for unit in units] == ["failed", "ok"]
    assert set(result.tables["graph_nodes"]["unit"]) == {1}
