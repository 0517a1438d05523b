"""The studies of ``examples/latents``: they can be read, and differ in nothing but what makes their units."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from n2g_assets.core.errors import SettingsError
from n2g_assets.core.settings import StudySettings
from n2g_assets.study import read_study

LATENTS = Path(__file__).parents[1] / "examples" / "latents"
STUDIES = {path.parent.name: path for path in sorted(LATENTS.glob("*/defs.yaml"))}
NEURONS = read_study(STUDIES["smollm2_neurons"]).settings


@pytest.mark.parametrize("name", STUDIES)
def test_they_explain_the_same_text_by_the_same_method(name):
    settings = StudySettings(**yaml.safe_load(STUDIES[name].read_text(encoding="utf-8"))["attributes"])
    changed = {"control_of", "subject", "units", "hook"}
    assert settings.model_dump(exclude=changed) == NEURONS.model_dump(exclude=changed)
    control = name.endswith("_reinitialised")
    assert settings.control_of == (name.removesuffix("_reinitialised") if control else None)
    assert settings.subject == NEURONS.subject.model_copy(update={"reinitialise": 0 if control else None})
    if "neurons" not in name:
        folder = f"../encoders{'_reinitialised' * control}"
        kind = "transcoder" if "transcoder" in name else "autoencoder"
        assert settings.units.encoder.path == f"{folder}/{kind}"


def test_one_that_is_not_trained_yet_is_said(tmp_path):
    study = tmp_path / "smollm2_latents" / "defs.yaml"
    study.parent.mkdir()
    study.write_text(STUDIES["smollm2_latents"].read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(SettingsError, match=re.escape("encoders/autoencoder")):
        read_study(study)
