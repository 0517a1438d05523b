"""The search page: hits, filters, the SQL it ran, empty answers, hostile input, and texts that light units up."""

from __future__ import annotations

from pathlib import Path

import duckdb
import polars as pl
import pytest
from starlette.testclient import TestClient

from n2g_assets.core.errors import QueryError
from n2g_assets.explore import similar
from n2g_assets.explore.app import build_app
from n2g_assets.reading import lighting, search
from n2g_assets.reading.database import Database
from n2g_assets.reading.lighting import LEAST_EXPECTED, MOST_TOKENS, light_up, longest_tokens
from n2g_assets.reading.ordered import Before, in_order
from n2g_assets.reading.search import Search, find
from n2g_assets.reading.study import Study
from n2g_assets.storage.schema import keep_rows
from n2g_assets_tests.report.class_graphs import TOKENS, Side, Split, class_frames
from n2g_assets_tests.report.published import Frames, database
from n2g_assets_tests.storage.helpers import rows
from n2g_assets_tests.storage.test_views_search import COLON, TRY, study

OF = 10
HOSTILE = [
    "'; DROP TABLE rules; --",
    "<script>alert(1)</script>",
    "\u202e\u200b",
    "%",
    "$study",
    "{{ 1 }}",
    "\\",
    " ",
    "é" * 199,
]


@pytest.fixture(scope="module")
def published() -> Database:
    model = {"subject_models": rows("subject_models", {"model": "tiny", "bos_id": 0, "mask_id": 1})}
    with database(toy=longer(study()) | model, twin=longer(study(control_of="toy")) | model) as connection:
        keep_rows(connection)
        [(path,)] = connection.execute("SELECT path FROM duckdb_databases() WHERE path IS NOT NULL").fetchall()
    return Database(Path(path))


LONGER = [
    Split(0, 0, [(OF, 50, 0.6)], Side(0.6, 50, 40), Side(0.0, 950)),
    Split(1, -1, [(COLON, 20, 0.7)], Side(0.7, 20), Side(0.5, 30)),
    Split(3, -3, [(TRY, 5, 0.9)], Side(0.9, 5), Side(0.6, 15)),
]
"""Wants ``try``, two any, and a colon before ``of``."""


def longer(frames: Frames) -> Frames:
    """The same with one more unit, whose rule wants three tokens."""
    key = {"layer": 5, "unit": 7}
    own = class_frames(LONGER, TOKENS, Side(0.04, 1000, 60))
    own = {name: frame.with_columns(layer=pl.lit(5), unit=pl.lit(7)) for name, frame in own.items()}
    own |= {"ledger": rows("ledger", key, stage="activation_cache", status="ok")}
    return frames | {name: pl.concat([frames[name], frame]) for name, frame in own.items()}


@pytest.fixture(scope="module")
def client(published: Database) -> TestClient:
    return TestClient(build_app(published))


def asked(client: TestClient, **query: object) -> dict:
    response = client.get("/api/search", params=query)
    assert response.status_code == 200, response.text
    assert client.get("/search", params=query).status_code == 200
    return response.json()


def units(answer: dict) -> list[tuple[int, int]]:
    return [(hit["layer"], hit["unit"]) for hit in answer["hits"]]


def test_a_search_of_an_activating_token_shows_units_rules_and_the_sql_that_gives_them(client, published) -> None:
    answer = asked(client, activating="EXCEPT")
    assert units(answer) == [(0, 1), (0, 2), (3, 6), (3, 5), (3, 4)]
    assert {hit["study"] for hit in answer["hits"]} == {"toy"}
    with duckdb.connect(str(published.path), read_only=True) as connection:
        found = connection.sql(answer["sql"])
        assert found.columns[:5] == ["study", "layer", "unit", "sign", "form"]
        assert [row[1:3] for row in found.fetchall()] == units(answer)
    page = client.get("/search", params={"activating": "EXCEPT"}).text
    assert 'href="/study/toy/0/1"' in page
    assert "found_on(&#39;EXCEPT&#39;, &#39;caseless&#39;, false)" in page


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"q": " except", "how": "exact", "layer": 3}, [(3, 6), (3, 5), (3, 4)]),
        ({"activating": "try"}, [(3, 4), (3, 5), (0, 1)]),
        ({"context": ":"}, [(0, 1), (5, 7)]),
        ({"context": "except"}, [(3, 4), (3, 5)]),
        ({"context": "except", "nearest": 2}, [(3, 4)]),
        ({"context": "except", "furthest": 1}, [(3, 5)]),
        ({"context": "except", "activating": "except"}, [(3, 4)]),
        ({"context": "^[ex ]+cept$", "how": "regex", "activating": "t.y"}, [(3, 4), (3, 5)]),
        ({"activating": "tr", "how": "prefix", "study": "twin", "layer": 0}, [(0, 1)]),
        ({"activating": "except", "least": 0.5}, []),
        ({"activating": "of", "context": ":", "context2": "try"}, [(5, 7)]),
        ({"context": ":", "context2": "try"}, [(5, 7)]),
        ({"context2": ":", "context3": "try", "activating": "of"}, [(5, 7)]),  # a field that is left empty asks nothing
        ({"activating": "of", "context": "try", "context2": ":"}, []),  # not in this order
        ({"activating": "of", "context": ":", "context2": "try", "nearest2": 3, "furthest2": 3}, [(5, 7)]),
        ({"activating": "of", "context": ":", "context2": "try", "nearest2": 4}, []),
        ({"activating": "of", "context": ":", "furthest": 1, "context2": "try", "furthest2": ""}, [(5, 7)]),
        ({"activating": "of", "context": ":", "nearest": 2, "context2": "try"}, []),
        ({"activating": "of", "context": "t.y", "how": "regex", "context2": "t.y"}, []),  # each stands at its own place
        ({"activating": "of", "context": ":", "context2": "try", "study": "twin", "layer": 5}, [(5, 7)]),
    ],
)
def test_searches_by_token_place_kind_and_filter(client, query: dict, found: list) -> None:
    assert units(asked(client, **query)) == found


def test_the_least_r_keeps_those_that_reach_it(client) -> None:
    assert units(asked(client, activating="except", least=0.4)) == [(0, 1)]
    assert units(asked(client, activating="except", least=0.41)) == []


def test_an_unknown_token_and_an_unused_one_get_different_answers_and_near_forms(client) -> None:
    unknown = asked(client, activating="exceptional", how="exact")
    assert unknown["why_nothing"] == "There is no token “exceptional” in any published vocabulary."
    assert [near["text"] for near in unknown["known"][0]["near"]] == ["␣except", "Except"]
    unused = asked(client, activating="Except", how="exact")
    assert unused["why_nothing"] == (
        "The vocabulary has “Except”, but no rule of the units asked for wants it as its activating token."
    )
    assert [(near["text"], near["used"]) for near in unused["known"][0]["near"]] == [("␣except", True)]
    page = client.get("/search", params={"activating": "Except", "how": "exact"}).text
    assert "/search?activating=+except" in page
    both = asked(client, activating=":", context="try")
    assert both["why_nothing"].endswith("but no rule of the units asked for wants both there.")
    prefix = asked(client, activating="zz", how="prefix", study="toy")
    assert prefix["why_nothing"] == "There is no token that begins with “zz” in the vocabulary of toy."


@pytest.mark.parametrize("how", ["caseless", "exact", "prefix"])
@pytest.mark.parametrize("token", HOSTILE)
def test_hostile_tokens_are_only_searched_for(client, token: str, how: str) -> None:
    for field in ("activating", "context", "q"):
        response = client.get("/search", params={field: token, "how": how})
        assert response.status_code == 200
        assert "<script>alert" not in response.text
    assert client.get("/api/search", params={"text": token}).status_code == 200


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"activating": "(", "how": "regex"}, "The regular expression '(' cannot be read (missing ): ()"),
        ({"context": "a{2,1}", "how": "regex"}, "The regular expression 'a{2,1}' cannot be read ("),
        ({"activating": "a\0"}, "cannot hold the character of code 0"),
        ({"activating": "a" * 201}, "'activating' in the address cannot be"),
        ({"text": "a" * 20_001}, "'text' in the address cannot be"),
        ({"context": "a", "nearest": 3, "furthest": 1}, "No token stands at least 3 and at most 1 places before"),
        ({"how": "sql"}, "'how' in the address cannot be 'sql'"),
        ({"least": "inf", "q": "a"}, "'least' in the address cannot be 'inf'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(client, query: dict, sentence: str) -> None:
    response = client.get("/api/search", params=query)
    assert response.status_code == 400
    assert sentence in response.json()["error"]
    assert "\n" not in response.json()["error"]


def test_an_unknown_study_is_said(client) -> None:
    response = client.get("/search", params={"q": "a", "study": "nobody"})
    assert response.status_code == 404
    assert "choose one of toy, twin" in response.text


def test_every_page_has_the_box(client) -> None:
    assert 'action="/search"' in client.get("/").text
    assert 'action="/search"' in client.get("/nowhere").text


def test_a_text_is_cut_into_the_longest_tokens(published) -> None:
    toy = Study(published.snapshot(), "toy")
    assert longest_tokens(toy, "try: except of the\n3 Except").tolist() == [0, 3, 4, 2, 10, 9, 5, 8, 11]
    assert longest_tokens(toy, "tr☃y").tolist() == [0]  # no token: nothing to read
    assert len(longest_tokens(toy, "3" * 5000)) == MOST_TOKENS


def test_a_text_lights_up_units_where_their_graphs_expect_most(client, published) -> None:
    toy = Study(published.snapshot(), "toy")
    lit = light_up(toy, longest_tokens(toy, "try except: except"))
    found = {(each.layer, each.unit): each for each in lit.units}
    assert lit.tried == lit.promising == lit.there == 6
    for (
        layer,
        unit,
    ), each in found.items():  # the same as with the whole graph, of which only the text's tokens are read
        whole = toy.unit(layer, unit).graph.predict_ids(lit.token_ids)
        assert each.prediction.values.tolist() == whole.values.tolist()
        assert each.position == whole.values.argmax()
    assert [float(each.prediction.values.max()) for each in lit.units] == sorted(
        (float(each.prediction.values.max()) for each in lit.units), reverse=True
    )
    assert found[3, 4].position == 4  # except, two before it except
    answer = asked(client, text="try except: except", layer=3)
    assert {unit["layer"] for unit in answer["lit"]["units"]} == {3}
    assert asked(client, text="of of", layer=0)["lit"]["units"] == []


def test_a_text_stops_when_its_time_is_over(published) -> None:
    toy = Study(published.snapshot(), "toy")
    lit = light_up(toy, longest_tokens(toy, "try except"), seconds=-1)
    assert (lit.tried, lit.promising, lit.there) == (1, 6, 6)


@pytest.mark.parametrize("text", ["try except: except", "of", "the :", ": of try", "Except 3"])
def test_a_text_lights_up_every_unit_whose_whole_graph_expects_enough_of_it(published, text: str) -> None:
    toy = Study(published.snapshot(), "toy")
    token_ids = longest_tokens(toy, text)
    units = toy.units().filter(status="ok").select("layer", "unit", "sign").rows()
    largest = {key: toy.unit(*key).graph.predict_ids(token_ids).values.max() for key in units}
    found = {each[:3] for each in light_up(toy, token_ids).units}
    assert found == {key for key, value in largest.items() if value >= LEAST_EXPECTED}


def test_of_many_units_those_are_tried_that_fire_on_a_token_or_want_it_before(client, published, monkeypatch) -> None:
    toy = Study(published.snapshot(), "toy")
    page = client.get("/search", params={"text": ":", "study": "toy"}).text
    assert "All 6 units of toy were tried" in page
    monkeypatch.setattr(lighting, "FEW_UNITS", 0)
    lit = light_up(toy, longest_tokens(toy, ":"))
    assert toy.database.frame(lit.sql).select("layer", "unit").rows() == [(3, 6), (0, 1), (5, 7)]  # one fires
    assert (lit.tried, lit.there) == (3, 6)
    page = client.get("/search", params={"text": ":", "study": "toy"}).text
    assert "3 of the 6 units of toy were tried, those whose rules want a token of the text: others may" in page


def test_a_layer_that_is_not_there_is_said(client) -> None:
    for query in ({"q": "except"}, {"text": "except"}, {"context": "try"}):
        response = client.get("/search", params=query | {"study": "toy", "layer": 1})
        assert response.status_code == 404
        assert "has no layer 1: it has layers 0, 3 and 5." in response.text
    everywhere = client.get("/api/search", params={"q": "except", "layer": 1}).json()
    assert everywhere["error"] == "No study has layer 1: they have layers 0, 3 and 5."


def test_a_search_without_tokens_asks_nothing(published) -> None:
    assert find(published.snapshot(), Search()).hits == []
    with pytest.raises(QueryError):
        find(published.snapshot(), Search(context="[", how="regex"))


@pytest.mark.parametrize(("how", "named"), [("regex", "regular expression"), ("prefix", "beginning")])
def test_a_search_that_means_too_many_tokens_is_refused_with_how_many_it_may(client, monkeypatch, how, named) -> None:
    assert asked(client, activating="e", how=how)["hits"]
    monkeypatch.setattr(search, "MOST_USES", 2)
    answer = client.get("/api/search", params={"activating": "e", "how": how})
    assert answer.status_code == 400
    assert f"The {named} 'e' means" in answer.json()["error"]
    assert answer.json()["error"].endswith("can be searched at once: make it narrower.")
    assert asked(client, activating=" except", how="exact")["hits"]


def test_several_tokens_stand_with_their_places_and_what_is_expected_on_the_lowest_class(client, published) -> None:
    [hit] = asked(client, activating="of", context=":", context2="try")["hits"]
    assert hit["tokens"] == [{"text": "␣of", "before": 0}, {"text": ":", "before": 1}, {"text": "try", "before": 3}]
    assert (round(hit["activation"], 2), hit["count"], hit["n_rules"]) == (0.9, 5, 1)
    page = client.get("/search", params={"activating": "of", "context": ":", "context2": "try"}).text
    assert '<details class="more" open>' in page
    nothing = asked(client, activating="of", context="try", context2=":")
    assert nothing["why_nothing"].endswith("wants them in this order there.")


def test_several_tokens_are_found_in_one_rule_of_the_papers_graphs() -> None:
    tokens = [[b"a", b"b", None, b"c"], [b"a", b"c"], [b"a", b"b"]]
    rules = [
        {"rule_id": place, "pattern": "", "tokens": each, "activation": 0.9 - place / 10, "count": place}
        for place, each in enumerate(tokens)
    ]
    words = [
        {"token_id": i, "token": token, "normalised": token, "text": token.decode()}
        for i, token in enumerate((b"a", b"b", b"c"))
    ]
    frames = {"rules": rows("rules", *rules), "vocabulary": rows("vocabulary", *words)}
    with database(paper=frames) as connection:
        query = in_order([Before("a", 0, 0), Before("b"), Before("c")], "exact")
        columns = "forms, offsets, round(activation, 1), count, n_rules"
        found = connection.sql(f"SELECT {columns} FROM ({query})").fetchall()
        assert found == [(["a", "b", "c"], [0, -1, -3], pytest.approx(0.9), 0, 1)]
        for wrong in ([Before("a", 0, 0), Before("c"), Before("b")], [Before("b"), Before("c", 4)]):
            assert connection.sql(in_order(wrong, "exact")).fetchall() == []


def test_what_is_found_can_be_taken_away_as_parquet_and_csv(client) -> None:
    for query in ({"q": "except"}, {"activating": "of", "context": ":", "context2": "try"}, {"text": "try except"}):
        answer = asked(client, **query)
        shown = answer["hits"] or answer["lit"]["units"]
        page = client.get("/search", params=query).text
        [csv, parquet] = [
            each.split('"')[0].replace("&amp;", "&")
            for each in page.split('href="')[1:]
            if each.startswith("/search/units.")
        ]
        frames = [pl.read_csv(client.get(csv).content), pl.read_parquet(client.get(parquet).content)]
        for frame in frames:
            assert frame.select("layer", "unit").rows() == [(each["layer"], each["unit"]) for each in shown]
            assert frame["study"].unique().to_list() == ["toy"]


def test_where_no_unit_is_much_alike_the_page_says_so(client, monkeypatch) -> None:
    assert "No unit is much alike" not in client.get("/study/toy/0/1/similar").text
    monkeypatch.setattr(similar, "MUCH_ALIKE", 1.1)
    answer = client.get("/api/study/toy/0/1/similar").json()
    assert answer["most_alike"] == max(row["rule_cosine"] for row in answer["similar"]) > 0.2
    assert "No unit is much alike: the largest correlation or cosine" in client.get("/study/toy/0/1/similar").text
