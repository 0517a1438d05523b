"""What Neuronpedia imports: every row fits the schema that it publishes, and says what the database says."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from n2g_assets import cli
from n2g_assets.core.errors import SettingsError, StorageError
from n2g_assets.core.registry import SHOWN_RULES, USED_FROM
from n2g_assets.reading.neuronpedia import CREATOR, EXPLANATION, SCORES, export_neuronpedia
from n2g_assets.reading.study import Study, Unit
from n2g_assets.report.text import human_bytes
from n2g_assets_tests.assets.studies import no_progress

Row = dict[str, Any]

# apps/webapp/prisma/schema.prisma of github.com/hijohnnylin/neuronpedia at ebb8426 (August 2026): of each table that an
# import fills, the columns by type. ! is required and has no default in the database (ids are made by Prisma alone,
# which the import of batches goes round), ? may be null, [] is a list.
SCHEMA = {
    "SourceRelease": "name:String! visibility:Visibility isNewUi:Boolean featured:Boolean description:String! "
    "descriptionShort:String? urls:String[] creatorEmail:String? creatorName:String! creatorNameShort:String? "
    "creatorId:String! defaultSourceSetName:String? defaultSourceId:String? defaultUmapSourceIds:String[]",
    "Model": "id:String! displayNameShort:String displayName:String creatorId:String! tlensId:String? "
    "openRouterId:String? dimension:Int? thinking:Boolean visibility:Visibility defaultSourceSetName:String? "
    "defaultSourceId:String? inferenceEnabled:Boolean instruct:Boolean layers:Int! neuronsPerLayer:Int! owner:String! "
    "website:String?",
    "SourceSet": "modelId:String! name:String! hasDashboards:Boolean allowInferenceSearch:Boolean "
    "visibility:Visibility description:String! type:String creatorName:String! urls:String[] creatorEmail:String? "
    "creatorId:String! releaseName:String? hasGraphs:Boolean graphEnabled:Boolean defaultRange:Int "
    "defaultShowBreaks:Boolean showDfa:Boolean showCorrelated:Boolean",
    "Source": "id:String! modelId:String! hasDashboards:Boolean inferenceEnabled:Boolean saelensRelease:String? "
    "hfRepoId:String? visibility:Visibility setName:String! creatorId:String! hasUmap:Boolean num_prompts:Int? "
    "num_tokens_in_prompt:Int? dataset:String? notes:String?",
    "Neuron": "modelId:String! layer:String! index:String! sourceSetName:String? creatorId:String? maxActApprox:Float? "
    "hasVector:Boolean vector:Float[] vectorLabel:String? hookName:String? neg_str:String[] neg_values:Float[] "
    "pos_str:String[] pos_values:Float[] frac_nonzero:Float freq_hist_data_bar_heights:Float[] "
    "freq_hist_data_bar_values:Float[]",
    "Activation": "id:String! tokens:String[]! dataIndex:String? index:String! layer:String! modelId:String! "
    "dataSource:String? maxValue:Float! maxValueTokenIndex:Int! minValue:Float! values:Float[]! dfaValues:Float[] "
    "dfaTargetIndex:Int? dfaMaxValue:Float? creatorId:String! binMin:Float? binMax:Float? binContains:Float?",
    "Explanation": "id:String! modelId:String! layer:String! index:String! description:String! authorId:String! "
    "triggeredByUserId:String? notes:String? scoreV1:Float scoreV2:Float? typeName:String? "
    "explanationModelName:String?",
    "ExplanationScore": "id:String! initiatedByUserId:String! value:Float! explanationId:String! "
    "explanationScoreTypeName:String! explanationScoreModelName:String! jsonDetails:String",
    "ExplanationType": "name:String! displayName:String! description:String! featured:Boolean isAttention:Boolean "
    "settings:String? url:String? creatorName:String! creatorId:String!",
    "ExplanationModelType": "name:String! displayName:String! description:String! featured:Boolean url:String? "
    "creatorName:String!",
    "ExplanationScoreType": "name:String! displayName:String! description:String! featured:Boolean "
    "scoreDescription:String? scorerModel:String? url:String? creatorName:String! creatorId:String!",
    "ExplanationScoreModel": "name:String! displayName:String! description:String! featured:Boolean url:String? "
    "creatorName:String!",
}
KINDS = {"String": str, "Int": int, "Float": (int, float), "Boolean": bool}
VISIBILITY = {"PUBLIC", "UNLISTED", "PRIVATE"}
FILES = {
    "release.jsonl": "SourceRelease", "model.jsonl": "Model", "sourceset.jsonl": "SourceSet", "source.jsonl": "Source",
    "explanation_type.jsonl": "ExplanationType", "explanation_model_type.jsonl": "ExplanationModelType",
    "explanation_score_type.jsonl": "ExplanationScoreType", "explanation_score_model.jsonl": "ExplanationScoreModel",
}  # fmt: skip
FOLDERS = {
    "features": "Neuron", "activations": "Activation", "explanations": "Explanation", "scores": "ExplanationScore",
}  # fmt: skip


def fits(kind: str, value: Any) -> bool:
    """Whether a column of a kind takes a value."""
    if kind.endswith("[]"):
        return isinstance(value, list) and all(fits(kind[:-2], each) for each in value)
    if kind.endswith("?"):
        return value is None or fits(kind[:-1], value)
    if kind == "Visibility":
        return value in VISIBILITY
    return kind in KINDS and isinstance(value, KINDS[kind]) and isinstance(value, bool) == (kind == "Boolean")


def wrong(table: str, row: Row) -> list[str]:
    """The columns that the schema requires or does not take."""
    columns = dict(column.split(":") for column in SCHEMA[table].split())
    missing = [name for name, kind in columns.items() if kind.endswith("!") and name not in row]
    return missing + [name for name, value in row.items() if not fits(columns.get(name, "none").rstrip("!"), value)]


def test_the_check_finds_what_the_schema_would_refuse():
    good = {"id": "a", "modelId": "m", "layer": "0", "index": "1", "description": "x", "authorId": "u"}
    assert wrong("Explanation", good) == []
    assert wrong("Explanation", good | {"index": 1}) == ["index"]
    assert wrong("Explanation", {name: good[name] for name in good if name != "authorId"}) == ["authorId"]
    assert wrong("Explanation", good | {"text": "x"}) == ["text"]
    assert wrong("Explanation", good | {"notes": None}) == []
    assert wrong("Explanation", good | {"description": None}) == ["description"]
    assert wrong("SourceRelease", {"visibility": "OPEN"})[-1] == "visibility"
    assert wrong("Neuron", {"pos_str": [1], "frac_nonzero": 0})[-1] == "pos_str"


@pytest.fixture
def written(study: Study, tmp_path: Path) -> Path:
    export_neuronpedia(study, tmp_path / "out", no_progress)
    return tmp_path / "out"


def tables(folder: Path) -> Iterator[tuple[str, Path, list[Row]]]:
    """Each file with its table and its rows, read as the import reads them."""
    for file in sorted(folder.rglob("*.jsonl*")):
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        rows = [json.loads(line) for line in content.decode().split("\n") if line]
        if file.name != "eval_type.jsonl":
            yield FILES.get(file.name) or FOLDERS[file.parent.name], file, rows
        else:
            assert rows == []


def read(folder: Path, table: str) -> list[Row]:
    return [row for name, _, rows in tables(folder) for row in rows if name == table]


def test_every_row_fits_the_schema_and_every_line_of_a_file_has_the_same_names(written):
    seen = set()
    for table, file, rows in tables(written):
        seen.add(table)
        assert rows, file
        assert {tuple(row) for row in rows} == {tuple(rows[0])}, file
        assert [(file.name, found) for row in rows if (found := wrong(table, row))] == []
        if file.suffix == ".gz":
            assert re.fullmatch(r"batch-\d+\.jsonl\.gz", file.name), "as the import sorts them"
    assert seen == set(SCHEMA)


def test_what_rows_refer_to_is_written_before_them(written):
    [model] = {row["id"] for row in read(written, "Model")}
    assert re.fullmatch(r"[a-z0-9_-]+", model)
    sources = {row["id"]: row["setName"] for row in read(written, "Source")}
    sets, releases = read(written, "SourceSet"), read(written, "SourceRelease")
    assert {row["name"] for row in sets} == set(sources.values())
    assert {row["releaseName"] for row in sets} == {row["name"] for row in releases}
    for source, name in sources.items():  # as getSourceSetNameFromSource of lib/utils/source.ts reads it
        assert source.partition("-")[2].partition("__")[0] == name
        assert source.partition("-")[0].isdecimal()
        assert (written / model / source).is_dir(), "where the import looks for it"
    neurons = {(row["layer"], row["index"]) for row in read(written, "Neuron")}
    assert {layer for layer, _ in neurons} == set(sources)
    for table in ("Activation", "Explanation"):
        rows = read(written, table)
        assert {(row["layer"], row["index"]) for row in rows} <= neurons
        assert len({row["id"] for row in rows}) == len(rows)
    explanations = {row["id"] for row in read(written, "Explanation")}
    assert {row["explanationId"] for row in read(written, "ExplanationScore")} <= explanations
    kinds = {table: {row["name"] for row in read(written, table)} for table in SCHEMA if table.startswith("Explanation")
             and table not in ("Explanation", "ExplanationScore")}  # fmt: skip
    assert kinds == {
        "ExplanationType": {EXPLANATION}, "ExplanationModelType": {EXPLANATION}, "ExplanationScoreModel": {EXPLANATION},
        "ExplanationScoreType": set(SCORES),
    }  # fmt: skip
    assert {row["explanationScoreTypeName"] for row in read(written, "ExplanationScore")} <= set(SCORES)


def expected_most(unit: Unit) -> pl.Series:
    """Of each rule of a unit, what it expects of the token of its class of which it expects most."""
    rules, graph = unit.rules(SHOWN_RULES), unit.graph.of_classes
    if graph is None:
        return rules["activation"]
    found = []
    for end in rules["end_node_id"]:
        added: dict[int, float] = {}
        for node in reversed([node for node in graph.path(end) if graph.offsets[node] == 0]):
            if graph.all_but[node]:
                without = set(graph.tokens[graph.members(node - 1)].tolist())
                added = {token: more for token, more in added.items() if token not in without}
            else:
                members = graph.members(node)
                columns = (column[members].tolist() for column in (graph.tokens, graph.counts, graph.deviations))
                added = {
                    token: added.get(token, 0.0) + more for token, count, more in zip(*columns, strict=True) if count
                }
        found.append(float(graph.bases[end]) + max(added.values(), default=0.0))
    return pl.Series(found)


def test_units_contexts_rules_and_scores_are_those_of_the_database(study, written):
    neurons = read(written, "Neuron")
    assert len(neurons) == study.frame("FROM unit_status WHERE study = $study").height
    units = {f"{unit['layer']}-n2g-tiny": unit["layer"] for unit in study.units().iter_rows(named=True)}
    contexts, words = read(written, "Activation"), read(written, "Explanation")
    for row in neurons:
        unit = study.unit(units[row["layer"]], int(row["index"]))
        assert row["maxActApprox"] == pytest.approx(unit.a_max, rel=1e-4)
        raised = unit.output_tokens().filter(direction="raised")
        assert row["pos_values"] == pytest.approx(raised["effect"].to_list(), rel=1e-4)
        assert len(row["pos_str"]) == raised.height
        own = [each for each in contexts if (each["layer"], each["index"]) == (row["layer"], row["index"])]
        for example, each in zip(unit.top_contexts(), own, strict=True):
            assert example.activations is not None
            assert each["values"] == pytest.approx((example.activations[1:] * unit.a_max).tolist(), rel=1e-4, abs=1e-6)
            assert len(each["tokens"]) == len(each["values"])
            assert each["values"][each["maxValueTokenIndex"]] == each["maxValue"] == max(each["values"])
            assert each["minValue"] == min(each["values"])
        rules = unit.rules(SHOWN_RULES).with_columns(reach=expected_most(unit)).sort("reach", descending=True)
        rules = rules.filter((pl.col("reach") >= USED_FROM) | (pl.int_range(pl.len()) == 0))
        said = [each for each in words if (each["layer"], each["index"]) == (row["layer"], row["index"])]
        assert [each["description"] for each in said] == (
            ["; ".join(f"{row['pattern']} ({row['reach']:.2f})" for row in rules.to_dicts())] if len(rules) else []
        )
        for explanation in said:
            scores = {
                score["explanationScoreTypeName"]: score["value"]
                for score in read(written, "ExplanationScore")
                if score["explanationId"] == explanation["id"]
            }
            expected = (
                unit.sizes().filter(n_rules=SHOWN_RULES)
                if study.has_classes
                else unit.scores().filter(text="random", predictor="graph")
            ).row(0, named=True)
            assert scores == {
                name: pytest.approx(expected[column], rel=1e-4)
                for name, (column, _) in SCORES.items()
                if expected[column] is not None
            }


def test_the_command_writes_the_same_files_each_time_and_says_how_much(classes, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("N2G_HOME", str(classes.home.root))
    out = tmp_path / "out"
    command = ["export-neuronpedia", str(out), "--study", "tiny", "--model-id", "gpt2-small"]
    assert cli.main(command) == 0
    files = {file.relative_to(out): file.read_bytes() for file in out.rglob("*.jsonl*")}
    size = human_bytes(sum(map(len, files.values())))
    assert capsys.readouterr().out.startswith(f"{size} in {out}: ")
    assert {row["modelId"] for row in read(out, "Neuron")} == {"gpt2-small"}
    assert {row["creatorId"] for row in read(out, "Activation")} == {CREATOR}
    assert cli.main(command) == 1
    assert capsys.readouterr().err == f"{out} is not empty: name another folder, or add --force to replace it.\n"
    assert cli.main([*command, "--force"]) == 0
    assert {file.relative_to(out): file.read_bytes() for file in out.rglob("*.jsonl*")} == files
    assert cli.main(["export-neuronpedia", str(tmp_path / "other"), "--study", "none"]) == 1
    assert capsys.readouterr().err == "There is no study 'none' in the database: choose one of tiny.\n"


def test_a_name_that_neuronpedia_refuses_and_an_ended_export_leave_nothing(classes, tmp_path):
    with pytest.raises(SettingsError, match=r"Neuronpedia allows no model 'EleutherAI/pythia': name it with small"):
        export_neuronpedia(classes, tmp_path / "out", no_progress, model="EleutherAI/pythia")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match=r"file is a file: name a folder\.$"):
        export_neuronpedia(classes, tmp_path / "file", no_progress)

    def ended(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_neuronpedia(classes, tmp_path / "out", ended)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
