"""Files of predictions and of words: what they may hold, and what is said of what they may not."""

from __future__ import annotations

import gzip
import json

import numpy as np
import polars as pl
import pytest

from n2g_assets.core.errors import RowsError, SourceError
from n2g_assets.core.units import Unit
from n2g_assets.explanations.predictions import GivenPredictions, by_context, check_predictions, read_predictions
from n2g_assets.explanations.words import read_words
from n2g_assets.method.text import EncodedText

ASKED = {0: [Unit(3, 1), Unit(3, -1)], 7: [Unit(1, 1)]}
CONTEXTS = pl.DataFrame({"context_id": ["a:0", "b:0"], "length": [4, 3]})
ROW = {"layer": 0, "unit": 3, "context_id": "a:0", "position": 1, "value": 0.5}


@pytest.fixture(params=["jsonl", "parquet"])
def write(request, tmp_path):
    def written(*rows):
        path = tmp_path / f"predictions.{request.param}"
        if request.param == "parquet":
            pl.from_dicts(list(rows), infer_schema_length=None).write_parquet(path)
        else:
            path.write_text("\n".join(map(json.dumps, rows)) + "\n")
        check_predictions(path)
        return path

    return written


def read(path, layer=0):
    return read_predictions(path, layer, ASKED, CONTEXTS)


def test_a_context_has_the_values_of_its_rows_and_0_elsewhere(write):
    path = write(ROW, ROW | {"position": 3, "value": 2.0}, ROW | {"layer": 7, "unit": 1}, ROW | {"context_id": "b:0"})
    found = read(path)
    assert list(found) == [Unit(3, 1)]
    ids = {"a:0": np.array([9, 5, 6, 7], np.int32)}
    given = GivenPredictions(by_context(found[Unit(3, 1)], ids, 2.0))
    forms = np.array([9, 4, 9, 5, 6, 7], np.int32)
    text = EncodedText.from_forms(forms, np.array([0, 1, 0, 1, 2, 3], np.int32), 10)
    assert given.predict(text).tolist() == [0, 0, 0, 0.25, 0, 1]
    assert list(read(path, 7)) == [Unit(1, 1)]


def test_signs_are_apart(write):
    path = write(ROW | {"sign": 1}, ROW | {"sign": -1, "value": -1.0})
    assert {unit: rows["value"].to_list() for unit, rows in read(path).items()} == {
        Unit(3, 1): [0.5], Unit(3, -1): [-1.0],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"layer": 5}, "the study has no layer 5: it has 0, 7."),
        (
            {"unit": 4},
            "the study does not ask about unit 4 of layer 0: leave its rows out, or name it in neurons.",
        ),
        ({"context_id": "c:0"}, "the study has no context 'c:0': n2g export-contexts writes those to predict."),
        ({"position": 4}, "the context a:0 has no position 4: its tokens stand at 1 to 3."),
        ({"position": 0}, "the context a:0 has no position 0: its tokens stand at 1 to 3."),
        ({"value": None}, "there is no value: give one."),
        ({"context_id": None}, "there is no context_id: give one."),
        ({"value": float("nan")}, "the value is nan: give a finite number."),
        ({"value": float("-inf")}, "the value is -inf: give a finite number."),
        ({}, "position 1 of context a:0 has a value for unit 3 of layer 0 already: give one."),
    ],
)
def test_a_wrong_row_is_one_sentence_with_file_and_line(write, wrong, said):
    path = write(ROW, ROW | {"position": 2}, ROW | wrong, ROW | {"unit": 99})
    with pytest.raises(RowsError if "finite" not in said else (RowsError, SourceError)) as error:
        read(path)
    assert str(error.value) == f"{path}, line 3: {said}"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"layer": 0,', "this is no JSON ("),
        ('{"layer": ' + "[" * 100_000, "this is no JSON ("),
        ("[1]", "this is no JSON object: write one a line."),
        (json.dumps(ROW | {"unit": 2.5}), "unit is 2.5: give a whole number."),
        (json.dumps(ROW | {"value": "high"}), 'value is "high": give a number.'),
    ],
)
def test_a_line_that_is_no_row_is_named_and_empty_lines_count(tmp_path, line, said):
    path = tmp_path / "p.jsonl"
    path.write_text(f"{json.dumps(ROW)}\n\n{line}\n")
    with pytest.raises(SourceError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}, line 3: {said}")
    path.write_text(f"\n{json.dumps(ROW)}\n\n{json.dumps(ROW | {'unit': 4})}\n")
    with pytest.raises(RowsError, match="line 4: the study does not ask about unit 4 "):
        read(path)


def test_a_file_that_is_not_there_or_of_another_kind_is_refused_before_a_run(tmp_path):
    with pytest.raises(SourceError, match=r"x\.parquet does not exist: correct 'path'\."):
        check_predictions(tmp_path / "x.parquet")
    (tmp_path / "x.csv").write_text("layer")
    with pytest.raises(SourceError, match=r"x\.csv is neither \.parquet nor \.jsonl"):
        check_predictions(tmp_path / "x.csv")
    pl.DataFrame({"layer": [1]}).write_parquet(tmp_path / "y.parquet")
    with pytest.raises(SourceError, match=r"has no column 'context_id': write layer, unit, context_id, position and"):
        check_predictions(tmp_path / "y.parquet")
    (tmp_path / "z.parquet").write_text("no")
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        check_predictions(tmp_path / "z.parquet")


# A line of explanations/{layer}/{neuron}.jsonl, as `dumps` of fast_dataclasses.py writes a NeuronSimulationResults in
# github.com/openai/automated-interpretability at e4aa21b: made by running that code on values of our own.
OPENAI = (
    '{"neuron_id":{"layer_index":5,"neuron_index":131,"dataclass_name":"NeuronId"},"scored_explanations":[{"explanation"'
    ':" words that come after the","scored_simulation":{"scored_sequence_simulations":[{"simulation":{"tokens":[" the",'
    '" cat"],"expected_activations":[0.02,7.5],"activation_scale":"neuron_activations","distribution_values":[[0.0,'
    '1.0],[7.0,8.0]],"distribution_probabilities":[[0.98,0.02],[0.5,0.5]],"uncalibrated_simulation":null,"dataclass_name":'
    '"SequenceSimulation"},"true_activations":[-0.1,3.2],"ev_correlation_score":0.9,"rsquared_score":0.8,'
    '"absolute_dev_explained_score":0.7,"dataclass_name":"ScoredSequenceSimulation"}],"ev_correlation_score":null,'
    '"rsquared_score":0.8,"absolute_dev_explained_score":0.7,"dataclass_name":"ScoredSimulation"},"dataclass_name":'
    '"ScoredExplanation"}],"dataclass_name":"NeuronSimulationResults"}'
)
# A row of explanations/batch-0.jsonl.gz, with the columns that export-data.py of github.com/hijohnnylin/neuronpedia at
# ebb8426 writes, and one as its batch-autointerp.py writes it, with those of db_models/explanation.py.
EXPORTED = {
    "id": "cm1", "modelId": "gpt2-small", "layer": "6", "index": "123", "authorId": "clkht01d40000jv08hvalcvly",
    "description": "likes cats", "embedding": "[0.1,0.2]", "typeName": "oai_token-act-pair",
    "explanationModelName": "gpt-4o-mini", "umap_x": 0.0, "umap_y": 0.0, "umap_cluster": 0,
    "umap_log_feature_sparsity": 0.0,
}  # fmt: skip
GENERATED = {
    "id": "cm2", "modelId": "gpt2-small", "layer": "6", "index": "123", "description": "cats ", "authorId": "",
    "embedding": [0.1, 0.2], "triggeredById": None, "typeName": "np_max-act-logits",
    "explanationModelName": "gemini-2.0-flash", "notes": None, "createdAt": "2025-11-03T10:11:12.131415",
}  # fmt: skip


def said(path):
    return [(each.layer, each.unit, each.text) for each in read_words(path)]


def test_words_are_read_as_openai_published_them_a_folder_a_layer_and_a_file_a_neuron(tmp_path):
    other = OPENAI.replace('"neuron_index":131', '"neuron_index":7')
    two = json.loads(other)
    two["scored_explanations"] += [two["scored_explanations"][0] | {"explanation": text} for text in ("again", "")]
    none = json.loads(other.replace('"layer_index":5', '"layer_index":6')) | {"scored_explanations": []}
    for layer, neuron, line in (("5", "131", OPENAI), ("5", "7", json.dumps(two)), ("6", "7", json.dumps(none))):
        (tmp_path / layer).mkdir(exist_ok=True)
        (tmp_path / layer / f"{neuron}.jsonl").write_text(line)
    assert said(tmp_path) == [
        (5, Unit(131, 1), "words that come after the"),
        (5, Unit(7, 1), "words that come after the"),
        (5, Unit(7, 1), "again"),
    ]


def test_words_are_read_as_neuronpedia_publishes_them_in_batches(tmp_path):
    folder = tmp_path / "6" / "explanations"
    folder.mkdir(parents=True)
    empty = EXPORTED | {"index": "9", "description": ""}
    for number, rows in enumerate(([EXPORTED, empty], [GENERATED])):
        with gzip.open(folder / f"batch-{number}.jsonl.gz", "wt") as file:
            file.write("\n".join(map(json.dumps, rows)) + "\n")
    assert said(tmp_path) == [(6, Unit(123, 1), "likes cats"), (6, Unit(123, 1), "cats")]


def test_words_are_read_from_plain_lines(tmp_path):
    rows = [{"layer": 1, "unit": 2, "text": "x"}, {"layer": 1, "neuron": 3, "sign": -1, "explanation": "y"}]
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    assert said(tmp_path / "a.jsonl") == [(1, Unit(2, 1), "x"), (1, Unit(3, -1), "y")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "this is no JSON"),
        ('{"text": ' + "[" * 100_000, "this is no JSON ("),
        ("3", "this is no JSON object: write one a line."),
        ('{"layer": 1, "text": "x"}', "the unit is null: give a whole number."),
        ('{"layer": 1, "unit": 1}', "there is no explanation: give it as text, description, explanation."),
        (
            '{"layer": "6-res-jb", "index": "1", "description": "x"}',
            'the layer is "6-res-jb": it is a set of an autoencoder\'s latents, which are no neurons of the layer: '
            "leave its lines out.",
        ),
    ],
)
def test_a_line_without_words_is_named(tmp_path, line, said):
    (tmp_path / "a.jsonl").write_text(f"\n{line}")
    with pytest.raises(RowsError) as error:
        list(read_words(tmp_path / "a.jsonl"))
    assert str(error.value).startswith(f"{tmp_path / 'a.jsonl'}, line 2: {said}")


def test_no_file_of_words_is_one_sentence(tmp_path):
    with pytest.raises(SourceError, match=r"There is no file of explanations \(\.jsonl\) at .*: correct it\."):
        list(read_words(tmp_path))
