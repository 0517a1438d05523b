"""Plans: their steps are those of runs, stated studies count as those that are read, and limits are said."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from n2g_assets.assets import corpus_tokens, sizes, stage, subject_model
from n2g_assets.assets.plan import Stored, facts_without_model, plan_elsewhere, plan_here, stated_facts, stated_text
from n2g_assets.assets.rates import DEVICES, SHARE, Elsewhere, measured, seconds, shared, stated
from n2g_assets.assets.sizes import Size
from n2g_assets.core.errors import SettingsError, SourceError
from n2g_assets.evaluation.reach import LAST_TOKENS
from n2g_assets.evidence.scan import PREFIX, ROUNDS
from n2g_assets.model.config import Shape, read_shape
from n2g_assets.model.load import load_subject
from n2g_assets.model.sources import config_folder
from n2g_assets_tests.assets.studies import changed, no_progress, of_evidence, run_job, session_of, tiny_study
from n2g_assets_tests.assets.test_encoders import LATENTS, LAYER, TOP, folder, two_layers
from n2g_assets_tests.tiny_models import tiny_llama

__all__ = ["folder", "two_layers"]

SEVEN = Shape("seven", 32, 14_336, 32, 32_000, 218_112_000, 7_241_732_096)
"""As docs/planning.md has it."""


# -------------------------------------------------------------------------------------------- steps
def test_the_steps_of_a_plan_are_those_that_a_spread_run_executes(tmp_path, instance, monkeypatch):
    """With pieces of the harvest and of the scan, and blocks of a layer's units, which are small here."""
    monkeypatch.setattr(stage, "UNITS_A_PIECE", 3)
    monkeypatch.setattr(sizes, "UNITS_A_PIECE", 3)
    study = changed(of_evidence(tiny_study(tmp_path)), layers=2, executor="multiprocess", evaluation__reach_positions=0)
    session = session_of(study, tmp_path / "home")
    subject_model.materialize(session)
    corpus_tokens.materialize(session, no_progress)
    size = Size.of(Stored(session), [0, 1])
    assert size.counted.harvest_pieces > 2
    assert size.counted.unit_pieces == 4
    result = run_job(study, tmp_path / "home", instance)
    assert result.success
    assert size.counted.steps == sum(event.is_step_success for event in result.all_events)


@pytest.mark.parametrize(("shards", "pieces"), [(0, 0), (1, 1), (200, 200), (201, 101), (15_259, 199)])
def test_shards_are_grouped_into_few_pieces(shards, pieces):
    assert sizes.piece_count(shards) == pieces <= sizes.MOST_PIECES


# -------------------------------------------------------------------------------------------- what is not here
def test_a_stated_study_counts_as_the_one_that_is_read(finished_evidence, tmp_path):
    """Its texts have the tokens that it asks for, and so more than a tiny corpus."""
    study = finished_evidence.study
    home = finished_evidence.copy_home(tmp_path)
    for kept in ("cache/evidence", "slices/evaluation", "slices/reach", "slices/neuron_stats"):
        (home / kept).rename(tmp_path / kept.replace("/", "-"))
    read = Stored(session_of(study, home))
    shape = read_shape(study.folder / "model", "model", study.settings.hook)
    said = stated_facts(study, shape, read.texts["harvest"])
    of_read, of_said = (Size.of(facts, [0, 1, 2]) for facts in (read, said))
    assert said.texts["scan"] == read.texts["scan"] == ROUNDS * (shape.vocabulary - 1) * (PREFIX + 2)
    assert said.texts["windows"] == 40 * 2 * sum(k + 1 for k in LAST_TOKENS) >= read.texts["windows"] > 0
    for name in ("units", "published", "derived", "learnt_tokens", "number_bytes", "passes"):
        assert getattr(of_read, name) == getattr(of_said, name), name
    harvests = [size.readings[0] for size in (of_read, of_said)]
    assert harvests[0].tokens == harvests[1].tokens
    assert harvests[0].kept_bytes == harvests[1].kept_bytes
    assert harvests[0].shards == pytest.approx(harvests[1].shards, abs=1)


def test_a_shape_is_that_of_the_model_that_is_loaded(tmp_path):
    files = tiny_llama(tmp_path / "model")
    study = tiny_study(tmp_path)
    model = load_subject(files, "mlp.hook_post", study.settings.harvest, "auto")
    (files.folder / "model.safetensors").unlink()
    folder, name = config_folder(study.settings.subject, study_folder=tmp_path, home=None)
    shape = read_shape(folder, name, "mlp.hook_post")
    assert (shape.name, shape.layers, shape.width) == (model.name, model.n_layers, model.d_mlp)
    assert shape.weights == sum(parameter.numel() for parameter in model.plain.parameters())
    first = [value.numel() for key, value in model.plain.named_parameters() if ".layers.0." in key]
    assert shape.layer_weights == sum(first)
    assert read_shape(folder, name, "hook_resid_post").width == model.plain.config.hidden_size


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"config.json in .* cannot be read \(No such file or directory\)"),
        ("[]", "is no JSON object"),
        ('{"d_model": 8}', "is not of transformers .* plan on a machine that has the model"),
        ('{"model_type": "llama", "num_hidden_layers": 1000000}', "asks for 1,000,000 layers, but no model has more"),
        ('{"model_type": "vit"}', "transformers has no causal model"),
    ],
)
def test_a_config_that_says_no_shape_is_refused(tmp_path, text, said):
    if text is not None:
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match=said):
        read_shape(tmp_path, "model", "mlp.hook_post")


# -------------------------------------------------------------------------------------------- rates
def test_a_device_reaches_a_share_of_its_peak_in_the_arithmetic_of_the_pass():
    rates = stated(SEVEN, Elsewhere("H100"))
    for arithmetic in ("float32", "bfloat16"):
        operations = 2 * SEVEN.layer_weights * SEVEN.layers * 10**7
        peak = getattr(DEVICES["h100"], arithmetic)
        assert rates.seconds(10**7, 31, arithmetic) == pytest.approx(operations / (SHARE * peak))
    assert rates.seconds(10**7, 31, "bfloat16") / 3600 == pytest.approx(0.1, abs=0.01), "an hour of an H100 for a tenth"


def test_stated_rates_agree_with_each_other_and_with_a_pass_that_is_timed():
    by_flops = stated(SEVEN, Elsewhere(flops=2 * SEVEN.layer_weights * SEVEN.layers * 1000.0))
    by_tokens = stated(SEVEN, Elsewhere(tokens_a_second=1000.0))
    timed = measured(2000.0, 15)
    for rates in (by_flops, by_tokens, timed):
        assert rates.seconds(1000, 31, "float32") == pytest.approx(1)
        assert rates.seconds(1000, 15, "float32") == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("elsewhere", "said"),
    [
        (
            Elsewhere("abacus"),
            "no device 'abacus' whose peak is known: choose one of a100, h100, .*, cpu, or give --flops",
        ),
        (Elsewhere(flops=0.0), "A rate of 0 a second leads nowhere: give one above 0"),
        (Elsewhere(tokens_a_second=-5.0), "A rate of -5 a second"),
        (Elsewhere(flops=float("inf")), "A rate of inf a second"),
    ],
)
def test_what_is_no_rate_is_refused(elsewhere, said):
    assert elsewhere.states_a_rate
    with pytest.raises(SettingsError, match=said):
        stated(SEVEN, elsewhere)


@pytest.mark.parametrize(
    ("elsewhere", "said"),
    [
        (Elsewhere("h100", flops=1.0), "Several rates are stated: give one of --device, --flops and --tokens-a-second"),
        (Elsewhere(tokens=5), "--tokens and --config speak of what is not here: state a rate"),
        (Elsewhere(config=Path("config.json")), "state a rate"),
    ],
)
def test_what_does_not_go_together_is_refused(elsewhere, said):
    with pytest.raises(SettingsError, match=said):
        _ = elsewhere.states_a_rate


# -------------------------------------------------------------------------------------------- several machines
@pytest.mark.parametrize(
    ("parts", "machines", "expected"), [(8, 1, 80), (8, 3, 30), (8, 8, 10), (8, 99, 10), (0, 4, 80)]
)
def test_equal_parts_take_as_long_as_the_machine_with_most(parts, machines, expected):
    assert shared(80, parts, machines) == expected


def of_seven(tmp_path: Path, tokens: int, machines: int = 1, rates: Elsewhere | None = None, **changes) -> str:
    study = changed(tiny_study(tmp_path), **({"layers": 32, "neurons": {"sample": 1434}} | changes))
    facts = stated_facts(study, SEVEN, tokens)
    return stated_text("seven", facts, [range(32)], SEVEN, machines, rates or Elsewhere("h200"), 10**15)


def test_more_machines_than_parts_gain_nothing_and_the_database_is_not_shared(tmp_path):
    study = changed(tiny_study(tmp_path), layers=32, neurons={"sample": 1434}, harvest__shard_tokens=65_536)
    size = Size.of(stated_facts(study, SEVEN, 10**7), range(32))
    rates = stated(SEVEN, Elsewhere("h100"))
    took = {machines: seconds(size, rates, "paper", machines) for machines in (1, 2, 32, 153, 1000, 10_000)}
    assert took[1].units == pytest.approx(2 * took[2].units)
    assert took[1].statistics == pytest.approx(32 * took[32].statistics)
    assert took[32].statistics == took[1000].statistics
    assert size.counted.unit_pieces == 32 * 3
    assert took[1000].units == pytest.approx(took[1].units / 96)
    assert took[1000] == took[10_000]
    assert len({each.database for each in took.values()}) == 1
    totals = [each.total for each in took.values()]
    assert totals == sorted(totals, reverse=True)


# -------------------------------------------------------------------------------------------- limits
def test_a_plan_within_all_limits_says_none(tmp_path):
    assert "LIMIT" not in of_seven(tmp_path, 10**6, 8, harvest__shard_tokens=65_536)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tokens": 10**10}, "TOO LITTLE disk, 1000.0 TB for 1835.5 TB: set layers_at_once"),
        ({"tokens": 10**6, "rates": Elsewhere("rtx4090"), "harvest__dtype": "bfloat16"}, "The model takes 43.5 GB"),
        ({"tokens": 10**6, "rates": Elsewhere("rtx4090")}, "takes 29.0 GB and the device has 24.0 GB"),
        ({"tokens": 3 * 10**9, "method__preset": "evidence"}, "can be numbered in 2,147,483,647 at the most"),
        ({"tokens": 10**8, "method__preset": "evidence"}, "takes 8.5 GB while it grows, so that one grows at a time"),
        ({"tokens": 10**6, "machines": 2, "neurons": "all"}, "one of more than 1,000 is slow to look at"),
        ({"tokens": 10**10, "machines": 2}, "The longest step takes .* consumer_timeout"),
        ({"tokens": 10**6, "harvest__dtype": "bfloat16"}, "What is measured again in float32 takes"),
    ],
)
def test_a_limit_that_is_exceeded_is_said_with_what_moves_it(tmp_path, options, said):
    text = of_seven(tmp_path, **options)
    assert [line for line in text.splitlines() if line.startswith("LIMIT:") and re.search(said, line)], text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": 33}, "asks for layer 32, but seven has the layers 0 to 31: correct layers"),
        (
            {"neurons": {"sample": 20_000}},
            "asks for 20,000 neurons a layer, but seven has 14,336: lower neurons.sample",
        ),
    ],
)
def test_a_study_that_asks_for_more_than_the_model_has_is_refused(tmp_path, changes, said):
    with pytest.raises(SettingsError, match=said):
        of_seven(tmp_path, 10**6, **changes)


# -------------------------------------------------------------------------------------------- latents
def test_a_study_of_latents_can_be_planned(two_layers, folder):
    session = session_of(two_layers.study, two_layers.home)
    assert "2 layers" in plan_here(session, [[0, LAYER]])
    every = session_of(changed(two_layers.study, neurons="all"), two_layers.home)
    said = plan_elsewhere(every, [[0, LAYER]], 1, Elsewhere("h100", tokens=10_000, config=folder / "model"))
    assert f" {2 * LATENTS}  " in said


def test_the_plan_of_latents_counts_their_firings(two_layers, folder, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(two_layers.home, home, ignore=shutil.ignore_patterns("locks", "evidence"))
    session = session_of(changed(two_layers.study, neurons="all"), home)
    tokens = len(session.corpus.token_ids)
    planned = Size.of(Stored(session), [0, LAYER]).readings[0]
    assert planned.values == 0
    session.evidence(session.corpus, [0, LAYER], no_progress)
    files = list((home / "cache" / "evidence").rglob("activations.npy"))
    firings = sum(file.stat().st_size - 128 for file in files) / 8
    assert firings == pytest.approx(planned.pairs, rel=0.2)
    shape = read_shape(folder / "model", "model", session.hook)
    said = facts_without_model(session, replace(shape, width=LATENTS), tokens)
    assert Size.of(said, [0, LAYER]).readings[0].kept_bytes == 2 * 8 * TOP * tokens
