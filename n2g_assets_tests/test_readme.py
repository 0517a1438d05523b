"""The README says what the code says."""

from n2g_assets.core.settings import MethodSettings
from n2g_assets.core.tables import TABLES
from n2g_assets.readme import README, settings_text, tables_text, updated


def test_the_readme_is_up_to_date():
    text = README.read_text(encoding="utf-8")
    assert updated(text) == text


def test_every_setting_and_every_column_is_explained():
    for name, field in MethodSettings.model_fields.items():
        assert field.description
        assert f"| `{name}` |" in settings_text()
    assert all(f"| `{column.name}` |" in tables_text() for table in TABLES.values() for column in table.columns)
