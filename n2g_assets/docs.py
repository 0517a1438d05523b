"""Writes the pages of ``docs/`` that come from the code: every setting, every table and every view.

``make docs`` brings them up to date; a test asserts that they are.
"""

from pathlib import Path
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from n2g_assets.core import explained, settings, sources
from n2g_assets.core.tables import REFERENCES, TABLES
from n2g_assets.report.text import templates
from n2g_assets.storage.warehouse import described_views

FOLDER = Path(__file__).parents[1] / "docs"

SETTINGS: dict[str, type[BaseModel]] = {
    "attributes": settings.StudySettings,
    "attributes.subject, source: wheel": sources.WheelSubject,
    "attributes.subject, source: hub": sources.HubSubject,
    "attributes.subject, source: local": sources.LocalSubject,
    "attributes.corpus, an entry with source: named": sources.NamedSource,
    "attributes.corpus, an entry with source: files": sources.FilesSource,
    "attributes.corpus, an entry with source: hub": sources.HubSource,
    "attributes.corpus, an entry with source: python": sources.PythonSource,
    "attributes.neurons": settings.NeuronSample,
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
        settings=SETTINGS, tables=TABLES, references=REFERENCES, views=described_views(), default=_default, cell=_cell
    )


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


PAGES = ("settings.md", "tables.md")
"""The generated pages."""


def main() -> None:
    """Write the generated pages."""
    for name in PAGES:
        (FOLDER / name).write_text(rendered(name), encoding="utf-8")


if __name__ == "__main__":
    main()
