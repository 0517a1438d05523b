"""The stage ``reach`` on the finished run: the model is asked again, one window at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from n2g_assets.assets.session import Session
from n2g_assets.assets.study import Study
from n2g_assets.core.home import Home
from n2g_assets.evaluation.reach import LAST_TOKENS
from n2g_assets.storage.slices import SliceKey, SliceStore
from n2g_assets_tests.assets.studies import HARVEST, rows_of, run_stage, session_of
from n2g_assets_tests.recomputation import activations

LAYER = 1


def with_positions(study: Study, positions: int) -> Study:
    evaluation = study.settings.evaluation.model_copy(update={"reach_positions": positions})
    return replace(study, settings=study.settings.model_copy(update={"evaluation": evaluation}))


def window_tokens_run(messages: list[str]) -> list[int]:
    said = [message for message in messages if "tokens of windows went through the model" in message]
    return [int(message.split()[0].replace(",", "")) for message in said]


def asked_again(session: Session, text: str, neuron: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """A neuron's activation at each drawn position: in its whole context, and shown BOS and its last k tokens."""
    model, corpus = session.subject(), session.text_corpora[text]
    found = []
    for place in session.windows.places[text]:
        context = int(np.searchsorted(corpus.starts, place, side="right")) - 1
        tokens = corpus.tokens(context).tolist()
        position = place - corpus.starts[context]
        window = [tokens[0], *tokens[1 : position + 1][-k:]]
        found.append(
            (activations(model, LAYER, neuron, tokens)[position], activations(model, LAYER, neuron, window)[-1])
        )
    actual, shown = np.array(found).T
    return actual, shown


def test_shown_the_whole_prefix_the_model_does_what_it_does_in_the_text(finished):
    assert max(LAST_TOKENS) >= HARVEST["context_length"]
    rows = rows_of(finished.home, "reach")
    assert rows.height == 3 * 4 * 2 * len(LAST_TOKENS)
    whole = rows.filter(last_tokens=max(LAST_TOKENS))
    assert whole["pearson_r"].min() > 1 - 1e-6
    assert whole["explained_variance"].min() > 1 - 1e-6
    assert rows.filter(last_tokens=1)["pearson_r"].mean() < 0.95


def test_stored_scores_are_those_of_the_model_asked_one_window_at_a_time(finished):
    session = finished.session()
    (unit, *_) = session.units(LAYER)
    a_max = session.a_max(LAYER, [unit])[unit]
    for k in (1, 3):
        actual, shown = asked_again(session, "random", unit.number, k)
        ends = session.windows.ends["random"][LAST_TOKENS.index(k)]
        kept = session.cached_windows(LAYER).rows(LAYER, [unit.number])[0][ends]
        assert kept == pytest.approx(shown, abs=1e-4 * a_max)
        row = rows_of(finished.home, "reach", layer=LAYER, **unit.key(), text="random", last_tokens=k).row(
            0, named=True
        )
        assert row["n_positions"] == len(actual) == finished.study.settings.evaluation.reach_positions
        assert row["pearson_r"] == pytest.approx(np.corrcoef(actual, shown)[0, 1], abs=1e-4)
        assert row["explained_variance"] == pytest.approx(1 - np.var(actual - shown) / np.var(actual), abs=1e-3)


def test_the_overview_shows_the_mean_correlation_by_number_of_last_tokens(finished):
    metadata = finished.metadata["reach"]["01"]
    means = (
        rows_of(finished.home, "reach", layer=LAYER, text="random").group_by("last_tokens").agg(pl.mean("pearson_r"))
    )
    assert {k: metadata[f"mean r, random, last {k}"] for k in LAST_TOKENS} == {
        k: round(mean, 4) for k, mean in means.iter_rows()
    }


def test_more_positions_cost_a_pass_through_their_windows_alone(finished, tmp_path, caplog):
    home, before = finished.copy_home(tmp_path), finished.session().windows
    session = session_of(with_positions(finished.study, 60), home)
    with caplog.at_level("INFO"):
        run_stage(session, "reach", [LAYER])
    new = set(session.windows.corpus.context_ids) - set(before.corpus.context_ids)
    lengths = dict(zip(session.windows.corpus.context_ids, session.windows.corpus.lengths.tolist(), strict=True))
    assert window_tokens_run(caplog.messages) == [sum(lengths[each] for each in new)]
    assert set(before.corpus.context_ids) < set(session.windows.corpus.context_ids)
    assert set(rows_of(home, "reach", layer=LAYER)["n_positions"]) == {60}


def test_without_positions_the_table_is_empty_and_the_model_is_not_asked(finished, tmp_path, caplog):
    home = finished.copy_home(tmp_path)
    session = session_of(with_positions(finished.study, 0), home)
    assert list(session.scored_corpora) == list(session.text_corpora)
    with caplog.at_level("INFO"):
        report = run_stage(session, "reach", [LAYER])[LAYER]
    assert window_tokens_run(caplog.messages) == []
    assert (report.rows["reach"], report.ledger) == (0, {"ok": 4})


def test_a_dead_unit_is_carried_and_the_others_keep_their_rows(finished, tmp_path):
    home = finished.copy_home(tmp_path)
    session = session_of(finished.study, home)
    dead, *others = session.units(LAYER)
    bury(home, dead)
    report = run_stage(session, "reach", [LAYER])[LAYER]
    assert (report.computed, report.kept, report.carried) == (0, 3, 1)
    rows, before = (rows_of(place, "reach", layer=LAYER) for place in (home, finished.home))
    assert rows.equals(before.filter(pl.col("unit").is_in([unit.number for unit in others])))
    ledger = rows_of(home, "ledger", layer=LAYER, stage="reach", **dead.key())
    assert ledger.select("status", "reason").rows() == [("dead", "never positive")]


def bury(home: Path, unit) -> None:
    """The ledger of the activation cache calls a unit dead."""
    store, key = SliceStore(Home(home)), SliceKey("ledger", "tiny", LAYER, "activation_cache")
    own = (pl.col("unit") == unit.number) & (pl.col("sign") == unit.sign)
    frame = store.read(key).with_columns(
        status=pl.when(own).then(pl.lit("dead")).otherwise("status"),
        reason=pl.when(own).then(pl.lit("never positive")).otherwise("reason"),
    )
    store.write(key, frame, input_hash="in", code_version="1")
