"""The view ``unit_kinds``: kinds of units of one model on one text, against means computed by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import stdev
from typing import Any

import duckdb
import pytest

from n2g_assets_tests.report.published import Frames, database
from n2g_assets_tests.storage.helpers import rows

HERE = {"layer": 7, "text": "random"}


def study(
    r: Sequence[float | None], *, encoder: str | None = None, hook: str = "mlp.hook_post", model: str = "a",
    control_of: str | None = None, dead: int = 0, bos: int = 0, document: str = "d", **settings: Any,
) -> Frames:  # fmt: skip
    """A study whose units have this r, where None is a unit that never fires, and so many dead ones behind them."""
    scores = [
        {"unit": unit, "pearson_r": value, "f1": value, "n_tokens": 100, "n_firings": 0 if value is None else 8,
         "n_firing_documents": 0 if value is None else 5 - unit}
        for unit, value in enumerate(r)
    ]  # fmt: skip
    units = range(len(r) + dead)
    status = [{"unit": unit, "status": "ok" if unit < len(r) else "dead"} for unit in units]
    settings = {"harvest": {"batch_tokens": 4096}, "method": {"units_per_block": 32}} | settings
    found = {
        "studies": rows("studies", {"settings": json.dumps(settings), "control_of": control_of}),
        "subject_models": rows("subject_models", {"file_sha256": model, "hook": hook, "d_mlp": 1536, "bos_id": bos}),
        "contexts": rows("contexts", *({"context_id": f"{document}:{number}"} for number in range(3))),
        "ledger": rows("ledger", *status, layer=7, stage="activation_cache"),
        "neuron_stats": rows("neuron_stats", *({"unit": unit, "share_positive": 0.25} for unit in units), layer=7),
        "evaluation": rows(
            "evaluation", *(score | {"predictor": "graph"} for score in scores),
            *({"unit": unit, "predictor": "token_lookup", "pearson_r": 0.125} for unit, _ in enumerate(r)), **HERE,
        ),
        "size_curve": rows(
            "size_curve", *({"unit": 0, "n_rules": n, "pearson_r": n / 64} for n in (3, 5, 30, 100)), **HERE
        ),
        "reach": rows("reach", *({"unit": 0, "last_tokens": k, "pearson_r": k / 16} for k in (1, 5, 8)), **HERE),
    }  # fmt: skip
    found["layer_scores"] = rows("layer_scores", {"predictor": "graph"}, **HERE)
    if encoder is not None:
        facts = {"architecture": encoder, "n_latents": 4608, "active": 32.0, "unexplained": 0.5}
        found["encoders"] = rows("encoders", facts, layer=7)
    return found


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    return database(
        neurons=study([0.75, 0.25, 0.5], dead=2),
        latents=study([0.5, None], encoder="topk", hook="mlp.hook_out"),
        transcoder=study([0.5], encoder="topk_transcoder", hook="mlp.hook_in"),
        probe=study([0.5], encoder="directions", hook="hook_resid_post"),
        gates=study([0.5], hook="mlp.hook_pre"),
        control=study([0.25], model="a-reinitialised", control_of="neurons"),
        other_model=study([0.5], model="b"),
        quick=study([0.5], harvest={"batch_tokens": 1, "device": "cuda"}, method={"units_per_block": 1}),
        other_corpus=study([0.5], document="e"),
        other_bos=study([0.5], bos=1),
        other_method=study([0.5], method={"preset": "paper"}),
        other_harvest=study([0.5], harvest={"max_tokens": 5}),
        other_text=study([0.5], evaluation={"random_tokens": 5}),
    )


def ask(connection: duckdb.DuckDBPyConnection, columns: str, study: str) -> tuple[Any, ...]:
    (found,) = connection.execute(f"SELECT {columns} FROM unit_kinds WHERE study = '{study}'").fetchall()
    return found


def test_what_is_of_the_same_model_text_and_method_is_comparable_and_a_control_with_it(connection) -> None:
    beside = "SELECT study, kind, control FROM unit_kinds WHERE comparable = $comparable"
    (comparable,) = ask(connection, "comparable", "neurons")
    assert connection.execute(beside, {"comparable": comparable}).fetchall() == [
        ("latents", "autoencoder latent", False),
        ("probe", "direction", False),
        ("gates", "mlp.hook_pre", False),
        ("neurons", "neuron", False),
        ("quick", "neuron", False),
        ("transcoder", "transcoder latent", False),
        ("control", "neuron", True),
    ]
    assert connection.execute("SELECT count(DISTINCT comparable) FROM unit_kinds").fetchall() == [(7,)]


def test_means_have_an_interval_over_units(connection) -> None:
    margin = 1.96 * stdev([0.75, 0.25, 0.5]) / 3**0.5
    for score in ("pearson_r", "f1"):
        assert ask(connection, f"{score}, {score}_low, {score}_high", "neurons") == pytest.approx(
            (0.5, 0.5 - margin, 0.5 + margin)
        )
    assert ask(connection, "pearson_r, pearson_r_low", "gates") == (0.5, None)  # of one unit


def test_dead_silent_and_rare_units_are_counted(connection) -> None:
    counts = "units, dead, scored, silent, rare, of_layer, share_positive, firing_share"
    assert ask(connection, counts, "neurons") == (5, 2, 3, 0, 2, 1536, 0.25, 0.08)
    assert ask(connection, counts, "latents") == (2, 0, 2, 1, 0, 4608, 0.25, 0.04)
    assert ask(connection, "pearson_r, active, unexplained", "latents") == (0.5, 32.0, 0.5)
    assert ask(connection, "active, unexplained", "neurons") == (None, None)


def test_units_of_which_none_could_be_scored_are_counted_too() -> None:
    nothing = study([], dead=3)
    nothing["evaluation"] = nothing["evaluation"].clear()
    found = ask(database(nothing=nothing), "units, dead, scored, silent, rare, pearson_r", "nothing")
    assert found == (3, 3, 0, 0, 0, None)


def test_where_the_encoder_is_not_known_a_unit_is_called_no_value_of_the_hook() -> None:
    found = ask(database(old=study([0.5], units={"encoder": {}}, hook="mlp.hook_out")), "kind, of_layer", "old")
    assert found == ("latent", None)


def test_sizes_reach_and_the_lookup_stand_beside_the_graph(connection) -> None:
    found = ask(connection, "pearson_r_5, pearson_r_30, reach_5, token_lookup_pearson_r", "neurons")
    assert found == (5 / 64, 30 / 64, 5 / 16, 0.125)


def test_a_study_s_rows_stand_beside_it_with_their_difference(connection) -> None:
    differences = "study, control, pearson_r_more, pearson_r_more_low, f1_more"
    found = connection.execute(f"SELECT {differences} FROM kinds_beside('neurons')").fetchall()
    assert found == [
        ("latents", False, 0.0, None, 0.0),
        ("probe", False, 0.0, None, 0.0),
        ("gates", False, 0.0, None, 0.0),
        ("quick", False, 0.0, None, 0.0),
        ("transcoder", False, 0.0, None, 0.0),
        ("control", True, -0.25, None, -0.25),
    ]


def test_the_interval_of_a_difference_is_that_of_independent_means() -> None:
    pair = database(neurons=study([0.75, 0.25, 0.5]), gates=study([0.5, 0.75], hook="mlp.hook_pre"))
    margin = 1.96 * (stdev([0.75, 0.25, 0.5]) ** 2 / 3 + stdev([0.5, 0.75]) ** 2 / 2) ** 0.5
    columns = "pearson_r_more_low, pearson_r_more_high, f1_more_low, f1_more_high"
    (found,) = pair.execute(f"SELECT {columns} FROM kinds_beside('neurons')").fetchall()
    assert found == pytest.approx((0.125 - margin, 0.125 + margin) * 2)
