"""Writes the pages of ``docs/`` that come from the code: every setting, every table and every view, worked plans.

``make docs`` brings them up to date; a test asserts that they are.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from n2g_assets.assets import rates, sizes
from n2g_assets.assets.learning import GROWING_BYTES
from n2g_assets.assets.study import Study, groups
from n2g_assets.core import explained, settings, sources, unit_settings
from n2g_assets.core.tables import REFERENCES, TABLES
from n2g_assets.model.config import Shape
from n2g_assets.report.text import human_bytes, listed, templates
from n2g_assets.storage.warehouse import described_views
from n2g_assets.study import read_study

FOLDER = Path(__file__).parents[1] / "docs"
PLANNED = FOLDER.parent / "examples" / "planning"
"""Studies of large models, and the config.json of each model, that the page on plans works out."""
FREE = 20 * 10**12
"""Bytes that the plans of that page may take."""

SETTINGS: dict[str, type[BaseModel]] = {
    "attributes": settings.StudySettings,
    "attributes.subject, source: wheel": sources.WheelSubject,
    "attributes.subject, source: hub": sources.HubSubject,
    "attributes.subject, source: local": sources.LocalSubject,
    "attributes.units": unit_settings.UnitSettings,
    "attributes.units.encoder, source: hub": unit_settings.HubEncoder,
    "attributes.units.encoder, source: local": unit_settings.LocalEncoder,
    "attributes.corpus, an entry with source: named": sources.NamedSource,
    "attributes.corpus, an entry with source: files": sources.FilesSource,
    "attributes.corpus, an entry with source: hub": sources.HubSource,
    "attributes.corpus, an entry with source: python": sources.PythonSource,
    "attributes.neurons": unit_settings.NeuronSample,
    "attributes.harvest": settings.HarvestSettings,
    "attributes.method": settings.MethodSettings,
    "attributes.evaluation": settings.EvaluationSettings,
    "attributes.explanations, an entry with source: predictions": explained.PredictedActivations,
    "attributes.explanations, an entry with source: python": explained.PredictingFunction,
    "attributes.explanations, an entry with source: texts": explained.ExplanationTexts,
}
"""Where in a ``defs.yaml`` the settings of each model stand."""


def rendered(name: str) -> str:
    """The page of this file name, by its template: every setting with its default, or every table and view."""
    template = templates().get_template(name)
    return template.render(
        settings=SETTINGS, tables=TABLES, references=REFERENCES, views=described_views(), default=_default, cell=_cell,
        plan=_plan, row=_plan_row, devices=listed(f"`{name}`" for name in rates.DEVICES), sizes=sizes, rates=rates,
        growing=human_bytes(GROWING_BYTES * 10**9),
    )  # fmt: skip


def _plan(name: str, tokens: int, device: str, machines: int, **changes: Any) -> str:
    """The plan of a study of the examples, some of its settings changed."""
    from n2g_assets.assets.plan import stated_facts, stated_text

    study, shape = _planned(name)
    study = replace(study, settings=study.settings.model_copy(update=changes))
    runs = groups(study.settings.layer_numbers, study.settings.layers_at_once)
    facts = stated_facts(study, shape, tokens)
    return stated_text(name, facts, runs, shape, machines, rates.Elsewhere(device), FREE)


def _plan_row(name: str, tokens: int, device: str, share: str) -> str:
    """A row of the table of large models: all layers in one run of one machine."""
    from n2g_assets.assets.plan import TOKEN_BYTES, stated_facts

    study, shape = _planned(name)
    changes: dict[str, Any] = {"layers_at_once": "all"} | ({"neurons": "all"} if share == "all" else {})
    settings = study.settings.model_copy(update=changes)
    facts = stated_facts(replace(study, settings=settings), shape, tokens)
    size, speed = sizes.Size.of(facts, settings.layer_numbers), rates.stated(shape, rates.Elsewhere(device))
    took = rates.seconds(size, speed, settings.method.preset)
    deepest = settings.layer_numbers[-1]
    harvest = [speed.seconds(tokens, deepest, arithmetic) / 3600 for arithmetic in ("float32", "bfloat16")]
    cells = [
        f"{shape.weights / 1e9:.0f} billion", f"{tokens:,}", f"{sum(size.units.values()):,}",
        " / ".join(f"{hours:,.1f}" if hours < 100 else f"{hours:,.0f}" for hours in harvest),
        human_bytes(size.kept_bytes // 2), human_bytes(size.kept_bytes // 2 // len(size.layers)),
        f"{took.statistics / 3600:,.0f}", f"{took.units / 3600:,.0f}", human_bytes(size.number_bytes),
        human_bytes(TOKEN_BYTES * size.learnt_tokens), f"{size.counted.steps:,}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


@cache
def _planned(name: str) -> tuple[Study, Shape]:
    from n2g_assets.model.config import read_shape

    study = read_study(PLANNED / name / "defs.yaml")
    return study, read_shape(PLANNED / name, name, study.settings.hook)


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        values = get_args(field.annotation)
        return f"`{values[0]}`" if len(values) == 1 and isinstance(values[0], str) else "required"
    if isinstance(default, BaseModel):
        shown = ", ".join(f"{key}: {value}" for key, value in default.model_dump().items())
        return "see below" if len(shown) > 40 else f"`{{{shown}}}`"
    return "none" if default is None else f"`{default}`"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("``", "`").replace("|", "\\|")


PAGES = ("settings.md", "tables.md", "planning.md")
"""The generated pages."""


def main() -> None:
    """Write the generated pages."""
    for name in PAGES:
        (FOLDER / name).write_text(rendered(name), encoding="utf-8")


if __name__ == "__main__":
    main()
