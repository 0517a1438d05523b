from __future__ import annotations

import pytest
from pydantic import ValidationError

from n2g_assets.core.settings import StudySettings
from n2g_assets.core.unit_settings import NeuronSample


def study(**settings):
    least = {
        "subject": {"source": "local", "path": "model"},
        "corpus": [{"source": "files", "path": "texts"}],
        "layers": 2,
    }
    return StudySettings.model_validate({**least, **settings})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"neurons": {"samples": 4}}, "there is no setting 'samples' here: did you mean 'sample'?"),
        ({"neurons": {}}, "Field required"),
        ({"neurons": {"sample": 4, "seed": -1}}, "greater than or equal to 0"),
        ({"neurons": {"sample": True}}, "valid integer"),
        ({"neurons": []}, "at least 1 item"),
        ({"neurons": [3, -1]}, "greater than or equal to 0"),
        ({"neurons": [3, True]}, "valid integer"),
        ({"neurons": "al"}, "neurons must be {sample: n, seed: s}, 'all' or a list of neurons."),
        ({"neurons": 4}, "neurons must be {sample: n, seed: s}, 'all' or a list of neurons."),
        ({"neurons": [3, 3]}, "neurons names one neuron twice"),
        ({"method": {"min_contexts_per_side": 11}}, "lower it, or raise top_contexts."),
        ({"method": {"class_shrinkage": 0}}, "greater than 0"),
        ({"layers": True}, "layers must be a count of at least 1 or a list of different layers"),
        ({"layers": "2"}, "layers must be a count of at least 1 or a list of different layers"),
        ({"layers": 0}, "layers must be a count of at least 1 or a list of different layers"),
        ({"layers": [1, 1]}, "layers must be a count of at least 1 or a list of different layers"),
        ({"layers": [0, True]}, "valid integer"),
        ({"layers_at_once": True}, "layers_at_once must be 'all' or a count of at least 1."),
        ({"layers_at_once": "some"}, "layers_at_once must be 'all' or a count of at least 1."),
        ({"layers_at_once": 0}, "layers_at_once must be 'all' or a count of at least 1, not 0."),
        ({"signs": ["positive", "positive"]}, "signs names one sign twice"),
        ({"signs": []}, "at least 1 item"),
        ({"method": {"substitutes": True}}, "valid integer"),
        ({"subject": {"source": "hub", "nam": "gpt2"}}, "there is no setting 'nam' here: did you mean 'name'?"),
        ({"subject": {"source": "web", "name": "gpt2"}}, "'wheel', 'hub', 'local'"),
        ({"corpus": [{"source": "files", "pth": "a"}]}, "there is no setting 'pth' here: did you mean 'path'?"),
        ({"corpus": [{"source": "web", "name": "a"}]}, "'named', 'files', 'hub'"),
    ],
)
def test_a_wrong_setting_is_one_error_that_says_what_is_wrong(settings, sentence):
    with pytest.raises(ValidationError) as caught:
        study(**settings)
    (error,) = caught.value.errors()
    assert sentence in error["msg"]


@pytest.mark.parametrize("neurons", [{"sample": 4, "seed": 1}, NeuronSample(sample=4, seed=1), "all", [3, 5]])
def test_neurons_take_every_shape_and_survive_being_written_and_read(neurons):
    settings = study(neurons=neurons, layers=[2, 0], layers_at_once=1, signs=["negative", "positive"])
    assert study(**settings.model_dump()) == settings
    assert settings.neurons == (NeuronSample(sample=4, seed=1) if isinstance(neurons, dict) else neurons)
    assert (settings.layer_numbers, settings.sign_numbers) == ([0, 2], [1, -1])


def test_a_control_study_has_its_weights_drawn_anew():
    given = {"corpus": [{"source": "named", "name": "wikipedia"}], "layers": 1, "control_of": "demo"}
    with pytest.raises(ValueError, match=r"control_of names 'demo'.*set subject.reinitialise"):
        StudySettings(subject={"source": "hub", "name": "gpt2"}, **given)
    StudySettings(subject={"source": "hub", "name": "gpt2", "reinitialise": 0}, **given)
