"""``N2GStudy``: reads one ``defs.yaml`` and gives back that study's assets, checks, job, schedule and warehouse."""

from __future__ import annotations

import re
import textwrap
from importlib import import_module
from pathlib import Path

import dagster as dg
from pydantic import BaseModel

from n2g_assets.assets.checks import checks_of
from n2g_assets.assets.corpus_tokens import corpus_asset
from n2g_assets.assets.report import report_asset
from n2g_assets.assets.resource import SHARED
from n2g_assets.assets.stage import LayerStage, stage_asset
from n2g_assets.assets.study import Study, quiet_beta
from n2g_assets.assets.subject_model import subject_asset
from n2g_assets.assets.warehouse import warehouse_asset
from n2g_assets.core.errors import SettingsError
from n2g_assets.core.settings import StudySettings

__all__ = ["N2GStudy", "layer_stage", "shipped_studies", "shipped_study", "study_definitions"]


class N2GStudyScaffolder(dg.Scaffolder):
    """``dg scaffold defs n2g_assets.N2GStudy <name>``: a ``defs.yaml`` that loads and says what can be set."""

    def scaffold(self, request: dg.ScaffoldRequest) -> None:
        """Write the template."""
        template = (Path(__file__).parent / "template.yaml").read_text(encoding="utf-8")
        (request.target_path / "defs.yaml").write_text(template, encoding="utf-8")


@dg.scaffold_with(N2GStudyScaffolder)
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
        """The study's definitions, with the resource and the executor that they need."""
        if not re.fullmatch(r"[A-Za-z0-9_]+", context.path.name):
            raise SettingsError(
                f"The study folder '{context.path.name}' cannot name a job: use letters, digits and _ (such as "
                f"'{re.sub(r'[^A-Za-z0-9_]', '_', context.path.name)}')."
            )
        settings = StudySettings(**self.model_dump())
        return dg.Definitions.merge(study_definitions(Study(context.path.name, context.path, settings)), SHARED)


_SHIPPED = Path(__file__).parent / "defs"


def shipped_studies() -> list[str]:
    """The names of the studies of this package."""
    return sorted(path.parent.name for path in _SHIPPED.glob("*/defs.yaml"))


def shipped_study(name: str) -> Study:
    """A study of this package, as its ``defs.yaml`` describes it.

    Raises:
        SettingsError: there is no such study.
    """
    if name not in shipped_studies():
        raise SettingsError(f"There is no study '{name}': choose one of {', '.join(shipped_studies())}.")
    text = (_SHIPPED / name / "defs.yaml").read_text(encoding="utf-8")
    attributes = N2GStudy.resolve_from_yaml(textwrap.dedent(text.partition("attributes:")[2]))
    return Study(name, _SHIPPED / name, StudySettings(**attributes.model_dump()))


def layer_stage(name: str) -> LayerStage:
    """The code of a per-layer stage of the registry: ``STAGE`` of the module ``assets/<name>.py``."""
    return import_module(f"n2g_assets.assets.{name}").STAGE


def study_definitions(study: Study) -> dg.Definitions:
    """Assets with their checks, the job and the schedule of one study."""
    with quiet_beta():
        assets = [
            subject_asset(study, checks_of("subject_model")),
            corpus_asset(study, checks_of("corpus_tokens")),
            *(stage_asset(study, layer_stage(name), checks_of(name)) for name in study.stages),
            warehouse_asset(study),
            report_asset(study),
        ]
    layers = len(study.partition_layers)
    job = dg.define_asset_job(
        study.name,
        selection=dg.AssetSelection.groups(study.name),
        description=f"Everything of study '{study.name}' ({layers} layers), from the model to the database and the "
        "report; what is fresh is reused. A run that names no layer takes all of them.",
        executor_def=dg.in_process_executor,
        run_tags=study.all_layers_tags,
    )

    @dg.schedule(
        name=f"{study.name}_nightly",
        job=job,
        cron_schedule=study.settings.schedule,
        description="One run over all layers; it does only what is stale.",
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(tags=study.all_layers_tags)

    return dg.Definitions(assets=assets, jobs=[job], schedules=[nightly])
