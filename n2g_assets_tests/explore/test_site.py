"""Studies as static pages: every link leads to a written file, tokens stay text, and a folder is whole or not there."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import duckdb
import pytest

from n2g_assets import cli
from n2g_assets.core.errors import MissingError, StorageError
from n2g_assets.explore.site import LARGEST, POLICY, export_site
from n2g_assets.explore.unit import offered_sizes
from n2g_assets.reading.database import Database, Snapshot
from n2g_assets.reading.study import Study
from n2g_assets.report.text import human_bytes
from n2g_assets_tests.assets.studies import no_progress

HOSTILE = "</script><script>alert(1)</script>\" onclick='alert(1)' \u202e<img src=http://example.org/x>"


class Seen(HTMLParser):
    """The elements of a page, and its links and assets."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def links(self) -> list[str]:
        """What it points at; a picture's links are those of an SVG."""
        return [
            values[name] or "" for _, values in self.elements for name in ("href", "src", "action") if name in values
        ]

    @property
    def ids(self) -> set[str | None]:
        return {values.get("id") for _, values in self.elements}


@dataclass(frozen=True)
class Site:
    """A written site, and the database it is of."""

    database: Snapshot
    folder: Path
    pages: dict[Path, Seen]
    said: str
    """What the command said."""


@pytest.fixture(scope="module", params=["paper", "evidence"])
def site(request, finished, finished_evidence, tmp_path_factory) -> Site:
    """Of two units of the first layer of a tiny study, with hostile tokens."""
    run = finished if request.param == "paper" else finished_evidence
    home = tmp_path_factory.mktemp("home")
    shutil.copy(run.home / "n2g.duckdb", home)
    _leave_two_hostile_units(home / "n2g.duckdb")
    folder, said = home / "site", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.setenv("N2G_HOME", str(home))
        assert cli.main(["export-site", str(folder), "--study", "tiny"]) == 0
    pages = {path: Seen(path) for path in folder.rglob("*.html")}
    return Site(Database(home / "n2g.duckdb").snapshot(), folder, pages, said.getvalue())


def _leave_two_hostile_units(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE vocabulary SET token = encode($1 || token_id), text = $1 || token_id", [HOSTILE])
        connection.execute("UPDATE rules SET pattern = $1", [HOSTILE])
        connection.execute("UPDATE failures SET reason = $1", [HOSTILE])
        chosen = "SELECT layer, unit FROM unit_status WHERE layer = 0 AND status = 'ok' ORDER BY ALL LIMIT 2"
        kept = connection.sql(chosen).fetchall()
        for table in ("ledger", "unit_status", "fidelity_card"):
            connection.execute(f"DELETE FROM {table} WHERE (layer, unit) NOT IN ({', '.join(map(str, kept))})")
        connection.execute("DELETE FROM token_uses WHERE (layer, unit) NOT IN (SELECT (layer, unit) FROM unit_status)")


def test_every_link_and_asset_of_every_page_is_a_written_file_and_place(site) -> None:
    wrong, reached = [], {site.folder / "index.html"}
    for path, page in site.pages.items():
        for link in page.links:
            parts = urlsplit(link)
            assert not parts.scheme, link
            assert not parts.netloc, link
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file() or (parts.fragment and parts.fragment not in site.pages[target].ids):
                wrong.append(f"{path.relative_to(site.folder)}: {link}")
            reached.add(target)
    assert not wrong
    assert set(site.pages) <= reached, "every page is linked from somewhere"


def test_it_has_each_unit_at_each_offered_size_and_every_rule_that_it_shows(site) -> None:
    study = Study(site.database, "tiny")
    assert len(study.units()) == 2
    for row in study.units().iter_rows(named=True):
        folder = site.folder / "study" / "tiny" / str(row["layer"]) / str(row["unit"])
        scored = study.unit(row["layer"], row["unit"], row["sign"]).sizes()["n_rules"]
        offered = [size for size in offered_sizes(scored, row["n_rules"]) if size <= LARGEST]
        offered = offered if study.has_classes else []  # a graph of the paper has one size
        assert len(offered) > 2 * study.has_classes - 1
        assert all(size in scored for size in offered if size < row["n_rules"])
        for size in [10, *offered]:
            html = (folder / ("index.html" if size == 10 else f"rules-{size}.html")).read_text(encoding="utf-8")
            assert (f'<b aria-current="true">{size}</b>' in html) == (size in offered)
            assert html.count('translate="no"><a href="rule/') == html.count("<tr data-n=") * study.has_classes
    assert not [path for path in site.pages if "rules-50" in path.name]


def test_no_page_needs_a_server_and_every_page_forbids_itself_scripts_of_others(site) -> None:
    for page in site.pages.values():
        assert ("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}) in page.elements
        assert "try it" not in page.text
        assert "as JSON" not in page.text
        forms = [values for tag, values in page.elements if tag == "form"]
        assert all(str(values.get("action", "index.html")).endswith("index.html") for values in forms)
        assert not [values for _, values in page.elements if "style" in values or any(n[:2] == "on" for n in values)]


def test_the_command_says_how_large_it_is_and_where_it_begins(site) -> None:
    size = sum(path.stat().st_size for path in site.folder.rglob("*") if path.is_file())
    index = site.folder / "index.html"
    assert site.said == f"{human_bytes(size)} in {site.folder}: open {index}, or host the folder anywhere.\n"


def test_hostile_tokens_patterns_and_reasons_stay_text(site) -> None:
    own = {"explore.js", "site_index.js", "site_search.js"}
    for page in site.pages.values():
        assert {Path(values["src"] or "").name for tag, values in page.elements if tag == "script"} <= own
        assert {Path(values["src"] or "").name for tag, values in page.elements if tag == "img"} == {"icon.svg"}
    assert sum("alert(1)" in page.text for page in site.pages.values()) >= 4
    assert "\u202e" not in (site.folder / "static" / "site_index.js").read_text(encoding="utf-8")


def test_the_index_names_the_units_of_each_activating_token_as_the_database_does(site) -> None:
    text = (site.folder / "static" / "site_index.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("window.n2gIndex = ").removesuffix(";\n"))
    found = {(token, index["units"][unit][1]) for token, _, pairs in index["tokens"] for unit in pairs[::2]}
    query = """
        SELECT DISTINCT decode(v.token), format('layer {}, neuron {}', layer, unit)
        FROM token_uses JOIN vocabulary AS v USING (study, token_id) WHERE "offset" = 0 AND activation > 0"""
    assert found == set(site.database.frame(query).iter_rows())
    assert found
    assert all((site.folder / "search" / unit[2]).is_file() for unit in index["units"])


def test_a_folder_with_other_things_is_refused_and_an_earlier_export_is_replaced_when_told(site, tmp_path) -> None:
    database = site.database
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"out is not empty: name another folder, or add --force to replace it\.$"):
        export_site(database, ["tiny"], out, no_progress)
    with pytest.raises(StorageError, match=r"out holds no earlier export, and is not replaced: name another folder"):
        export_site(database, ["tiny"], out, no_progress, force=True)
    assert (out / "thesis.txt").read_text() == "mine"
    with pytest.raises(StorageError, match=r"thesis\.txt is a file: name a folder\.$"):
        export_site(database, ["tiny"], out / "thesis.txt", no_progress)
    (out / "thesis.txt").rename(out / ".n2g-export")
    with pytest.raises(MissingError):
        export_site(database, ["tiny", "none"], out, no_progress, force=True)

    def ended(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_site(database, ["tiny"], out, ended, force=True)
    assert [path.name for path in out.iterdir()] == [".n2g-export"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
