"""Where links to the explorer lead."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

import pytest

from n2g_assets.assets.metadata import explorer_link
from n2g_assets.assets.resource import N2GResource
from n2g_assets.core.errors import SettingsError
from n2g_assets.core.explorer import HERE, dagster_address, explorer_address, unit_address
from n2g_assets.explore.app import PAGES
from n2g_assets.explore.page import OfUnit, address


def test_an_address_is_that_of_a_page_of_the_explorer_which_reads_the_same_unit_from_it(monkeypatch):
    monkeypatch.delenv("N2G_EXPLORER", raising=False)
    pages = {page.asked.__name__: page.path for page in PAGES[:4]}
    for sign in (1, -1):
        whole = {"study": "a/b c", "layer": 7, "unit": 12, "sign": sign}
        values = {"study": "a/b c", "layer": 7, "unit": unit_address(12, sign)}
        of = {"OfStudy": ["study"], "AskedLayer": ["study", "layer"], "AskedUnit": ["study", "layer", "unit", "sign"]}
        for asked, names in of.items():
            given = {name: whole[name] for name in names}
            expected = address(pages[asked], {name: values[name] for name in names if name != "sign"})
            assert explorer_address(**given) == HERE + expected
        parts = [unquote(part) for part in urlsplit(explorer_address(**whole)).path.split("/")[2:]]
        found = OfUnit(study=parts[0], layer=int(parts[1]), unit=parts[2])
        assert (found.study, found.layer, found.unit) == ("a/b c", 7, "12" if sign > 0 else "12-")


@pytest.mark.parametrize("given", ["https://example.org/n2g", "https://example.org/n2g/", " http://[::1]:80 "])
def test_the_environment_says_where_the_explorer_is(monkeypatch, given):
    monkeypatch.setenv("N2G_EXPLORER", given)
    assert explorer_address("demo", 0, 3, -1) == f"{given.strip().rstrip('/')}/study/demo/0/3-"
    assert explorer_link("demo")["explorer"].value == f"{given.strip().rstrip('/')}/study/demo"
    assert explorer_link("demo", 7)["explorer"].value.endswith("/study/demo/7")


@pytest.mark.parametrize(
    "given",
    ["javascript:alert(1)", "localhost:8777", "http://", "http://[", "http://a b", "http://a?x=1", "//a", "8777"],
)
def test_what_is_no_address_is_refused_before_a_run_begins(monkeypatch, tmp_path, given):
    monkeypatch.setenv("N2G_EXPLORER", given)
    message = (
        f"N2G_EXPLORER ({given}) is not where an explorer can be: write an address such as http://127.0.0.1:8777, or "
        "unset it."
    )
    with pytest.raises(SettingsError, match=re.escape(message)):
        N2GResource(home=str(tmp_path)).open()


def test_an_asset_is_an_address_of_dagster_and_a_place_that_is_none_is_refused(monkeypatch):
    monkeypatch.delenv("N2G_DAGSTER", raising=False)
    assert dagster_address("demo", "report") == "http://127.0.0.1:3000/assets/demo/report"
    monkeypatch.setenv("N2G_DAGSTER", "https://example.org/dagster/")
    assert dagster_address("a/b c") == "https://example.org/dagster/assets/a%2Fb%20c"
    monkeypatch.setenv("N2G_DAGSTER", "javascript:alert(1)")
    with pytest.raises(
        SettingsError, match=r"^N2G_DAGSTER \(javascript:alert\(1\)\) is not where the Dagster UI can be"
    ):
        dagster_address("demo")
