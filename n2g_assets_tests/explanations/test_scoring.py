"""Explanations of others are scored on the same texts as the graphs, and their words are kept."""

from __future__ import annotations

import json

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from starlette.testclient import TestClient

from n2g_assets.core.home import Home
from n2g_assets.explore.app import build_app
from n2g_assets.reading.database import Database
from n2g_assets.reading.study import open_study
from n2g_assets.report.text import count_text
from n2g_assets.storage.warehouse import publish
from n2g_assets_tests.assets.studies import changed, reused, rows_of, run_stage, session_of

LAYER = 1
KEY = ["unit", "sign", "text"]

FUNCTION = """
def predict(unit, tokens, factor):
    assert unit.layer == 1 and unit.texts == ["likes it"] * (unit.unit == FIRST), unit
    return [factor * len(token) for token in tokens]
"""


def test_what_a_file_and_a_function_predict_is_scored_beside_the_graph(finished, tmp_path):
    home = finished.copy_home(tmp_path)
    session = session_of(finished.study, home)
    units = session.units(LAYER)
    first = units[0]
    # a file that knows the activations of its first unit on the held-out text, on a scale of 10
    read, rows = session.cached_texts(LAYER), []
    for name, contexts in session.held_out_contexts.items():
        values = read[name].of_unit(LAYER, first) / session.a_max(LAYER, [first])[first]
        start = 0
        for context_id, token_ids in contexts.select("context_id", "token_ids").iter_rows():
            for position in range(1, len(token_ids)):
                rows.append((LAYER, first.number, context_id, position, 10.0 * float(values[start + position])))
            start += len(token_ids)
    names = ["layer", "unit", "context_id", "position", "value"]
    pl.DataFrame(rows, schema=names, orient="row").write_parquet(tmp_path / "oracle.parquet")
    words = [{"layer": LAYER, "neuron": first.number, "description": "likes it"}, {"layer": 7, "unit": 3, "text": "x"}]
    (tmp_path / "words.jsonl").write_text("\n".join(map(json.dumps, words)))
    (finished.study.folder / "lengths.py").write_text(FUNCTION.replace("FIRST", str(first.number)))
    words_path = str(tmp_path / "words.jsonl")
    study = changed(finished.study, explanations=[
        {"name": "oracle", "source": "predictions", "path": str(tmp_path / "oracle.parquet"), "scale": 10},
        {"name": "lengths", "source": "python", "function": "lengths:predict", "arguments": {"factor": 2},
         "texts": words_path, "scale": 20},
        {"name": "published", "source": "texts", "path": words_path},
    ])  # fmt: skip
    session = session_of(study, home)
    before = rows_of(home, "evaluation", layer=LAYER)
    assert not any(reused(run_stage(session, "evaluation", [LAYER])).values())
    after = rows_of(home, "evaluation", layer=LAYER)
    ours = after.filter(~pl.col("predictor").is_in(["oracle", "lengths"]))
    assert_frame_equal(ours, before, check_row_order=False)

    oracle = after.filter(predictor="oracle")
    assert set(oracle["unit"]) == {first.number}, "a unit that the file does not speak of has no score"
    whole = oracle.filter(pl.col("text").is_in(["random", "out_of_domain", "quantiles"]))
    assert whole["pearson_r"].to_list() == pytest.approx([1.0] * whole.height)
    assert whole["f1"].drop_nulls().to_list() == [1.0] * whole["f1"].drop_nulls().len()
    assert oracle.filter(text="top")["pearson_r"].item() is None, "its test contexts are not in the file: predicted 0"
    graph = after.filter(predictor="graph")
    lengths = after.filter(predictor="lengths")
    columns = [*KEY, "n_tokens", "n_firings", "n_documents"]
    assert_frame_equal(lengths.select(columns), graph.select(columns), check_row_order=False)
    [row] = lengths.filter(unit=first.number, text="random").to_dicts()
    contexts = session.held_out_contexts["random"]["token_ids"].to_list()
    guess = [len(session.vocabulary.tokens[token].decode("utf-8", "replace")) for ids in contexts for token in ids[1:]]
    actual = read["random"].of_unit(LAYER, first)[[place > 0 for ids in contexts for place in range(len(ids))]]
    assert row["pearson_r"] == pytest.approx(pl.select(pl.corr(pl.Series(guess), pl.Series(actual))).item(), abs=1e-5)

    kept = rows_of(home, "explanations", layer=LAYER).select("unit", "explanation", "source", "text", "n_given")
    assert kept.sort("explanation").rows() == [
        (first.number, "lengths", "python", "likes it", None),
        (first.number, "oracle", "predictions", None, len(rows)),
        (first.number, "published", "texts", "likes it", None),
    ]
    means = rows_of(home, "layer_scores", layer=LAYER)
    assert set(means.filter(predictor="oracle")["evaluated"]) == {1}
    assert all(reused(run_stage(session_of(study, home), "evaluation", [LAYER])).values())

    publish(session.store)
    with TestClient(build_app(Database(home / "n2g.duckdb"))) as client:
        answer = client.get(f"/api/study/tiny/{LAYER}/{first.number}").json()
        page = client.get(f"/study/tiny/{LAYER}/{first.number}").text
    assert {row["predictor"] for row in open_study("tiny", Home(home)).scores().to_dicts()} >= {"oracle", "lengths"}
    assert {(row["label"], row["role"]) for row in answer["scores"]} >= {("oracle", "explanation")}
    assert [row["explanation"] for row in answer["explanations"]] == ["lengths", "oracle", "published"]
    assert "<q>likes it</q>" in page
    assert f"predicts {count_text(len(rows))} of " in page
