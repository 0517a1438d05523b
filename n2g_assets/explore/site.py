"""Studies as static files, which can be hosted anywhere or opened from a disk.

1. All pages that are written are listed first, each with what is asked of it: a page is the same as in the explorer.
2. A unit has one page of everything. Pages of other sizes of its graph have the graph, its rules and its scores alone,
   and a page of all contexts these. Of a class ``SITE_TOKENS`` tokens are listed.
3. Each page gets a file. An address of the explorer that is among them becomes a relative link, any other becomes plain
   text, and templates leave out what takes a server: sorting, comparison, trying a text, and pages of the rules of the
   paper's graphs, which say no more than the rules do.
4. Searching is done in the browser, over an index of activating tokens, which is a script that sets a variable: a page
   that was opened from a disk may load nothing else.

An address ends in a folder with an ``index.html``, so that the explorer's addresses lead to the same pages wherever the
files are hosted: ``$N2G_EXPLORER`` may name that place.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from posixpath import dirname, relpath
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from pydantic import ValidationError

from n2g_assets.core.explorer import LAYER, STUDY, UNIT, unit_address
from n2g_assets.core.progress import Progress
from n2g_assets.core.registry import SHOWN_RULES, USED_FROM
from n2g_assets.core.units import unit_text
from n2g_assets.explore import layer, similar, studies, unit
from n2g_assets.explore.layer import PER_PAGE, AskedLayer
from n2g_assets.explore.page import RULE, Answer, Asked, OfStudy, OfUnit, Page, address, unit_facts
from n2g_assets.explore.rendering import environment
from n2g_assets.explore.similar import SIMILAR, AskedSimilar
from n2g_assets.explore.studies import all_studies
from n2g_assets.explore.unit import (
    AskedRule,
    AskedUnit,
    beside,
    offered_sizes,
    rule_answer,
    top_examples,
    unit_answer,
    unit_head,
)
from n2g_assets.method.tokens import display_text
from n2g_assets.reading.database import Snapshot
from n2g_assets.reading.study import Study
from n2g_assets.storage.files import new_folder

LARGEST = 30
"""Graphs of the sizes that the explorer offers are written up to this many rules."""
SITE_TOKENS = 20
"""Tokens of a class on the page of a rule, those that matter most."""
MOST_UNITS = 50
"""Units of a token in the index."""

POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src 'self' file: data:; "
    "form-action 'self' file:; base-uri 'none'"
)
"""What every page forbids itself; whether ``'self'`` holds for a page from a disk, browsers do not agree."""

_INDEX = "static/site_index.js"
_STATIC = ("explore.css", "explore.js", "icon.svg", "site_search.js")


class AskedSiteSearch(Asked):
    """The search page asks nothing: its script reads the address."""


def export_site(database: Snapshot, names: Sequence[str], out: Path, progress: Progress, *, force: bool = False) -> int:
    """Write the pages of studies; how many bytes they are.

    Args:
        database: where the studies are published.
        names: the studies.
        out: the folder, which is not there yet or empty, and is there as a whole or not at all.
        progress: called with the number of files.
        force: replace an earlier export.

    Raises:
        MissingError: a study is not published.
        StorageError: something else is in the folder, or it cannot be written.
    """
    opened = [Study(database, name) for name in dict.fromkeys(names)]
    with new_folder(out, force=force) as folder:
        return _Site(database, opened).write(folder, progress)


class _Site:
    """The pages of some studies, each with its file."""

    def __init__(self, database: Snapshot, opened: list[Study]) -> None:
        self.database, self.opened = database, opened
        named = {page.path: page for page in (*studies.PAGES, *layer.PAGES, *unit.PAGES, *similar.PAGES)}
        home = replace(named["/"], answer=self._studies)
        search = Page("/search", AskedSiteSearch, self._search, "site_search.html", "Search in the browser")
        of_unit = replace(named[UNIT], answer=_unit)
        rule = replace(named[RULE], answer=partial(rule_answer, most=SITE_TOKENS))
        listed = (home, named[STUDY], named[LAYER], of_unit, named[SIMILAR], rule, search)
        self.pages = {page.path: page for page in listed}
        self.patterns = [
            (re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path))), path) for path in self.pages
        ]
        self.files = {(path, asked): _file(path, asked) for path, asked in self._listed()}
        self.here = ""
        self.templates = environment(self._place, POLICY)

    # ---------------------------------------------------------------------------------------- what there is
    def _listed(self) -> Iterator[tuple[str, Asked]]:
        """Every page that is written: its path, and what is asked of it."""
        yield "/", Asked()
        yield "/search", AskedSiteSearch()
        for study in self.opened:
            yield STUDY, OfStudy(study=study.name)
            units = study.rows(_UNITS, largest=LARGEST)
            for number in study.layers:
                n_units = sum(row["layer"] == number for row in units)
                for page in range(1, max(1, -(-n_units // PER_PAGE)) + 1):
                    yield LAYER, AskedLayer(study=study.name, layer=number, page=page)
            for row in units:
                key = {"study": study.name, "layer": row["layer"], "unit": unit_address(row["unit"], row["sign"])}
                sizes = {size for size in offered_sizes(row["scored"], row["n_rules"]) if size <= LARGEST}
                for size in sorted(sizes | {SHOWN_RULES} if study.has_classes else {SHOWN_RULES}):
                    yield UNIT, AskedUnit(**key, rules=size)
                yield UNIT, AskedUnit(**key, examples=100)
                yield SIMILAR, AskedSimilar(**key)
                for node in row["nodes"]:
                    yield RULE, AskedRule(**key, node=node)

    def _studies(self, database: Snapshot, asked: Asked) -> Answer:
        return {"studies": all_studies(database, [study.name for study in self.opened])}

    def _search(self, database: Snapshot, asked: Asked) -> Answer:
        return {"most": MOST_UNITS, "least": USED_FROM}

    # ---------------------------------------------------------------------------------------- links
    def _place(self, to: str) -> str:
        """The relative link to an address of the explorer; empty where no file is written for it."""
        parts = urlsplit(to)
        file = parts.path[1:] if parts.path.startswith("/static/") else self._found(parts.path, parts.query)
        if not file:
            return ""
        return quote(relpath(file, dirname(self.here) or ".")) + (f"#{parts.fragment}" if parts.fragment else "")

    def _found(self, path: str, query: str) -> str:
        for pattern, name in self.patterns:
            if match := pattern.fullmatch(path):
                values = {field: unquote(value) for field, value in match.groupdict().items()}
                try:
                    asked = self.pages[name].asked.model_validate(dict(parse_qsl(query)) | values)
                except ValidationError:
                    return ""
                return self.files.get((name, asked), "")
        return ""

    # ---------------------------------------------------------------------------------------- writing
    def write(self, folder: Path, progress: Progress) -> int:
        """Write all files to a folder; how many bytes they are."""
        written = 0
        for name in _STATIC:
            written += _write(folder, f"static/{name}", (files("n2g_assets.explore") / "static" / name).read_bytes())
        written += _write(folder, _INDEX, self._index().encode())
        for done, ((path, asked), file) in enumerate(self.files.items()):
            progress(done, len(self.files))
            written += _write(folder, file, self._html(self.pages[path], asked, file).encode())
        progress(len(self.files), len(self.files))
        return written

    def _html(self, page: Page, asked: Asked, file: str) -> str:
        self.here = file
        answer = page.answer(self.database, asked)
        here = address(page.path, {name: getattr(asked, name) for name in page.in_path})
        context = {"asked": asked, "snapshot": self.database, "twin": "", "here": here, "answer": answer}
        html = self.templates.get_template(page.template).render(answer | context)
        return html.replace(' href=""', "")  # a link to what is not written becomes its text

    def _index(self) -> str:
        """The script that sets the index: units; and tokens, each with how it is shown, and pairs of unit and value."""
        self.here = self.files["/search", AskedSiteSearch()]
        units: list[list[Any]] = []
        tokens: dict[bytes, list[int]] = {}
        for study in self.opened:
            places: dict[tuple[int, int, int], int] = {}
            for row in study.rows("FROM fidelity_card WHERE study = $study ORDER BY layer, unit, sign DESC"):
                key = (row["layer"], row["unit"], row["sign"])
                places[key] = len(units)
                to = self._place(address(UNIT, {"study": study.name, "layer": key[0], "unit": unit_address(*key[1:])}))
                r = None if row["random_pearson_r"] is None else round(row["random_pearson_r"], 4)
                units.append([study.name, unit_text(*key, study.word), to, r, row["top_pattern"] or ""])
            for token, number, index, sign, expects in study.frame(_USES, most=MOST_UNITS).iter_rows():
                tokens.setdefault(token, []).extend((places[number, index, sign], round(100 * expects)))
        listed = [[token.decode(errors="replace"), display_text(token), pairs] for token, pairs in tokens.items()]
        return f"window.n2gIndex = {json.dumps({'units': units, 'tokens': listed}, separators=(',', ':'))};\n"


def _unit(database: Snapshot, asked: AskedUnit) -> Answer:
    """All of a unit where nothing but the unit is asked for; otherwise what differs from that."""
    if not asked.model_dump(exclude_defaults=True, exclude=set(OfUnit.model_fields)):
        return unit_answer(database, asked)
    of = asked.the_unit(database)
    sized = asked.rules != SHOWN_RULES
    part = unit_head(of, asked.rules) if sized else top_examples(of, asked.rules, asked.examples)
    return unit_facts(of) | {"rules": asked.rules} | part | beside(of)


_UNITS = """
    WITH curves AS (
        SELECT layer, unit, sign, list(n_rules) AS scored FROM size_curve
        WHERE study = $study AND text = 'random' GROUP BY layer, unit, sign
    )
    SELECT layer, unit, sign, count(rule_id) FILTER (until IS NULL) AS n_rules,
        coalesce(any_value(scored), []) AS scored,
        coalesce(list(end_node_id ORDER BY end_node_id) FILTER (rank <= $largest), []) AS nodes
    FROM unit_status LEFT JOIN rules USING (study, layer, unit, sign)
    LEFT JOIN curves USING (layer, unit, sign)
    WHERE study = $study GROUP BY layer, unit, sign ORDER BY layer, unit, sign DESC"""
_USES = """
    SELECT v.token, layer, unit, sign, max(activation) AS expects
    FROM token_uses JOIN vocabulary AS v USING (study, token_id)
    WHERE study = $study AND "offset" = 0 AND activation > 0
    GROUP BY v.token, layer, unit, sign
    QUALIFY row_number() OVER (PARTITION BY v.token ORDER BY expects DESC, layer, unit, sign) <= $most
    ORDER BY v.token, expects DESC, layer, unit, sign"""


def _file(path: str, asked: Asked) -> str:
    """The file of a page: what is asked beside its address stands in its name."""
    values = {name: str(value) for name, value in asked.model_dump().items()}
    folder = path.format(**values)[1:]
    named = {name: values[name] for name in asked.model_dump(exclude_defaults=True) if "{" + name + "}" not in path}
    name = "_".join(f"{name}-{value}" for name, value in named.items()) or "index"
    return f"{folder}/{name}.html".lstrip("/")


def _write(folder: Path, name: str, content: bytes) -> int:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.write_bytes(content)
