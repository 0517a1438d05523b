"""Macros that search, compare and join units, against answers computed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import sqrt

import duckdb
import numpy as np
import polars as pl
import pytest

from n2g_assets.core.registry import LEAST_SHARED
from n2g_assets.storage.schema import KEPT, keep_rows, name_explanations
from n2g_assets_tests.report.class_graphs import EXAMPLE, TOKENS, Side, Split, class_frames
from n2g_assets_tests.report.published import Frames, database
from n2g_assets_tests.storage.helpers import rows

EXCEPT, TRY, COLON = 2, 3, 4
LIKES = [Split(0, 0, [(EXCEPT, 60, 0.9)], Side(0.9, 60, 60), Side(0.0, 900))]
REPEATS = [
    Split(0, 0, [(EXCEPT, 10, 0.5), (TRY, 10, 0.5)], Side(0.5, 20), Side(0.0, 900)),
    Split(1, -2, [(EXCEPT, 5, 0.9)], Side(0.9, 5), Side(0.4, 15)),
]
"""Wants ``except`` before ``except`` or ``try``."""
PARTED = [
    Split(0, 0, [(EXCEPT, 10, 0.5), (TRY, 10, 0.5)], Side(0.5, 20), Side(0.0, 900)),
    Split(1, 0, [(EXCEPT, 10, 0.8)], Side(0.8, 10), Side(0.3, 10)),
    Split(4, -1, [(EXCEPT, 5, 0.7)], Side(0.7, 5), Side(0.2, 5)),
]
"""Wants ``except`` before ``try`` alone: behind the second step no text has ``except`` at its end."""
TWO = [
    Split(0, 0, [(EXCEPT, 50, 0.9)], Side(0.9, 50, 40), Side(0.0, 900)),
    Split(2, 0, [(COLON, 50, 0.8)], Side(0.8, 50, 10), Side(-0.02, 850)),
]
"""Fires on two tokens that share nothing."""
UNITS = {(0, 1): EXAMPLE, (0, 2): LIKES, (3, 4): REPEATS, (3, 5): PARTED, (3, 6): TWO}
POSITIONS = {(0, 1): range(1, 6), (0, 2): range(1, 11), (3, 4): range(20, 24)}
"""By layer and unit, the positions of the one context at which it fires."""


def classes() -> Frames:
    found: dict[str, list[pl.DataFrame]] = {}
    for (layer, unit), splits in UNITS.items():
        for name, frame in class_frames(splits, TOKENS, Side(0.04, 1000, 60)).items():
            found.setdefault(name, []).append(frame.with_columns(layer=pl.lit(layer), unit=pl.lit(unit)))
    return {name: pl.concat(frames) for name, frames in found.items()}


def study(control_of: str | None = None) -> Frames:
    keys = [{"layer": layer, "unit": unit} for layer, unit in UNITS]
    names = [
        {"token_id": i, "token": token, "text": token.decode().replace(" ", "␣")} for i, token in enumerate(TOKENS)
    ]
    strong = [
        {"layer": layer, "unit": unit, "rank": rank, "context_id": "d:0", "position": position, "activation": 2.0}
        for (layer, unit), positions in POSITIONS.items()
        for rank, position in enumerate(positions)
    ]
    method, subject = {"firing_threshold": 0.5, "preset": "evidence"}, {"source": "local", "path": "nowhere"}
    settings = json.dumps({"preset": "full", "method": method, "subject": subject})
    return classes() | {
        "studies": rows("studies", {"settings": settings, "versions": "{}", "control_of": control_of}),
        "vocabulary": rows("vocabulary", *(name | {"normalised": name["token"]} for name in names)),
        "contexts": rows("contexts", {"context_id": "d:0", "document_id": "d", "token_ids": [0, 5, 4, 2]}),
        "ledger": rows("ledger", *keys, stage="activation_cache", status="ok"),
        "neuron_stats": rows("neuron_stats", *keys, max=2.0),
        "activations": rows("activations", *strong),
        "reach": rows("reach", {"text": "random", "last_tokens": 5, "pearson_r": 0.7}, **keys[0]),
        "evaluation": rows("evaluation", {"predictor": "graph", "text": "random", "pearson_r": 0.4}, **keys[0]),
        "top_contexts": rows(
            "top_contexts", {"context_id": "d:0", "peak": 3, "activation": 2.0, "activations": [9, 0, 1, 2]}, **keys[0]
        ),
    }


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    return database(toy=study(), twin=study(control_of="toy"))


def ask(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple]:
    return connection.execute(sql).fetchall()


def test_kept_rows_are_those_of_the_views_in_order_with_all_comments(connection) -> None:
    before = {name: (ask(connection, f"FROM {name} ORDER BY ALL"), described(connection, name)) for name in KEPT}
    with database(toy=study(), twin=study(control_of="toy")) as kept:
        keep_rows(kept)
        for name, order in KEPT.items():
            assert (ask(kept, f"FROM {name} ORDER BY ALL"), described(kept, name)) == before[name], name
            assert ask(kept, f"FROM {name}") == ask(kept, f"FROM {name} ORDER BY {order}"), name
        assert len(ask(kept, "SELECT * FROM duckdb_tables() WHERE table_name IN ('unit_status', 'token_uses')")) == 2
        assert len(ask(kept, "FROM problem_units")) == 0  # a view of one that became a table


def described(connection: duckdb.DuckDBPyConnection, name: str) -> list[tuple]:
    about = "SELECT column_name, data_type, comment FROM duckdb_columns()"
    return ask(connection, f"{about} WHERE table_name = '{name}' ORDER BY column_index")


@pytest.mark.parametrize(
    ("how", "given", "found"),
    [
        ("exact", "except", []), ("exact", " except", [2]), ("exact", "␣except", [2]), ("caseless", "EXCEPT ", [2, 11]),
        ("prefix", "ex", [2, 11]), ("prefix", "the", [9]), ("regex", "^.$", [4, 6, 8]), ("regex", "cept$", [2, 11]),
        ("form", "Except", [11]), ("form", " of", [10]), ("caseless", "'; --", []), ("exact", "\n", [5]),
    ],
)  # fmt: skip
def test_tokens_are_compared_in_five_ways(connection, how: str, given: str, found: list[int]) -> None:
    query = "SELECT token_id FROM tokens_like($given, how := $how) WHERE study = 'toy' ORDER BY token_id"
    assert connection.execute(query, {"given": given, "how": how}).fetchall() == [(each,) for each in found]


def test_another_way_is_refused_with_those_there_are(connection) -> None:
    with pytest.raises(duckdb.Error, match="how is form, exact, caseless, prefix or regex, not 'sql'"):
        ask(connection, "FROM tokens_like('a', how := 'sql')")


def test_a_use_is_a_token_that_raises_the_unit_to_a_tenth_or_more(connection) -> None:
    columns = 'token_id, "offset", node_id, round(activation, 2), round(raised, 2), count, shut'
    found = ask(
        connection, f"SELECT {columns} FROM token_uses WHERE study = 'toy' AND layer = 0 AND unit = 1 ORDER BY ALL"
    )
    assert found == [
        (EXCEPT, 0, 1, pytest.approx(0.9), pytest.approx(0.86), 60, [2]),
        (TRY, 0, 1, pytest.approx(0.3), pytest.approx(0.26), 40, [2]),
        (COLON, -1, 3, pytest.approx(0.9), pytest.approx(0.3), 30, [4]),
    ]  # fmt: skip


def test_controls_are_left_out_unless_they_are_asked_for(connection) -> None:
    for source in ("units_on('try'{})", "units_with_context(':'{})", "similar_units('toy', 0, 1{})"):
        studies = [
            ask(connection, f"SELECT DISTINCT study FROM {source.format(more)} ORDER BY ALL")
            for more in ("", ", controls := true")
        ]
        assert studies == [[("toy",)], [("toy",), ("twin",)]], source
    for source in ("repeats({})", "subset_pairs({})", "polysemantic({})", "families({})", "similar_pairs({})"):
        studies = [
            ask(connection, f"SELECT DISTINCT study FROM {source.format(more)} ORDER BY ALL")
            for more in ("", "controls := true")
        ]
        assert studies == [[("toy",)], [("toy",), ("twin",)]], source


def test_units_on_the_strongest_first_with_count_and_rules(connection) -> None:
    found = ask(
        connection, "SELECT layer, unit, round(activation, 2), count, n_rules FROM units_on(' except', how := 'exact')"
    )
    assert found == [
        (0, 1, pytest.approx(0.9), 60, 1), (0, 2, pytest.approx(0.9), 60, 1), (3, 6, pytest.approx(0.9), 50, 1),
        (3, 5, pytest.approx(0.8), 10, 2), (3, 4, pytest.approx(0.5), 10, 1),
    ]  # fmt: skip


def test_units_with_context_in_a_range_of_places(connection) -> None:
    query = "SELECT layer, unit, \"offset\" FROM units_with_context(' except'{}) ORDER BY ALL"
    assert ask(connection, query.format("")) == [(3, 4, -2), (3, 5, -1)]
    assert ask(connection, query.format(", nearest := 2")) == [(3, 4, -2)]
    assert ask(connection, query.format(", furthest := 1")) == [(3, 5, -1)]
    assert ask(connection, query.format(", nearest := 3")) == []


def test_a_context_before_a_token_stands_on_one_path_with_it(connection) -> None:
    columns = 'layer, unit, form, activating_form, "offset", round(activation, 2)'
    query = f"SELECT {columns} FROM units_with_context({{}}) ORDER BY ALL"
    found = ask(connection, query.format("' except', activating := 'try'"))
    assert found == [(3, 4, "␣except", "try", -2, pytest.approx(0.9)), (3, 5, "␣except", "try", -1, pytest.approx(0.7))]
    found = ask(connection, query.format("' except', activating := ' except'"))
    assert found == [(3, 4, "␣except", "␣except", -2, pytest.approx(0.9))]  # not 5, whose rule shuts it out
    assert ask(connection, query.format("':', activating := ' of'")) == []


def test_repeats_are_rules_that_want_their_activating_token_before(connection) -> None:
    columns = 'layer, unit, form, "offset", n_tokens, share'
    assert ask(connection, f"SELECT {columns} FROM repeats()") == [(3, 4, "␣except", -2, 1, 0.5)]


def test_repeats_and_pairs_of_the_papers_rules() -> None:
    rules = [
        {"rule_id": 0, "pattern": "b [a]", "tokens": [b"a", b"b"], "activation": 0.9, "count": 2},
        {"rule_id": 1, "pattern": "a * [a]", "tokens": [b"a", None, b"a"], "activation": 0.7, "count": 3},
    ]
    words = [
        {"token_id": i, "token": token, "normalised": token, "text": token.decode()}
        for i, token in enumerate((b"a", b"b"))
    ]
    with database(paper={"rules": rows("rules", *rules), "vocabulary": rows("vocabulary", *words)}) as connection:
        columns = 'form, "offset", round(activation, 1), n_tokens, share, top_pattern'
        assert ask(connection, f"SELECT {columns} FROM repeats()") == [("a", -2, pytest.approx(0.7), 1, 1.0, "a * [a]")]
        found = ask(
            connection,
            "SELECT form, activating_form, \"offset\", count FROM units_with_context('b', activating := 'a')",
        )
        assert found == [("b", "a", -1, 2)]
        assert ask(connection, "FROM units_with_context('a', activating := 'b')") == []


def test_similar_units_by_rules(connection) -> None:
    found = ask(connection, "SELECT layer, unit, rule_cosine, correlation FROM similar_units('toy', 0, 1)")
    length = sqrt(54**2 + 12**2 + 27**2)  # count times activation of except, try and the colon
    assert found[0] == (0, 2, pytest.approx(54 / length, abs=1e-6), None)
    [other] = [row[2:] for row in found if row[:2] == (3, 6)]
    assert other == (pytest.approx((54 * 45) / (length * sqrt(45**2 + 40**2)), abs=1e-6), None)


def sampled(name: str, positions: Sequence[int], activations: Mapping[int, np.ndarray]) -> Frames:
    """A study whose units, by number, did this at these positions of one long context."""
    vectors = []
    for unit, values in activations.items():
        deviations = values[positions] - values[positions].mean()
        length = float(np.linalg.norm(deviations))
        vector = (deviations / length).tolist() if length else None
        vectors.append({"unit": unit, "sample": name, "length": length, "deviations": vector})
    places = [
        {"place": place, "sample": name, "context_id": "d:0", "position": position}
        for place, position in enumerate(positions, start=1)
    ]
    return {
        "studies": rows("studies", {"settings": "{}", "versions": "{}"}),
        "contexts": rows("contexts", {"context_id": "d:0", "document_id": "d", "token_ids": list(range(900))}),
        "sampled_positions": rows("sampled_positions", *places),
        "sampled_activations": rows("sampled_activations", *vectors),
    }


def test_units_are_correlated_on_the_sampled_tokens_that_both_have() -> None:
    generator = np.random.default_rng(0)
    common = generator.standard_normal(900)
    at = {unit: common * unit + generator.standard_normal(900) for unit in range(4)} | {9: np.ones(900)}
    some, others, few = (generator.permutation(900)[:n].tolist() for n in (400, 500, 60))
    studies = {
        "one": sampled("some", some, at), "same": sampled("some", some, at), "two": sampled("others", others, at),
        "far": sampled("few", few, at),
    }  # fmt: skip
    with database(**studies) as connection:
        found = ask(connection, "SELECT study, unit, n_tokens, correlation FROM correlations_with('one', 0, 1, 1)")
    both = sorted(set(some) & set(others))
    assert LEAST_SHARED <= len(both) < 400
    for study_name, places in (("one", some), ("same", some), ("two", both)):
        of_study = {unit: (n, r) for name, unit, n, r in found if name == study_name}
        assert of_study.pop(9) == (len(places), None), "it is constant"
        assert of_study == {
            unit: (len(places), pytest.approx(np.corrcoef(at[1][places], at[unit][places])[0, 1], abs=1e-5))
            for unit in range(4)
        }
    assert {name for name, *_ in found} == {"one", "same", "two"}, "far shares too few"


def test_the_same_position_of_other_tokens_is_not_shared() -> None:
    at, places = {0: np.arange(900.0)}, list(range(1, 201))
    other = sampled("other", places, at)
    other["contexts"] = rows("contexts", {"context_id": "d:0", "document_id": "d", "token_ids": [7] * 900})
    with database(one=sampled("one", places, at), two=other) as connection:
        found = ask(connection, "SELECT study, unit, n_tokens FROM correlations_with('one', 0, 0, 1)")
    assert found == [("one", 0, 200)]


@pytest.mark.parametrize("least", [0.01, 0.5, 0.8, 0.999])
def test_similar_pairs_are_all_whose_cosine_is_large_enough(connection, least: float) -> None:
    vector = "SELECT layer, unit, \"offset\", token, weight FROM unit_vectors WHERE study = 'toy'"
    every = ask(
        connection,
        f"""
        SELECT a.layer, a.unit, b.layer, b.unit, sum(a.weight * b.weight::DOUBLE) AS cosine
        FROM ({vector}) AS a JOIN ({vector}) AS b USING ("offset", token)
        WHERE (a.layer, a.unit) < (b.layer, b.unit) GROUP BY ALL HAVING cosine >= {least} ORDER BY ALL""",
    )
    found = ask(
        connection,
        f"SELECT layer, unit, other_layer, other_unit, rule_cosine FROM similar_pairs(least := {least}) ORDER BY ALL",
    )
    assert [row[:4] for row in found] == [row[:4] for row in every]
    assert [row[4] for row in found] == pytest.approx([row[4] for row in every])


def test_similar_pairs_say_what_their_units_do_on_the_same_tokens() -> None:
    generator = np.random.default_rng(1)
    at = {unit: generator.standard_normal(900) for unit in range(2)}
    some, others, few = (generator.permutation(900)[:n].tolist() for n in (400, 500, 60))
    rule = {"pattern": "[a]", "tokens": [b"a"], "activation": 0.9, "count": 2}
    words = {"token_id": 0, "token": b"a", "normalised": b"a", "text": "a"}
    wanted = {"rules": rows("rules", rule | {"unit": 0}, rule | {"unit": 1}), "vocabulary": rows("vocabulary", words)}
    names = {"one": ("some", some), "two": ("others", others), "far": ("few", few)}
    with database(**{study: sampled(*sample, at) | wanted for study, sample in names.items()}) as connection:
        found = ask(connection, "SELECT study, unit, other_study, other_unit, correlation FROM similar_pairs()")
    assert len(found) == 15, "all pairs of six units"
    for study, unit, other, other_unit, correlation in found:
        places = sorted(set(names[study][1]) & set(names[other][1]))
        too_few = len(places) < LEAST_SHARED
        expected = None if too_few else np.corrcoef(at[unit][places], at[other_unit][places])[0, 1]
        assert correlation == (None if expected is None else pytest.approx(expected, abs=1e-5)), (study, other)


def test_families_are_joined_by_similar_pairs(connection) -> None:
    query = "SELECT family, n_units, layer, unit FROM families(least := {})"
    # cosines: of 1 and 2 .88, of 1 and 5 and of 2 and 5 .80, of others less than .78
    assert ask(connection, query.format(0.85)) == [(1, 2, 0, 1), (1, 2, 0, 2)]
    assert ask(connection, query.format(0.78)) == [(1, 3, 0, 1), (1, 3, 0, 2), (1, 3, 3, 5)]


def test_a_chain_of_similar_units_is_one_family() -> None:
    names = [b"<s>"] + [b"w%d" % i for i in range(14)]
    frames: dict[str, list[pl.DataFrame]] = {}
    for unit in range(12):  # unit k shares one token with k + 1
        chain = [Split(0, 0, [(unit + 1, 10, 0.9), (unit + 2, 10, 0.9)], Side(0.9, 20), Side(0.0, 99))]
        for name, frame in class_frames(chain, names, Side(0.01, 999)).items():
            frames.setdefault(name, []).append(frame.with_columns(layer=pl.lit(unit), unit=pl.lit(unit)))
    words = [
        {"token_id": i, "token": token, "normalised": token, "text": token.decode()} for i, token in enumerate(names)
    ]
    whole = {name: pl.concat(each) for name, each in frames.items()} | {"vocabulary": rows("vocabulary", *words)}
    with database(toy=whole) as connection:
        assert len(ask(connection, "FROM similar_pairs(least := 0.49)")) == 11
        found = ask(connection, "SELECT family, n_units, unit FROM families(least := 0.49)")
        assert found == [(1, 12, unit) for unit in range(12)]
        assert ask(connection, "FROM families(least := 0.6)") == []


def test_subset_pairs_fire_where_the_other_does(connection) -> None:
    columns = "layer, unit, other_layer, other_unit, positions, other_positions, share"
    assert ask(connection, f"SELECT {columns} FROM subset_pairs()") == [(0, 1, 0, 2, 5, 10, 1.0)]
    found = ask(connection, f"SELECT {columns} FROM subset_pairs(threshold := 0.5)")
    assert found == [(0, 1, 0, 2, 5, 10, 1.0), (0, 2, 0, 1, 10, 5, 0.5)]
    assert ask(connection, "FROM subset_pairs(least := 6)") == []


@pytest.mark.parametrize("threshold", [0.4, 0.5, 0.8, 0.9, 1.0])
def test_subset_pairs_are_all_pairs_with_that_share(threshold: float) -> None:
    generator = np.random.default_rng(0)
    whole = generator.permutation(60)
    at = {
        unit: set(generator.choice(whole[: 12 + unit], generator.integers(4, 12 + unit)).tolist()) for unit in range(40)
    }
    strong = [
        {"unit": unit, "rank": rank, "context_id": "d:0", "position": position, "activation": 2.0}
        for unit, positions in at.items()
        for rank, position in enumerate(positions)
    ]
    toy = study() | {
        "neuron_stats": rows("neuron_stats", *({"unit": unit} for unit in at), max=2.0),
        "activations": rows("activations", *strong),
    }
    expected = {
        (unit, other): len(own & there) / len(own)
        for unit, own in at.items()
        for other, there in at.items()
        if unit != other and len(own) >= 5 and len(there) >= 5 and len(own & there) >= threshold * len(own) - 1e-9
    }
    with database(toy=toy) as connection:
        found = ask(connection, f"SELECT unit, other_unit, share FROM subset_pairs({threshold})")
    assert {row[:2]: row[2] for row in found} == pytest.approx(expected)
    assert len(found) == len(expected) > 0


def test_predictors_name_the_scored_explanations_of_others() -> None:
    scored = rows("evaluation", {"predictor": "mine"}, {"predictor": "graph"}, text="random")
    with database(toy={"evaluation": scored}) as connection:
        name_explanations(connection)
        found = ask(connection, "SELECT predictor, label, role, meaning FROM predictors WHERE predictor = 'mine'")
        assert found == [("mine", "mine", "explanation", "An explanation that the settings name of study toy.")]
        assert ask(connection, "SELECT count(*) FROM predictors WHERE predictor = 'graph'") == [(1,)]
        assert ask(connection, "SELECT max(place) = count(*) FROM predictors") == [(True,)]


def test_polysemantic_units_fall_apart(connection) -> None:
    found = ask(connection, "SELECT layer, unit, n_components, shares, patterns FROM polysemantic()")
    assert found == [(3, 6, 2, [0.8, 0.2], ["[{␣except}]", "[{:}]"])]
    assert ask(connection, "FROM polysemantic(min_components := 3)") == []


def test_reach_of_a_unit_stands_beside_its_graph(connection) -> None:
    found = ask(connection, "SELECT text, last_tokens, pearson_r, graph_pearson_r FROM reach_of('toy', 0, 1)")
    assert found == [("random", 5, pytest.approx(0.7), pytest.approx(0.4))]
    assert ask(connection, "FROM reach_of('toy', 0, 2)") == []


def test_top_contexts_nodes_and_rules_as_text(connection) -> None:
    found = ask(connection, "SELECT text, words, activations, tokens FROM top_context_text WHERE study = 'toy'")
    assert found == [("\n:[␣except]", ["\n", ":", "␣except"], [0.0, 0.5, 1.0], [b"\n", b":", b" except"])]
    nodes = "SELECT node_id, text, n_tokens, tokens FROM graph_node_text WHERE study = 'toy' AND layer = 0 AND unit = 1"
    assert ask(connection, nodes)[:4] == [
        (0, "*", 0, []), (1, "{␣except|try}", 2, [b" except", b"try"]),
        (2, "{not ␣except|try}", 2, [b" except", b"try"]),
        (3, "{:}", 1, [b":"]),
    ]  # fmt: skip
    rule = """
        SELECT "offset", ends_with, tokens FROM rule_text
        WHERE study = 'toy' AND layer = 0 AND unit = 1 AND rule_id = 0"""
    assert ask(connection, rule) == [(-1, "{:}", [b":"])]
