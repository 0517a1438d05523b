"""The documentation says what the code says, and what it shows can be run."""

import re

import pytest

from n2g_assets.core.registry import PREDICTORS, STAGES, TEXTS
from n2g_assets.docs import FOLDER, PAGES, SETTINGS, rendered
from n2g_assets.storage.schema import keep_rows
from n2g_assets_tests.report.published import database, study
from n2g_assets_tests.storage.helpers import rows

ROOT = FOLDER.parent
WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(FOLDER.glob("*.md"))]


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_up_to_date(name):
    assert (FOLDER / name).read_text(encoding="utf-8") == rendered(name), "run make docs"


def test_every_setting_has_a_meaning():
    for model in SETTINGS.values():
        assert all(field.description or name == "source" for name, field in model.model_fields.items()), model


def test_every_stage_text_and_predictor_is_described():
    text = "".join(path.read_text(encoding="utf-8") for path in WRITTEN)
    assert not [entry.name for entry in (*STAGES, *TEXTS, *PREDICTORS) if f"`{entry.name}`" not in text]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 250


def test_every_link_between_the_pages_leads_somewhere():
    missing = []
    for page in WRITTEN:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)|src=\"([^\":]+)\"", page.read_text(encoding="utf-8")):
            path = page.parent / "".join(target)
            if not path.exists():
                missing.append(f"{page.name}: {path}")
    assert not missing


def queries() -> list[str]:
    blocks = re.compile(r"```sql\n(.*?)```", re.DOTALL)
    return [query for page in WRITTEN for query in blocks.findall(page.read_text(encoding="utf-8"))]


def test_every_query_of_the_pages_runs():
    assert len(queries()) > 12
    names = ["in", "of", "the", "import", "of"]
    words = [
        {"token_id": i, "token": word.encode(), "normalised": word.encode(), "text": word}
        for i, word in enumerate(names)
    ]
    with database(demo=study() | {"vocabulary": rows("vocabulary", *words)}) as connection:
        keep_rows(connection)
        for query in queries():
            connection.execute(query).fetchall()
