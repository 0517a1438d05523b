"""Units are correlated by what the model did on the same harvested tokens, across layers and studies."""

from __future__ import annotations

import numpy as np
import pytest

from n2g_assets.assets import corpus_tokens, subject_model
from n2g_assets.assets.session import Session
from n2g_assets.assets.study import Study
from n2g_assets.core.units import Unit
from n2g_assets.evidence.derive import SAMPLE
from n2g_assets.storage.warehouse import open_database, publish
from n2g_assets_tests.assets.conftest import FinishedRun
from n2g_assets_tests.assets.studies import changed, no_progress, run_stage, session_of

KEY = tuple[str, int, int, int]


@pytest.fixture(scope="module")
def sessions(finished: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Session]:
    """Two studies of one home, the second of which harvests the first documents of the first."""
    home = finished.copy_home(tmp_path_factory.mktemp("two"))
    fewer = Study("fewer", finished.study.folder, changed(finished.study, harvest__max_tokens=1200).settings)
    session = session_of(fewer, home)
    subject_model.materialize(session)
    corpus_tokens.materialize(session, no_progress)
    run_stage(session, "activation_cache")
    publish(session.store)
    return {"tiny": session_of(finished.study, home), "fewer": session}


def did(session: Session, tokens: list[tuple[str, int]]) -> dict[KEY, np.ndarray]:
    """What each unit of a study did at these positions of its contexts, from the evidence."""
    corpus, found = session.corpus, {}
    start = dict(zip(corpus.context_ids, corpus.starts[:-1].tolist(), strict=True))
    places = [start[context_id] + position for context_id, position in tokens]
    for layer in session.settings.layer_numbers:
        evidence = session.harvest([layer], no_progress)
        for unit in session.units(layer):
            found[session.study.name, layer, unit.number, unit.sign] = evidence.of_unit(layer, unit)[places]
    return found


def test_correlations_are_those_of_the_evidence_within_and_across_studies(sessions):
    with open_database(sessions["tiny"].home) as connection:
        samples = {
            name: connection.execute(
                "SELECT DISTINCT context_id, position FROM sampled_positions WHERE study = $name", {"name": name}
            ).fetchall()
            for name in sessions
        }
        assert [len(sample) for sample in samples.values()] == [SAMPLE, SAMPLE]
        both = sorted(set(samples["tiny"]) & set(samples["fewer"]))
        assert 100 < len(both) < SAMPLE, "the studies share text, but are not alike"
        tokens = {"tiny": samples["tiny"], "fewer": both}
        unit = sessions["tiny"].units(1)[0]
        for name, session in sessions.items():
            own = did(sessions["tiny"], tokens[name])["tiny", 1, unit.number, unit.sign]
            found = connection.execute(
                "SELECT study, layer, unit, sign, n_tokens, correlation FROM correlations_with('tiny', 1, $n, $sign) "
                "WHERE study = $name",
                {"n": unit.number, "sign": unit.sign, "name": name},
            ).fetchall()
            expected = {key: np.corrcoef(own, other)[0, 1] for key, other in did(session, tokens[name]).items()}
            assert {tuple(row[:4]): row[5] for row in found} == pytest.approx(expected, abs=1e-5)
            assert {row[4] for row in found} == {len(tokens[name])}
            assert expected[name, 1, unit.number, unit.sign] == pytest.approx(1), "the same unit in either study"


def test_similar_units_puts_the_same_unit_of_the_other_study_first(sessions):
    unit: Unit = sessions["tiny"].units(1)[0]
    with open_database(sessions["tiny"].home) as connection:
        first = connection.execute(
            "SELECT study, layer, unit, correlation FROM similar_units('tiny', 1, $n)", {"n": unit.number}
        ).fetchone()
    assert first == ("fewer", 1, unit.number, pytest.approx(1, abs=1e-5))
