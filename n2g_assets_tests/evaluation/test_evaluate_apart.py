"""What must not matter to a unit's evaluation: other units, broken ones among them, BOS, its own test documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from n2g_assets.core.errors import N2GError, RowsError
from n2g_assets.core.registry import PREDICTORS, TEXTS, named, of_study
from n2g_assets.core.units import Unit
from n2g_assets.method.results import BlockResult
from n2g_assets_tests.evaluation.slow_evaluation import mine
from n2g_assets_tests.evaluation.small_layer import (
    A_MAX,
    EVALUATION,
    FITTED,
    TWINS,
    UNITS,
    VOCABULARY,
    SmallLayer,
    activations_of,
    means_of,
    readings,
    small_layer,
)
from n2g_assets_tests.evaluation.toy_harvest import harvest_of
from n2g_assets_tests.method.toy import BOS, conform

TABLES = ("evaluation", "size_curve", "thresholds", "document_scores", "counterexamples", "failures")
PAPER_PREDICTORS = [predictor.name for predictor in of_study(PREDICTORS, "paper", "paper")]
BAD, GOOD = Unit(3, -1), (Unit(3, 1), Unit(8, 1))
EVERY = pl.lit(True)


@pytest.fixture(scope="module")
def layer() -> SmallLayer:
    return small_layer(1)


@pytest.fixture(scope="module")
def result(layer) -> BlockResult:
    return layer.evaluate()


def rows(result: BlockResult, unit: Unit, keep: pl.Expr = EVERY) -> dict[str, pl.DataFrame]:
    """All rows of one unit; of the tables of scores those to be kept, and what belongs to their predictors or texts."""
    found = {name: frame.filter(of(unit)) for name, frame in result.tables.items()}
    found |= {name: found[name].filter(keep) for name in ("evaluation", "document_scores")}
    of_those = {"thresholds": "predictor", "size_curve": "text"}
    return found | {name: found[name].join(found["evaluation"], on=key, how="semi") for name, key in of_those.items()}


def of(unit: Unit) -> pl.Expr:
    return (pl.col("unit") == unit.number) & (pl.col("sign") == unit.sign)


def assert_same_rows(
    one: BlockResult, other: BlockResult, units: Sequence[Unit], keep: pl.Expr = EVERY, tables: Sequence[str] = TABLES
) -> None:
    for unit in units:
        left, right = rows(one, unit, keep), rows(other, unit, keep)
        assert left["evaluation"].height
        for table in tables:
            assert_frame_equal(left[table], right[table])
        assert one.ledger[unit] == other.ledger[unit]


# ------------------------------------------------------------------------------------------ other units
def test_a_units_rows_do_not_depend_on_the_others_but_for_its_partner(layer, result):
    light = pl.col("predictor").is_in(["graph", "graph_shuffled"])
    assert_same_rows(result, layer.but(predictors=["graph", "graph_shuffled"]).evaluate(UNITS[::-1]), UNITS, light)
    tables = layer.material.rows
    frames = {name: frame.filter(of(BAD)) for name, frame in tables.items()}
    alone = layer.with_rows(**frames).evaluate([BAD])
    assert_same_rows(result, alone, [BAD], pl.col("predictor") != "graph_shuffled")
    shuffled = rows(alone, BAD, pl.col("predictor") == "graph_shuffled")["evaluation"]
    assert shuffled["true_positives"].sum() == 0 < shuffled["n_firings"].sum()  # the partner's rows are not there


def test_a_unit_without_a_graph_is_silent_everywhere_and_stays(layer, result):
    silent = Unit(3, 1)
    graph, rules = (
        frame.filter(~of(silent)) for frame in (layer.material.rows["graph_nodes"], layer.material.rows["rules"])
    )
    light = layer.but(predictors=["graph", "always_zero"])
    found = light.with_rows(graph_nodes=graph, rules=rules).evaluate()
    assert {outcome.status for outcome in found.ledger.values()} == {"ok"}
    by_graph, by_zero = (
        rows_of.drop("predictor")
        for name in ("graph", "always_zero")
        for rows_of in [rows(found, silent, pl.col("predictor") == name)["evaluation"]]
    )
    assert_frame_equal(by_graph, by_zero)
    assert by_graph.height == 4
    for row in by_graph.iter_rows(named=True):
        assert (row["true_positives"], row["false_positives"], row["false_negatives"]) == (0, 0, row["n_firings"])
        assert row["n_firings"] > 0
        assert (row["precision"], row["recall"], row["f1"]) == (None, 0.0, 0.0)
    assert set(rows(found, silent)["counterexamples"]["cause"]) == {"token unknown"}
    assert (means_of(found, 3)["evaluated"] == 3).all()
    assert_same_rows(result, found, [Unit(3, -1), Unit(8, 1)], pl.col("predictor").is_in(["graph", "always_zero"]))


def last_context(side: str, change: Callable[[list[float]], list[float]]) -> Callable[[SmallLayer], SmallLayer]:
    """Other activations in the weakest context of one side of the bad unit."""

    def broken(layer: SmallLayer) -> SmallLayer:
        top = layer.material.rows["top_examples"]
        rank = top.filter(of(BAD), split=side)["rank"].max()
        hit = top.select(of(BAD) & (pl.col("rank") == rank)).to_series()
        found = [change(row) if here else row for row, here in zip(top["activations"].to_list(), hit, strict=True)]
        return layer.with_rows(top_examples=top.with_columns(activations=pl.Series(found, dtype=pl.List(pl.Float32))))

    return broken


def a_reading_is_nan(layer: SmallLayer) -> SmallLayer:
    def activations(unit: Unit, token_ids: Sequence[int]) -> np.ndarray:
        values = activations_of(layer.neurons, unit, token_ids)
        values[-1] = np.nan if unit == BAD and len(values) > 8 else values[-1]
        return values

    return layer.but(read=readings(layer.texts, activations))


def rules_lack_their_tokens(layer: SmallLayer) -> SmallLayer:
    tokens = pl.when(of(BAD)).then(pl.lit(None, pl.List(pl.Binary))).otherwise("tokens")
    return layer.with_rows(rules=layer.material.rows["rules"].with_columns(tokens=tokens))


def no_a_max(layer: SmallLayer) -> SmallLayer:
    return layer.but(a_max={unit: value for unit, value in layer.material.a_max.items() if unit != BAD})


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        pytest.param(last_context("test", lambda row: [*row[:-1], float("nan")]), "NaN", id="test NaN"),
        pytest.param(last_context("train", lambda row: [*row[:-1], float("nan")]), "NaN", id="train NaN"),
        pytest.param(last_context("test", lambda row: [*row[:-1], float("inf")]), "infinite", id="test infinite"),
        pytest.param(last_context("test", lambda row: row[:-1]), "", id="too short"),
        pytest.param(a_reading_is_nan, "NaN", id="held-out NaN"),
        pytest.param(rules_lack_their_tokens, "", id="rules"),
        pytest.param(no_a_max, "KeyError", id="no a_max"),
    ],
)
def test_a_unit_with_broken_rows_fails_alone(layer, result, broken, reason):
    found = broken(layer.but(predictors=PAPER_PREDICTORS)).evaluate()
    assert found.ledger[BAD].status == "failed"
    assert found.ledger[BAD].reason.startswith("The unit cannot be evaluated: ")
    assert reason in found.ledger[BAD].reason
    assert all(frame.is_empty() for frame in rows(found, BAD).values())
    assert_same_rows(result, found, GOOD, pl.col("predictor").is_in(PAPER_PREDICTORS))
    assert (means_of(found, 3)["evaluated"] == 2).all()


def test_rows_that_no_unit_can_be_blamed_for_stop_the_layer(layer):
    tokens = pl.when(pl.col("token").is_not_null()).then(pl.lit(b"unheard of"))
    strange = layer.material.rows["graph_nodes"].with_columns(token=tokens)
    with pytest.raises(RowsError, match="another vocabulary"):
        layer.with_rows(graph_nodes=strange).evaluate()
    elsewhere = layer.material.rows["top_examples"].with_columns(context_id=pl.lit("x:0"))
    shared = replace(layer.material.shared, preset="evidence")
    with pytest.raises(RowsError, match="x:0"):
        layer.with_rows(top_examples=elsewhere).but(shared=shared, predictors=["always_zero"]).evaluate()

    def gone(_: Unit) -> np.ndarray:
        raise N2GError("the evidence is gone")

    with pytest.raises(N2GError, match="gone"):
        layer.but(read_harvest=gone).evaluate()


def test_units_without_train_or_test_contexts_are_too_few(layer):
    untested, untrained, missing, good = Unit(3, 1), Unit(3, -1), Unit(5, 1), Unit(8, 1)
    one_sided = (of(untested) & (pl.col("split") == "test")) | (of(untrained) & (pl.col("split") == "train"))
    top = layer.material.rows["top_examples"].filter(~one_sided)
    light = layer.with_rows(top_examples=top).but(predictors=["graph"])
    found = light.evaluate([untested, untrained, missing, good])
    assert [(outcome.status, outcome.reason) for outcome in found.ledger.values()] == [
        ("too_few_contexts", f"{top.filter(of(untested)).height} train and 0 test contexts."),
        ("too_few_contexts", f"0 train and {top.filter(of(untrained)).height} test contexts."),
        ("too_few_contexts", "0 train and 0 test contexts."),
        ("ok", ""),
    ]
    assert found.tables["evaluation"].select("unit", "sign").unique().rows() == [good]
    assert (means_of(found, 4)["evaluated"] == 1).all()


def test_a_layer_in_which_no_unit_can_be_scored_keeps_its_rows_with_a_mean_over_all_of_0(layer):
    expected = [(predictor, text.name) for text in TEXTS for predictor in ("graph", "token_lookup")]
    light = layer.but(predictors=["graph", "token_lookup"])
    untested = light.with_rows(top_examples=layer.material.rows["top_examples"].filter(split="train"))
    for broken, status in ((untested, "too_few_contexts"), (light.but(a_max={}), "failed")):
        found = broken.evaluate()
        assert {outcome.status for outcome in found.ledger.values()} == {status}
        assert found.tables["evaluation"].is_empty()
        frame = means_of(found, len(UNITS), expected)
        assert frame.select("predictor", "text").rows() == expected
        assert frame.select("units", "evaluated", "f1", "f1_all").unique().rows() == [(len(UNITS), 0, None, 0.0)]
    frame = means_of(light.evaluate(), len(UNITS), expected)
    assert set(frame.select("predictor", "text", "evaluated").rows()) == {(*pair, 3) for pair in expected}


# ------------------------------------------------------------------------------------------ what no predictor may see
def test_position_0_never_counts_whatever_a_unit_does_there(layer, result):
    def quiet(values: np.ndarray) -> np.ndarray:
        return np.concatenate([[-values[0] / 3], values[1:]]).astype(np.float32)

    assert layer.activations(Unit(3, 1), [BOS])[0] > A_MAX
    top = layer.material.rows["top_examples"]
    found = pl.Series([quiet(np.array(row)).tolist() for row in top["activations"]], dtype=pl.List(pl.Float32))
    texts = {**layer.texts, "harvest": layer.harvest}
    read = readings(texts, lambda unit, tokens: quiet(activations_of(layer.neurons, unit, tokens)))
    changed = layer.with_rows(top_examples=top.with_columns(activations=found)).but(
        read=read, read_harvest=partial(read, "harvest")
    )
    assert_same_rows(result, changed.evaluate([BAD, Unit(8, 1)]), [BAD, Unit(8, 1)])
    assert result.tables["counterexamples"]["position"].min() == 1


@pytest.mark.parametrize("preset", ["paper", "evidence"])
def test_nothing_about_a_units_test_documents_reaches_what_is_fitted(preset):
    """Other words and activations in them and in their near-duplicates change no row but on ``top``, no threshold."""
    layer, unit = small_layer(1, preset=preset), Unit(3, 1)
    result = layer.evaluate([unit])
    top = mine(layer, "top_examples", unit)
    test_documents = set(top.filter(split="test")["document_id"])
    assert len(test_documents & set(TWINS)) == 1
    changed = changed_documents(layer, test_documents | set(TWINS)).evaluate([unit])
    elsewhere = pl.col("text") != "top"
    assert_same_rows(result, changed, [unit], elsewhere, ["evaluation", "size_curve", "thresholds", "counterexamples"])
    assert not rows(changed, unit, ~elsewhere)["evaluation"].equals(rows(result, unit, ~elsewhere)["evaluation"])

    fitted = [name for name in layer.material.predictors if named(PREDICTORS)[name].role == "baseline"]
    train_document = top.filter(split="train")["document_id"][0]
    changed = changed_documents(layer.but(predictors=fitted), {train_document}).evaluate([unit])
    for name in fitted:
        keep = elsewhere & (pl.col("predictor") == name)
        assert not rows(changed, unit, keep)["evaluation"].equals(rows(result, unit, keep)["evaluation"])


def changed_documents(layer: SmallLayer, documents: set[str]) -> SmallLayer:
    """The layer with the tokens of some harvested documents exchanged and what the units do there turned around."""
    there, old = pl.col("document_id").is_in(documents), layer.material.rows
    token = VOCABULARY.tokens.index(b"cat")

    def with_tokens(frame: pl.DataFrame) -> pl.DataFrame:
        exchanged = [[BOS, *[token] * (len(tokens) - 1)] for tokens in frame["token_ids"]]
        other = pl.Series(exchanged, dtype=pl.List(pl.Int32))
        return frame.with_columns(token_ids=pl.when(there).then(other).otherwise("token_ids"))

    def read_harvest(unit: Unit) -> np.ndarray:
        row = layer.material.read_harvest(unit)
        return np.where(layer.material.shared.harvest().inside(documents), np.float32(A_MAX) - row, row)

    turned = pl.col("activations").list.eval((A_MAX - pl.element()).cast(pl.Float32))
    harvest = harvest_of(with_tokens(layer.harvest), VOCABULARY, layer.cluster_of)
    return layer.with_rows(
        top_examples=with_tokens(old["top_examples"]).with_columns(pl.when(there).then(turned).otherwise("activations"))
    ).but(harvest=lambda: harvest, read_harvest=read_harvest)


# ------------------------------------------------------------------------------------------ what is asked for
def test_what_is_not_at_hand_has_no_rows(layer, result):
    """As the preset ``paper`` asks; and a unit without a partner has no shuffled control."""
    paper = layer.but(predictors=PAPER_PREDICTORS, texts={}, harvest=lambda: pytest.fail("it is read")).evaluate()
    keep = (pl.col("text") == "top") & pl.col("predictor").is_in(PAPER_PREDICTORS)
    assert_frame_equal(paper.tables["evaluation"], result.tables["evaluation"].filter(keep))
    assert paper.tables["counterexamples"].is_empty()
    alone = layer.but(partners={}, texts={}).evaluate([BAD])
    assert set(alone.tables["evaluation"]["predictor"]) == set(FITTED) - {"graph_shuffled"}


def test_an_empty_block_has_the_schema_of_its_tables(layer):
    empty = layer.evaluate([])
    assert empty.ledger == {}
    assert all(conform(table, empty.tables[table]).is_empty() for table in TABLES)


def test_another_seed_draws_other_contexts_and_intervals_but_changes_no_count(layer, result):
    settings = EVALUATION.model_copy(update={"seed": EVALUATION.seed + 1})
    other = layer.but(evaluation=settings, predictors=["graph"]).evaluate([BAD])
    by_graph = pl.col("predictor") == "graph"
    drawn = [rows(one, BAD, by_graph & (pl.col("text") == "quantiles"))["evaluation"] for one in (result, other)]
    assert drawn[0]["n_tokens"].item() != drawn[1]["n_tokens"].item()
    whole = [rows(one, BAD, by_graph & (pl.col("text") != "quantiles"))["evaluation"] for one in (result, other)]
    scores = ("f1", "average_precision", "pearson_r", "explained_variance")
    interval = [f"{name}_{end}" for name in scores for end in ("low", "high")]
    assert_frame_equal(whole[0].drop(interval), whole[1].drop(interval))
    assert not whole[0].select(interval).equals(whole[1].select(interval))
