import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from n2g_assets.core.errors import RowsError
from n2g_assets.core.settings import MethodSettings
from n2g_assets.core.units import Unit
from n2g_assets.method.top_examples import choose_top_examples, split_documents
from n2g_assets_tests.method.toy import conform, hash_neuron

SETTINGS = MethodSettings()
UNITS = [Unit(0, 1), Unit(1, 1), Unit(1, -1)]
NEURONS = {0: hash_neuron(5, 2, (0.1, 0.5, 1, 2, 3)), 1: hash_neuron(6, 2, (-2, -1, 0.5, 1, 3))}


def harvest(n_documents: int = 14, windows: int = 3) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All contexts, and each unit's contexts strongest first, as a harvest that keeps everything would."""
    generator = np.random.default_rng(0)
    contexts = pl.DataFrame([
        {"context_id": f"d{document:02}:{window}", "document_id": f"d{document:02}", "split": "harvest",
         "token_ids": [0, *generator.integers(2, 30, 9).tolist()]}
        for document in range(n_documents) for window in range(windows)
    ]).cast({"token_ids": pl.List(pl.Int32)})  # fmt: skip
    rows = []
    for unit in UNITS:
        strong = []
        for context in contexts.iter_rows(named=True):
            activations = (unit.sign * NEURONS[unit.number](np.array(context["token_ids"]))).astype(np.float32)
            peak = 1 + int(np.argmax(activations[1:]))
            strong.append((-float(activations[peak]), context["context_id"], peak, activations.tolist()))
        for rank, (minus, context_id, peak, activations) in enumerate(sorted(strong)):
            rows.append({"unit": unit.number, "sign": unit.sign, "rank": rank, "context_id": context_id, "peak": peak,
                         "activation": -minus, "activations": activations})  # fmt: skip
    types = {"unit": pl.Int32, "sign": pl.Int8, "activation": pl.Float32, "activations": pl.List(pl.Float32)}
    return pl.DataFrame(rows, infer_schema_length=None).cast(types), contexts


def choose(units=UNITS, a_max=3.0, settings=SETTINGS, harvested=None):
    return choose_top_examples(units, *(harvested or harvest()), dict.fromkeys(units, a_max), 4, settings)


def test_the_twenty_strongest_are_taken_two_a_document_and_split_into_ten_and_ten_without_shared_documents():
    result = choose()
    frame = conform("top_examples", result.tables["top_examples"])
    top_contexts, _ = harvest()
    for unit in UNITS:
        rows = frame.filter(unit=unit.number, sign=unit.sign)
        expected, per_document = [], {}
        for context_id in top_contexts.filter(unit=unit.number, sign=unit.sign).sort("rank")["context_id"]:
            document = context_id.split(":")[0]
            per_document[document] = per_document.get(document, 0) + 1
            if per_document[document] <= 2 and len(expected) < 20:
                expected.append(context_id)
        assert rows["context_id"].to_list() == expected
        assert rows["rank"].to_list() == list(range(20))
        assert rows["split"].to_list().count("train") == 10
        sides = rows.group_by("document_id").agg(pl.col("split").n_unique())
        assert sides["split"].to_list() == [1] * sides.height
        assert result.ledger[unit].status == "ok"


def test_units_alone_and_together_give_the_same_rows():
    together = choose()
    for unit in UNITS:
        alone = choose(units=[unit])
        rows = together.tables["top_examples"].filter(unit=unit.number, sign=unit.sign)
        assert alone.tables["top_examples"].equals(rows)


def test_units_without_a_positive_maximum_are_dead_and_a_maximum_that_is_not_finite_fails():
    for a_max, status in ((0.0, "dead"), (-1.0, "dead"), (float("nan"), "failed"), (float("inf"), "failed")):
        result = choose(a_max=a_max)
        assert {outcome.status for outcome in result.ledger.values()} == {status}
        assert all(outcome.reason for outcome in result.ledger.values())
        assert result.tables["top_examples"].is_empty()


def test_contexts_whose_peak_is_not_positive_are_no_top_examples():
    top_contexts, contexts = harvest(windows=1)
    weak = top_contexts.with_columns(pl.when(pl.col("rank") < 12).then("activation").otherwise(0.0).alias("activation"))
    result = choose(harvested=(weak, contexts))
    assert set(result.tables["top_examples"].group_by("unit", "sign").len()["len"]) == {12}


def test_too_few_contexts_on_a_side_is_recorded_with_both_counts():
    top_contexts, contexts = harvest(n_documents=4, windows=3)
    result = choose(harvested=(top_contexts, contexts))
    assert all(outcome.status == "too_few_contexts" for outcome in result.ledger.values())
    assert "8 contexts" in result.ledger[UNITS[0]].reason
    assert "4 train and 4 test" in result.ledger[UNITS[0]].reason
    assert result.tables["top_examples"].is_empty()
    result = choose(harvested=(top_contexts.clear(), contexts))
    assert result.ledger[UNITS[0]].status == "too_few_contexts"


def test_a_context_that_the_corpus_lacks_is_named():
    top_contexts, contexts = harvest()
    with pytest.raises(RowsError, match="d00:"):
        choose(harvested=(top_contexts, contexts.filter(pl.col("document_id") != "d00")))


@given(st.lists(st.integers(0, 11), max_size=20), st.integers(0, 3))
def test_the_split_is_as_equal_as_whole_documents_allow(documents, seed):
    ids = [str(document) for document in documents]
    sides = split_documents(ids, seed, 4, Unit(7, -1))
    assert len({(one, side) for one, side in zip(ids, sides, strict=True)}) == len(set(ids))
    sizes = [ids.count(one) for one in set(ids)]
    sums = {sum(subset) for n in range(len(sizes) + 1) for subset in itertools.combinations(sizes, n)}
    assert sides.count("train") == min(sums, key=lambda n: (abs(2 * n - len(ids)), -n))
    assert sides == split_documents(ids, seed, 4, Unit(7, -1))


def test_the_split_is_random_in_seed_layer_neuron_and_sign():
    ids = [str(document) for document in range(20)]
    splits = {
        tuple(split_documents(ids, seed, layer, Unit(neuron, sign)))
        for seed in (0, 1) for layer in (0, 1) for neuron in (0, 1) for sign in (1, -1)
    }  # fmt: skip
    assert len(splits) == 16
    in_train = np.mean(
        [[side == "train" for side in split_documents(ids, seed, 0, Unit(0, 1))] for seed in range(300)], 0
    )
    assert 0.35 < in_train.min() < in_train.max() < 0.65
