"""A study in Python: graphs that predict one's own text, searches as frames, examples, and what notebooks show."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import duckdb
import networkx as nx
import numpy as np
import pytest

from n2g_assets import open_study
from n2g_assets.core.errors import MissingError, QueryError, StorageError
from n2g_assets.core.home import Home
from n2g_assets.method.tokens import display_text
from n2g_assets.reading.lighting import light_up, read_tokens
from n2g_assets.reading.search import Search, find
from n2g_assets.report.text import share
from n2g_assets_tests.reading.conftest import first_unit


def own_text(unit) -> str:
    """The text of a unit's strongest context."""
    tokens = unit.study.vocabulary.tokens
    return b"".join(tokens[token] for token in unit.top_contexts()[0].token_ids[1:]).decode("utf-8", "replace")


def test_two_lines_predict_ones_own_sentence(finished_evidence, monkeypatch):
    monkeypatch.setenv("N2G_HOME", str(finished_evidence.home))
    unit = first_unit(open_study("tiny"))
    layer, number, sign, sentence = unit.layer, unit.number, unit.sign, own_text(unit)

    study = open_study("tiny")
    found = study.unit(layer, number, sign).graph.predict(sentence)

    token_ids = study.encode(sentence)
    assert found["token_id"].to_list() == token_ids[1:].tolist()
    assert found["predicted"].to_numpy() == pytest.approx(unit.graph.predict_ids(token_ids).values[1:])
    assert found["rule"].drop_nulls().len()
    assert found.equals(study.unit(layer, number, sign).predict(sentence))


def test_a_smaller_graph_predicts_as_the_graph_of_so_many_rules(classes):
    unit = first_unit(classes)
    small, token_ids = unit.graph.predict(own_text(unit), 1), classes.encode(own_text(unit))
    assert small["predicted"].to_numpy() == pytest.approx(unit.graph.predict_ids(token_ids, 1).values[1:])
    assert small["rule_id"].drop_nulls().is_in(unit.rules(1)["rule_id"].to_list()).all()


def test_a_search_by_token_has_the_units_of_the_explorers_search(study):
    word = _a_token(study)
    found = study.search(word, how="exact")
    expected = find(study.database, Search(word, how="exact", study=study.name)).hits
    assert found.select("layer", "unit", "sign", "activation", "top_pattern").rows() == [
        (hit["layer"], hit["unit"], hit["sign"], hit["activation"], hit["top_pattern"]) for hit in expected
    ]
    assert found.height
    [layer, *_] = found["layer"].unique().to_list()
    assert study.search(word, how="exact", layer=layer).rows() == found.filter(layer=layer).rows()
    assert study.search(word, how="exact", least_r=0.2).rows() == found.filter(found["random_pearson_r"] >= 0.2).rows()


def _a_token(study) -> str:
    """On which a unit fires."""
    query = """
        SELECT plain FROM token_uses JOIN token_texts USING (study, token_id)
        WHERE study = $study AND "offset" = 0 AND activation > 0 AND plain <> ''
        ORDER BY activation DESC, plain LIMIT 1"""
    return str(study.frame(query).item())


def test_a_search_by_context_looks_at_order_and_distance(study):
    query = """
        SELECT plain, "offset" FROM token_uses JOIN token_texts USING (study, token_id)
        WHERE study = $study AND "offset" < 0 AND plain <> '' ORDER BY activation DESC, plain LIMIT 1"""
    [(word, offset)] = study.frame(query).rows()
    there = study.search(context=word, how="exact", nearest=-offset, furthest=-offset)
    assert there.height
    assert set(there.select("layer", "unit").rows()) <= set(
        study.search(context=word, how="exact").select("layer", "unit").rows()
    )


def test_a_search_by_text_has_the_units_that_it_lights_up_the_strongest_first(study, unit):
    text = own_text(unit)
    found = study.search(text=text)
    token_ids, exact = read_tokens(study, text)
    assert exact
    expected = light_up(study, token_ids).units
    assert found.select("layer", "unit", "sign", "position").rows() == [each[:4] for each in expected]
    assert found.height
    row = found.row(0, named=True)
    values = study.unit(row["layer"], row["unit"], row["sign"]).graph.predict_ids(token_ids).values
    assert row["predicted"] == pytest.approx(values.max())
    assert row["token"] == display_text(study.vocabulary.tokens[token_ids[row["position"]]])
    limited = study.search(text=text, layer=row["layer"], least_r=-1)
    assert limited.rows() == found.filter(layer=row["layer"]).drop_nulls("random_pearson_r").rows()


def test_a_layer_that_the_study_lacks_is_an_error(study):
    for asked in ({"text": "the"}, {"activating": "the"}):
        with pytest.raises(MissingError, match=r"^Study 'tiny' has no layer 99: it has layers? \d"):
            study.search(**asked, layer=99)


def test_an_unknown_token_is_an_error_and_an_unused_one_gives_no_rows(study):
    with pytest.raises(MissingError, match=r"^There is no token “nothing” in the vocabulary of tiny\.$"):
        study.search("nothing")
    query = """
        SELECT plain FROM token_texts WHERE study = $study AND len(plain) > 0 AND token_id NOT IN
            (SELECT token_id FROM token_uses WHERE study = $study) ORDER BY token_id DESC LIMIT 1"""
    unused = study.search(str(study.frame(query).item()), how="exact")
    assert unused.is_empty()
    assert unused.columns == study.search(_a_token(study), how="exact").columns


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "Search either by tokens (activating, context) or by a text: give one of the two."),
        ({"activating": "a", "text": "b"}, "Search either by tokens"),
        ({"activating": "a", "how": "fuzzy"}, "'fuzzy': choose one of caseless, exact, prefix, regex."),
        ({"context": "a", "nearest": 3, "furthest": 2}, "No token stands at least 3 and at most 2 places"),
        ({"context": "a", "nearest": 0}, "No token stands at least 0"),
        ({"activating": "(", "how": "regex"}, "The regular expression '(' cannot be read"),
        ({"activating": "a\0"}, "cannot hold the character of code 0"),
    ],
)
def test_a_mistaken_search_is_one_sentence(classes, asked, said):
    with pytest.raises(QueryError, match=re.escape(said)):
        classes.search(**asked)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("FROM fidelity_crd", 'Table with name fidelity_crd does not exist! Did you mean "fidelity_card"?'),
        ("SELECT pearson FROM evaluation", 'Referenced column "pearson" not found'),
        ("FROM units_onn('a')", "units_onn does not exist! Did you mean"),
        ("SELEC 1", 'syntax error at or near "SELEC"'),
    ],
)
def test_a_typo_in_ones_own_sql_is_told_as_such(classes, query, said):
    for ask in (classes.frame, classes.rows):
        with pytest.raises(QueryError, match=re.escape(said)) as error:
            ask(query)
        assert str(error.value).startswith("The query cannot be run (")
        assert str(error.value).endswith("): correct it.")


def test_a_file_that_lacks_a_view_of_this_version_is_of_another_one(finished_evidence, tmp_path):
    home = finished_evidence.copy_home(tmp_path)
    with duckdb.connect(str(home / "n2g.duckdb")) as connection:
        connection.execute("DROP VIEW layer_summary")
    with pytest.raises(StorageError, match="was published by another version"):
        open_study("tiny", Home(home)).scores()


def test_ones_own_sql_may_leave_the_study_out(classes):
    assert classes.frame("SELECT count(*) FROM studies").item() == 1
    assert classes.frame("SELECT count(*) FROM rules WHERE study = $study AND layer = $n", n=0).item() > 0


def test_an_example_shows_its_text_with_the_token_in_question_and_a_row_a_token(study, unit):
    texts = unit.rows("top_context_text", order="rank")
    by_text = {row["text"]: row for row in texts}
    for example in unit.top_contexts():
        row = by_text[example.text]
        table = example.table()
        assert table["token"].to_list() == row["words"]
        assert table["activation"].to_list() == pytest.approx(row["activations"], abs=1e-6)
        assert table["token_id"].to_list() == example.token_ids[1:].tolist()
        assert table.row(example.peak - 1, named=True)["position"] == example.peak
        assert f"[{table['token'][example.peak - 1]}]" in repr(example)
    wrong = unit.counterexamples()
    assert len(wrong) == unit.frame("counterexamples").height
    assert all(each.table()["activation"].null_count() == len(each.token_ids) - 1 for each in wrong)


def test_objects_say_in_one_line_what_they_are(study, unit):
    assert repr(study) == f"<Study tiny: {study.model['model']}, layers 0–2>"
    r, pattern = share(unit.card["random_pearson_r"], 2), unit.card["top_pattern"]
    assert repr(unit) == f"<Unit {unit} of study tiny: r {r} on held-out text, fires most on {pattern}>"
    assert repr(unit.graph).startswith(f"<Graph of {unit} of study tiny: {unit.graph.n_rules} rules, ")
    assert "\n" not in repr(unit.top_contexts()[0])


def test_notebooks_show_a_unit_and_its_graph_as_a_picture(unit):
    picture = unit._repr_svg_()
    assert picture == unit.graph._repr_svg_() == unit.svg()
    assert ElementTree.fromstring(picture).tag.endswith("svg")


def test_a_graph_goes_to_networkx_with_its_values(unit):
    graph = unit.to_networkx(5)
    data = unit.to_json(5)
    assert nx.is_forest(graph)
    assert dict(graph.nodes(data="activation")) == {node["node"]: node["activation"] for node in data["nodes"]}
    assert set(graph.edges) == {(n["parent"], n["node"]) for n in data["nodes"] if n["parent"] is not None}
    assert graph.graph["rules"] == data["rules"]
    assert np.isfinite(graph.graph["a_max"])
