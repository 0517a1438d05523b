"""``N2GStudy``: reads one ``defs.yaml`` and gives back that study's assets, checks, job, schedule and warehouse.

Dagster and the command line read a study's file in the same way, and say its mistakes in the same sentences.
"""

import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import BaseModel, PrivateAttr, ValidationError

from n2g_assets.assets import activation_cache, corpus_tokens, evaluation, publishing, reach, subject_model, unit_stages
from n2g_assets.assets.executors import EXECUTED_BY, executor_name, executor_of
from n2g_assets.assets.shared import shared_definitions
from n2g_assets.assets.steps import layer_asset, whole_asset
from n2g_assets.assets.study import RANGE_START, Study
from n2g_assets.core.errors import N2GError, SettingsError
from n2g_assets.core.settings import StudySettings
from n2g_assets.core.study_file import Mistake, Place, StudyFile, mistakes_of
from n2g_assets.core.unit_settings import UnitSettings
from n2g_assets.core.yaml_schema import yaml_schema
from n2g_assets.corpus.sources import check_source
from n2g_assets.explanations.study import check_explanation

__all__ = ["LAYER_STAGES", "N2GStudy", "read_study", "shipped_studies", "shipped_study", "study_definitions"]

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


class Attributes(BaseModel, extra="allow"):
    """The attributes of a study as Dagster hands them on: as they are written, since ``N2GStudy`` says what is wrong.

    Their schema is that of the settings, for editors and ``dg check yaml``.
    """

    @classmethod
    def model_json_schema(cls, *_args: Any, **_options: Any) -> dict[str, Any]:
        """The schema of the settings."""
        return yaml_schema()


@dg.scaffold_with(N2GStudyScaffolder)
class N2GStudy(StudySettings, dg.Component, dg.Resolvable):
    """One study: a subject model, a corpus and a setting of the method, from one ``defs.yaml``.

    The study's name is its folder's name: asset keys are ``[study, stage]``, the group is the study.
    """

    _file: StudyFile | None = PrivateAttr(default=None)

    @classmethod
    def model(cls) -> type[BaseModel]:
        """What Dagster reads of the YAML."""
        return Attributes

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> "N2GStudy":
        """The component of a folder.

        Raises:
            SettingsError: a line for each mistake in its file.
        """
        paths = (context.path / name for name in ("defs.yaml", "defs.yml", "component.yaml"))
        path = next((path for path in paths if path.is_file()), None)
        if path is None:  # made in code
            return super().load(attributes, context)
        file = StudyFile.read(path, cls.__name__)
        study = cls(**_settings(file, context.resolution_context).model_dump())
        study._file = file
        return study

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> "N2GStudy":
        """The component from settings of YAML, with ``{{ env.NAME }}`` and the like filled in."""
        return cls(**_filled_in(model.model_dump(), context))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The study's definitions, with the resource and the executor that they need.

        Raises:
            SettingsError: what it names is not there, or another study has its name.
        """
        study = Study(context.path.name, context.path, StudySettings(**self.model_dump()))
        _check_name(study.name)
        if self._file is not None:
            studies = context.component_tree.get_all_components(of_type=N2GStudy)
            _check_named(study, self._file, [other._file.path for other in studies if other._file is not None])
        return dg.Definitions.merge(study_definitions(study), shared_definitions())


# ------------------------------------------------------------------------------------------ reading a file
_SHIPPED = Path(__file__).parent / "defs"


def read_study(path: Path) -> Study:
    """The study that any ``defs.yaml`` describes; its name is that of the folder.

    Raises:
        SettingsError: a line for each mistake in the file.
    """
    file = StudyFile.read(Path(os.path.abspath(path)))  # links keep their names, as they do in Dagster
    folder = file.path.parent
    _check_name(folder.name)
    study = Study(folder.name, folder, _settings(file, dg.ResolutionContext.default()))
    _check_named(study, file, sorted(folder.parent.glob("*/defs.yaml")))
    return study


def _settings(file: StudyFile, context: dg.ResolutionContext) -> StudySettings:
    try:
        attributes = _filled_in(file.attributes, context, file)
    except RecursionError:
        raise file.error([Mistake((), "an alias stands inside its own anchor: take it out.")]) from None
    try:
        return StudySettings.model_validate(attributes)
    except ValidationError as error:
        raise file.error(mistakes_of(error, attributes)) from None


def _filled_in(value: Any, context: dg.ResolutionContext, file: StudyFile | None = None, *place: str | int) -> Any:
    """A value with its templates filled in; what is no template stays as it is written."""
    if isinstance(value, Mapping):
        return {key: _filled_in(inner, context, file, *place, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled_in(inner, context, file, *place, number) for number, inner in enumerate(value)]
    if not isinstance(value, str) or "{{" not in value:
        return value
    try:
        return context.resolve_value(value)
    except Exception as error:  # of any function that the template calls
        if file is None:
            raise
        reason = str(error).strip().splitlines()[-1]
        raise file.error([Mistake(place, f"'{value}' cannot be filled in ({reason}): correct it.")]) from error


# ------------------------------------------------------------------------------------------ what settings name
def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise SettingsError(
            f"The study folder '{name}' cannot name a job: use letters, digits and _ (such as "
            f"'{re.sub(r'[^A-Za-z0-9_]', '_', name)}')."
        )
    try:
        dg.ScheduleDefinition(name=name, job_name=name, cron_schedule="0 3 * * *")
    except dg.DagsterInvalidDefinitionError as error:
        raise SettingsError(f"Dagster keeps the name '{name}' for itself: give the study's folder another.") from error


def _check_named(study: Study, file: StudyFile, files: Sequence[Path]) -> None:
    """Check that a study's name is its own beside the studies of other files, and that what it names is there."""
    twins = [other for other in files if other.parent.name == study.name and other != file.path]
    if twins:
        raise SettingsError(
            f"{file.path}: there is another study of the name '{study.name}' ({twins[0]}): give one of the folders "
            "another name."
        )
    names = sorted({*shipped_studies(), *(other.parent.name for other in files)} - {study.name})
    control_of = study.settings.control_of
    if control_of is not None and control_of not in names:
        near = get_close_matches(control_of, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(names)}."
        raise file.error([Mistake(("control_of",), f"control_of: there is no other study '{control_of}': {hint}")])
    if mistakes := list(_not_there(study)):
        raise file.error(mistakes)


def _not_there(study: Study) -> Iterator[Mistake]:
    """What the settings name that is not there, as far as that can be seen at once and without a network."""
    from n2g_assets.model.encoders.resolve import check_encoder
    from n2g_assets.model.sources import check_masked_lm, check_subject

    settings = study.settings
    checks: list[tuple[Place, Callable[[Any, Path], None], Any]] = [(("subject",), check_subject, settings.subject)]
    checks += [(("corpus", number), check_source, source) for number, source in enumerate(settings.corpus)]
    checks += [(("explanations", number), check_explanation, each) for number, each in enumerate(settings.explanations)]
    if isinstance(settings.units, UnitSettings):
        checks.append((("units", "encoder"), check_encoder, settings.units.encoder))
    if settings.method.proposer == "masked_lm":
        checks.append((("method", "masked_lm"), check_masked_lm, settings.method.masked_lm))
    for part, check, named in checks:
        place = (*part, next((key for key in ("path", "function") if hasattr(named, key)), "name"))
        try:
            check(named, study.folder)
        except N2GError as error:
            yield Mistake(place, str(error))
        except (OSError, RuntimeError, ValueError) as error:  # of a path that no file system has
            yield Mistake(place, f"the path cannot be read ({error}): correct it.")
    try:
        dg.ScheduleDefinition(name=study.name, job_name=study.name, cron_schedule=settings.schedule)
    except dg.DagsterInvalidDefinitionError:
        yield Mistake(
            ("schedule",), f"schedule: '{settings.schedule}' is no cron line: write one such as \"0 3 * * *\"."
        )


# ------------------------------------------------------------------------------------------ the studies of this package


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
    return read_study(_SHIPPED / name / "defs.yaml")


# ------------------------------------------------------------------------------------------ definitions
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
        executor_def=executor_of(study.settings.executor),
        run_tags=study.all_layers_tags | {EXECUTED_BY: executor_name(study.settings.executor)},
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
