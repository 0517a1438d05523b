"""What workers do ahead of the layers, for real: shards of the forward pass, and blocks of a layer's units."""

from __future__ import annotations

import random

import pytest

from n2g_assets.assets import stage as stages
from n2g_assets.assets.session import Session
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.slices import SliceKey
from n2g_assets.study import LAYER_STAGES
from n2g_assets_tests.assets.studies import no_progress, run_stage, session_of

LAYERS = [0, 1, 2]


def do_ahead(session: Session, name: str) -> int:
    """Do all pieces of a stage, one twice and in no order; how many there were."""
    ahead = LAYER_STAGES[name].ahead
    pieces = list(ahead.pieces(session, LAYERS))
    for piece in random.Random(0).sample([*pieces, *pieces[:1]], len(pieces) + bool(pieces)):
        ahead.do(session, piece, no_progress)
    return len(pieces)


def hashes(session: Session, name: str) -> dict[str, str]:
    stage = LAYER_STAGES[name]
    keys = [SliceKey(table, "tiny", layer) for table in stage.tables for layer in LAYERS]
    return {str(key): session.store.manifest(key).content_hash for key in keys}


def test_shards_that_are_read_ahead_leave_no_pass_and_the_same_rows(finished_evidence, tmp_path):
    before = hashes(finished_evidence.session(), "activation_cache")
    session = session_of(finished_evidence.study, finished_evidence.copy_home(tmp_path))
    Cache(session.home).remove("evidence")
    for table in (*LAYER_STAGES["activation_cache"].tables, "evaluation"):
        for layer in LAYERS:
            session.store.manifest_path(SliceKey(table, "tiny", layer)).unlink()
    assert do_ahead(session, "activation_cache") > 2
    assert do_ahead(session, "activation_cache") == 0, "what is on disk is no piece"
    run_stage(session, "activation_cache")
    assert session.harvest(LAYERS, no_progress).tokens_run == 0
    assert {found.tokens_run for found in session.read_texts(LAYERS, no_progress).values()} == {0}
    assert session.evidence(session.windows.corpus, LAYERS, no_progress).tokens_run == 0
    assert hashes(session, "activation_cache") == before


@pytest.mark.parametrize("name", ["neuron_graphs", "evaluation"])
def test_blocks_of_units_that_are_done_ahead_are_taken_over(finished_evidence, tmp_path, monkeypatch, name):
    before = hashes(finished_evidence.session(), name)
    session = session_of(finished_evidence.study, finished_evidence.copy_home(tmp_path))
    monkeypatch.setattr(stages, "UNITS_A_PIECE", 3)
    for table in LAYER_STAGES[name].tables:
        session.store.manifest_path(SliceKey(table, "tiny", 1)).unlink(missing_ok=True)
    assert do_ahead(session, name) == 2 * len(LAYERS)
    reports = run_stage(session, name)
    assert [reports[layer].computed for layer in LAYERS] == [0, 0, 0]
    assert hashes(session, name) == before
