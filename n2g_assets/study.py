"""``N2GStudy``: reads one ``defs.yaml`` and gives back that study's assets, checks, job, schedule and warehouse."""

import re
import textwrap
import warnings
from pathlib import Path

import dagster as dg
from pydantic import BaseModel

from n2g_assets.assets import activation_cache, corpus_tokens, evaluation, publishing, reach, subject_model, unit_stages
from n2g_assets.assets.resource import SHARED
from n2g_assets.assets.stage import layer_asset, whole_asset
from n2g_assets.assets.study import RANGE_START, Study
from n2g_assets.core.errors import SettingsError
from n2g_assets.core.settings import StudySettings

__all__ = ["LAYER_STAGES", "N2GStudy", "shipped_studies", "shipped_study", "study_definitions"]

LAYER_STAGES = {
    stage.name: stage for stage in (activation_cache.STAGE, *unit_stages.STAGES, reach.STAGE, evaluation.STAGE)
}
"""The code of each per-layer stage of the registry."""


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
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> "N2GStudy":
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


def study_definitions(study: Study) -> dg.Definitions:
    """Assets with their checks, the job and the schedule of one study."""
    whole = (subject_model.STAGE, corpus_tokens.STAGE, publishing.WAREHOUSE, publishing.REPORT)
    with warnings.catch_warnings(action="ignore", category=dg.BetaWarning):  # of backfill policies, at every start
        assets = [whole_asset(study, stage) for stage in whole]
        assets += [layer_asset(study, LAYER_STAGES[name]) for name in study.stages]
    job = dg.define_asset_job(
        study.name,
        selection=dg.AssetSelection.groups(study.name),
        description=f"Everything of study '{study.name}' ({len(study.partition_layers)} layers), from the model to the "
        "database and the report; what is fresh is reused. A run that names no layer takes all of them.",
        executor_def=dg.in_process_executor,
        run_tags=study.all_layers_tags,
        metadata=study.job_metadata,
    )

    @dg.schedule(
        name=f"{study.name}_nightly",
        job=job,
        cron_schedule=study.settings.schedule,
        execution_timezone=study.settings.timezone,
        description="Runs over all layers, layers_at_once of them each; they do only what is stale.",
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
        tick = context.scheduled_execution_time.isoformat()
        return [dg.RunRequest(f"{tick} {tags[RANGE_START]}", tags=tags) for tags in study.run_tags]

    return dg.Definitions(assets=assets, jobs=[job], schedules=[nightly])
