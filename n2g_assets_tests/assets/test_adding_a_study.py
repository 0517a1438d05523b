"""A user adds a study by adding a folder with a ``defs.yaml``, here or in a Dagster project of their own."""

from __future__ import annotations

import dagster as dg
import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox

from n2g_assets.assets.resource import N2GResource
from n2g_assets.core.errors import SettingsError
from n2g_assets.study import N2GStudy
from n2g_assets_tests.assets.studies import write_corpus
from n2g_assets_tests.tiny_models import tiny_gpt2

YAML = """
type: n2g_assets.N2GStudy
attributes:
  subject: {source: local, path: model}
  corpus:
    - {source: files, path: texts, kind: notes}
  layers: [1, 2]
  neurons: [3, 5, 7]
  hook: mlp.hook_post
  harvest: {context_length: 32, device: cpu}
  method: {substitutes: 1, min_contexts_per_side: 2, infill_candidates: 8, infill_rescored: 4}
"""


@pytest.fixture
def added(tmp_path):
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.scaffold_component(
            component_cls=N2GStudy, defs_path="my_gpt2", defs_yaml_contents=yaml.safe_load(YAML)
        )
        tiny_gpt2(folder / "model")
        write_corpus(folder / "texts")
        with sandbox.load_component_and_build_defs(defs_path="my_gpt2") as (component, definitions):
            home = N2GResource(home=str(tmp_path / "home"))
            own = dg.Definitions(resources={"n2g": home}, executor=dg.in_process_executor)
            yield component, dg.Definitions.merge(definitions, own)


def test_the_folder_appears_under_its_name_with_its_job_and_schedule(added):
    component, definitions = added
    assert component.neurons == [3, 5, 7]
    assert {key.path[0] for key in definitions.resolve_all_asset_keys()} == {
        "my_gpt2", "my_gpt2_reinitialised",
    }  # fmt: skip
    repository = definitions.get_repository_def()
    assert "my_gpt2" in repository.job_names
    assert [schedule.name for schedule in repository.schedule_defs] == ["my_gpt2_nightly"]


def test_an_ungated_gelu_model_in_a_folder_of_its_own_runs_to_the_database(added, tmp_path, instance):
    _, definitions = added
    job = definitions.resolve_job_def("my_gpt2")
    assert job.execute_in_process(instance=instance, partition_key="02").success
    assert (tmp_path / "home" / "n2g.duckdb").exists()


def test_a_folder_name_that_cannot_name_a_job_is_refused_with_one_that_can():
    with create_defs_folder_sandbox() as sandbox:
        sandbox.scaffold_component(component_cls=N2GStudy, defs_path="my-gpt2", defs_yaml_contents=yaml.safe_load(YAML))
        with pytest.raises(Exception) as raised, sandbox.load_component_and_build_defs(defs_path="my-gpt2"):  # noqa: PT011
            pass
    errors = [raised.value]
    while errors[-1].__cause__ is not None:
        errors.append(errors[-1].__cause__)
    assert any("my_gpt2" in str(error) for error in errors if isinstance(error, SettingsError))
