"""``N2GStudy``: reads one ``defs.yaml`` and gives back that study's assets, checks, job, schedule and warehouse."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
from pydantic import BaseModel

from n2g_assets.assets import (
    activation_cache,
    augmented_examples,
    evaluation,
    neuron_graphs,
    pruned_examples,
    rule_tests,
    top_examples,
)
from n2g_assets.assets.checks import study_checks
from n2g_assets.assets.corpus_tokens import corpus_asset
from n2g_assets.assets.report import report_asset
from n2g_assets.assets.session import RANGE_END, RANGE_START, Study, quiet_beta
from n2g_assets.assets.stage import Stage, stage_asset
from n2g_assets.assets.subject_model import subject_asset
from n2g_assets.assets.warehouse import warehouse_asset
from n2g_assets.core.errors import SettingsError
from n2g_assets.core.settings import StudySettings

__all__ = ["RANGE_END", "RANGE_START", "STAGES", "N2GStudy", "all_layers_tags", "shipped_study", "study_definitions"]

STAGES = (
    activation_cache.STAGE,
    top_examples.STAGE,
    pruned_examples.STAGE,
    augmented_examples.STAGE,
    neuron_graphs.STAGE,
    rule_tests.STAGE,
    evaluation.STAGE,
)
"""The per-layer stages in pipeline order."""


class N2GStudy(StudySettings, dg.Component, dg.Resolvable):
    """One study: a subject model, a corpus and a setting of the method, from one ``defs.yaml``.

    The study's name is its folder's name: asset keys are ``[study, stage]``, the group is the study.
    """

    @classmethod
    def model(cls) -> type[BaseModel]:
        """The schema of the YAML: the study's settings, as they are."""
        return StudySettings

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> N2GStudy:
        """The component from validated settings, with ``{{ env.NAME }}`` and the like filled in."""
        return cls(**context.resolve_value(model.model_dump()))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The study's definitions."""
        if not re.fullmatch(r"[A-Za-z0-9_]+", context.path.name):
            raise SettingsError(
                f"The study folder '{context.path.name}' cannot name a job: use letters, digits and _ (such as "
                f"'{re.sub(r'[^A-Za-z0-9_]', '_', context.path.name)}')."
            )
        settings = StudySettings(**self.model_dump())
        return study_definitions(Study(context.path.name, context.path, settings))


def shipped_study(name: str) -> Study:
    """A study of this project, as its ``defs.yaml`` describes it.

    Raises:
        SettingsError: there is no such study.
    """
    folder = Path(__file__).parent / "defs" / name
    try:
        text = (folder / "defs.yaml").read_text(encoding="utf-8")
    except OSError as error:
        known = ", ".join(sorted(path.parent.name for path in folder.parent.glob("*/defs.yaml")))
        raise SettingsError(f"There is no study '{name}': choose one of {known}.") from error
    attributes = N2GStudy.resolve_from_yaml(textwrap.dedent(text.partition("attributes:")[2]))
    return Study(name, folder, StudySettings(**attributes.model_dump()))


def all_layers_tags(study: Study) -> dict[str, str]:
    """The run tags that make ONE run of all layers."""
    keys = list(study.partition_layers)
    return {RANGE_START: keys[0], RANGE_END: keys[-1]}


def study_stages(study: Study) -> list[Stage]:
    """The per-layer stages of one study."""
    return [stage for stage in STAGES if study.tries_rules or stage.name != rule_tests.STAGE.name]


def study_definitions(study: Study) -> dg.Definitions:
    """Assets, checks, the job and the schedule of one study."""
    stages = study_stages(study)
    with quiet_beta():
        assets = [*_pipeline(study, stages), warehouse_asset(study, stages), report_asset(study)]
    checks = study_checks(study, stages)
    layers = len(study.partition_layers)
    job = dg.define_asset_job(
        study.name,
        selection=dg.AssetSelection.groups(study.name),
        description=f"Everything of study '{study.name}' ({layers} layers), from the model to the database and the "
        "report; what is fresh is reused.",
        executor_def=dg.in_process_executor,
    )

    @dg.schedule(
        name=f"{study.name}_nightly",
        job=job,
        cron_schedule=study.settings.schedule,
        description="One run over all layers; it does only what is stale.",
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(tags=all_layers_tags(study))

    return dg.Definitions(assets=assets, asset_checks=checks, jobs=[job], schedules=[nightly])


def _pipeline(study: Study, stages: Sequence[Stage]) -> list[dg.AssetsDefinition]:
    """The assets of one study up to its evaluation."""
    return [subject_asset(study), corpus_asset(study), *(stage_asset(study, stage) for stage in stages)]
