"""A run that is asked for no layer of its study is refused in one sentence, and records nothing."""

from __future__ import annotations

import dagster as dg
import pytest
from click import ClickException

from n2g_assets.assets.partitions import PARTITION, RANGE_END, RANGE_START, LayerPartitions
from n2g_assets.assets.study import Study
from n2g_assets.core.errors import SettingsError
from n2g_assets.core.settings import StudySettings
from n2g_assets_tests.assets.studies import definitions_of

PARTITIONS = LayerPartitions(["00", "07", "15"])
BACKWARDS = "The range 15...07 runs backwards and holds no layer: ask for 07...15."
UNKNOWN = "There is no layer '{}' in this study, whose partitions are 00, 07, 15: ask for one of them, or for a range "
WRONG = [
    ({RANGE_START: "15", RANGE_END: "07"}, BACKWARDS),
    ({RANGE_START: "00", RANGE_END: "16"}, UNKNOWN.format("16")),
    ({RANGE_START: "", RANGE_END: ""}, UNKNOWN.format("")),
    ({RANGE_START: "00"}, UNKNOWN.format("")),
    ({RANGE_END: "15"}, UNKNOWN.format("")),
    ({PARTITION: "7"}, UNKNOWN.format("7")),
]


@pytest.fixture
def definitions(tmp_path) -> dg.Definitions:
    """A study whose model and corpus are not there: a run that is refused asks for neither."""
    sources = {"subject": {"source": "local", "path": "none"}, "corpus": [{"source": "files", "path": "none"}]}
    return definitions_of(Study("tiny", tmp_path, StudySettings(layers=[0, 7, 15], **sources)), tmp_path / "home")


@pytest.mark.parametrize(
    ("tags", "keys"),
    [
        ({RANGE_START: "00", RANGE_END: "07"}, ["00", "07"]),
        ({RANGE_START: "07", RANGE_END: "07"}, ["07"]),
        ({RANGE_START: "00", RANGE_END: "15", PARTITION: "07"}, ["07"]),  # the job's tags, and one partition of it
        ({"other": "07"}, []),
    ],
)
def test_the_tags_of_a_run_ask_for_layers(tags, keys):
    assert PARTITIONS.asked(tags) == keys


@pytest.mark.parametrize(("tags", "says"), WRONG)
def test_tags_that_ask_for_no_layer_are_refused(tags, says):
    with pytest.raises(SettingsError) as raised:
        PARTITIONS.asked(tags)
    assert str(raised.value).startswith(says)
    assert isinstance(raised.value, ClickException), "which Dagster's command line shows without a traceback"


def test_dagster_takes_the_definition_for_a_plain_one():
    plain = dg.StaticPartitionsDefinition(["00", "07", "15"])
    assert len({plain, PARTITIONS}) == 1


@pytest.mark.parametrize(("tags", "says"), [WRONG[0], WRONG[1]])
def test_a_run_of_no_layer_does_not_begin(definitions, instance, tags, says):
    """What Dagster's command line and ``n2g`` do."""
    with pytest.raises(SettingsError) as raised:
        definitions.resolve_job_def("tiny").execute_in_process(instance=instance, tags=tags)
    assert str(raised.value).startswith(says)
    assert {run.status for run in instance.get_runs()} <= {dg.DagsterRunStatus.NOT_STARTED}
    assert not [event for run in instance.get_runs() for event in instance.all_logs(run.run_id)]


@pytest.mark.parametrize(
    ("tags", "says", "selected"), [(*WRONG[0], None), (*WRONG[0], "neuron_graphs"), (*WRONG[5], None)]
)
def test_a_run_that_another_process_has_made_is_refused_in_its_first_step(
    definitions, instance, monkeypatch, tags, says, selected
):
    """The page's process knows the partition keys and none of this package's code."""
    monkeypatch.delattr(LayerPartitions, "get_partition_keys_in_range")
    result = definitions.resolve_job_def("tiny").execute_in_process(
        instance=instance,
        tags=tags,
        raise_on_error=False,
        asset_selection=selected and [dg.AssetKey(["tiny", selected])],
    )
    assert not result.success
    assert [event.step_key for event in result.all_events if event.is_step_start] == [
        f"tiny__{selected or 'subject_model'}"
    ]
    (failure,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failure.user_failure_data.description.startswith(says)
    assert not result.get_asset_materialization_events()
