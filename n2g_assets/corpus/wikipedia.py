"""Wikipedia articles as plain prose, from a MediaWiki XML dump.

Steps: the bz2 file is parsed as a stream; redirects, disambiguation pages and pages outside the main namespace are
left out; each article's wikitext is rendered node by node. References, tables, galleries, files, categories and most
templates vanish; a few inline templates (units, quotations, foreign words) keep their words, because a hole in the
middle of a sentence is no prose. Formulas stay as ``$...$``. Sections that hold only links and references are cut.
Rendering takes seconds, so the result is kept in the cache.
"""

import bz2
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

import mwparserfromhell
from mwparserfromhell import nodes
from mwparserfromhell.wikicode import Wikicode

from n2g_assets.core.home import Home
from n2g_assets.corpus.rows import RawDocument
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.hashing import hash_json

RENDER_VERSION = 1
"""Raised when the rendered text changes: articles that another version kept are rendered anew."""

_ARTICLES = "articles.jsonl"

_DROPPED_SECTIONS = {
    *("references", "external links", "see also", "further reading", "notes", "footnotes", "bibliography"),
    *("citations", "sources", "notes and references", "references and notes", "works cited", "gallery"),
    *("selected bibliography", "additional reading", "other uses", "discography", "filmography"),
}
_DROPPED_TAGS = {"ref", "references", "table", "gallery", "timeline", "imagemap", "score", "hr", "templatestyles"}
_DROPPED_NAMESPACES = {"file", "image", "category", "media", "template", "portal"}
_DISAMBIGUATION = {"disambiguation", "disambig", "dab", "geodis", "hndis", "surname", "given name", "letter-number"}

_TEXT_IN_FIRST = {
    *("nowrap", "nobr", "small", "smaller", "big", "sc", "smallcaps", "abbr", "tooltip", "vanchor", "visible anchor"),
    *("quote", "cquote", "blockquote", "quotation", "em", "strong", "angbr", "keypress", "nihongo", "chem", "var"),
    *("circa", "sub", "sup", "math", "mvar", "lang-en"),
}
_TEXT_IN_SECOND = {"lang", "transl", "color", "font color", "simplenuclide", "abbrlink"}
_FIXED_TEXT = {
    **{"·": "·", "!": "|", "nbsp": " ", "spaces": " ", "'s": "'s", "'": "'", "=": "="},
    **{"ndash": "–", "en dash": "–", "spaced ndash": " – ", "snd": " – ", "mdash": "—", "--": "—"},
}
_LINKS_BETWEEN = {"to": " to ", "and": " and ", "-": "–", "–": "–", "by": " by ", "x": " by ", "or": " or "}


def read_wikipedia(file: IO[bytes], file_hash: str, home: Home) -> Iterator[RawDocument]:
    """The articles of a ``pages-articles`` dump (bz2), in its order, each with its title as first line.

    They are kept in the cache of ``home`` under ``file_hash``, which identifies the dump's content.
    """

    def fill(folder: Path) -> None:
        with (folder / _ARTICLES).open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(vars(document)) + "\n" for document in _render_dump(file))

    entry = Cache(home).obtain("wikipedia", hash_json([file_hash, RENDER_VERSION]), fill)
    for line in entry.path(_ARTICLES).read_bytes().splitlines():
        yield RawDocument(**json.loads(line))


def _render_dump(file: IO[bytes]) -> Iterator[RawDocument]:
    with bz2.open(file) as xml:
        for _, element in ElementTree.iterparse(xml):
            if not element.tag.endswith("}page"):
                continue
            title = element.findtext("{*}title", "")
            wikitext = element.findtext("{*}revision/{*}text", "")
            in_main = element.findtext("{*}ns") == "0" and element.find("{*}redirect") is None
            element.clear()
            text = render_article(title, wikitext) if in_main else ""
            if text:
                yield RawDocument(title, text)


def render_article(title: str, wikitext: str) -> str:
    """Plain text of one article: the title, then its sections; empty for a disambiguation page."""
    code = mwparserfromhell.parse(wikitext)
    if any(_name(template) in _DISAMBIGUATION for template in code.ifilter_templates(recursive=False)):
        return ""
    sections: list[tuple[int, str, list[str]]] = [(1, title, [])]
    dropped_level = 99
    for node in code.nodes:
        if isinstance(node, nodes.Heading):
            heading = _tidy(_render(node.title))
            if node.level <= dropped_level:
                dropped_level = node.level if heading.lower() in _DROPPED_SECTIONS else 99
            if dropped_level == 99:
                sections.append((node.level, heading, []))
        elif dropped_level == 99:
            sections[-1][2].append(_render_node(node))
    blocks: list[str] = []
    below = 0  # level of the section after this one that was kept
    for level, heading, parts in reversed(sections):
        body = _tidy("".join(parts))
        if body or below > level:
            blocks.append(f"{heading}\n\n{body}".strip())
            below = level
    return "\n\n".join(reversed(blocks)) + "\n" if blocks else ""


def _render(code: Wikicode | None) -> str:
    return "" if code is None else "".join(_render_node(node) for node in code.nodes)


def _render_node(node: object) -> str:
    text = ""  # comments and template arguments vanish
    if isinstance(node, nodes.Text):
        text = str(node.value)
    elif isinstance(node, nodes.HTMLEntity):
        text = str(node.normalize() or "")
    elif isinstance(node, nodes.Wikilink):
        text = _render_link(node)
    elif isinstance(node, nodes.ExternalLink):
        text = _render(node.title) if node.brackets else str(node.url)
    elif isinstance(node, nodes.Tag):
        text = _render_tag(node)
    elif isinstance(node, nodes.Template):
        text = _render_template(node)
    elif isinstance(node, nodes.Heading):
        text = f"\n\n{_render(node.title)}\n\n"
    return text


def _render_link(link: nodes.Wikilink) -> str:
    target = str(link.title).strip()
    prefix = target.partition(":")[0].strip().lower()
    if prefix in _DROPPED_NAMESPACES:
        return ""
    return _render(link.text) if link.text is not None else target.rpartition(":")[2] if prefix == "wikt" else target


def _render_tag(tag: nodes.Tag) -> str:
    name = str(tag.tag).strip().lower()
    if name in _DROPPED_TAGS:
        return ""
    if name == "li" and tag.wiki_markup:
        return "- "
    if name == "br":
        return "\n"
    if name == "math":
        return f"${' '.join(str(tag.contents).split())}$"
    return _render(tag.contents)


def _name(template: nodes.Template) -> str:
    return str(template.name).strip().lower().replace("_", " ")


def _argument(template: nodes.Template, number: int) -> str:
    return _render(template.get(number).value).strip() if template.has(number) else ""


def _render_template(template: nodes.Template) -> str:
    name = _name(template)
    first, second, third, fourth = (_argument(template, number) for number in (1, 2, 3, 4))
    text = _FIXED_TEXT.get(name, "")
    if name in _TEXT_IN_FIRST or name.startswith("lang-"):
        text = first
    elif name in _TEXT_IN_SECOND:
        text = second
    elif name in ("as of", "asof"):
        text = " ".join(["As of", *filter(None, (first, second, third))])
    elif name in ("convert", "cvt"):  # {{convert|5|km}}, {{convert|5|to|7|km}}
        link = _LINKS_BETWEEN.get(second)
        text = (f"{first} {second}" if link is None else f"{first}{link}{third} {fourth}").strip()
    elif name == "val":
        unit = str(template.get("u").value).strip() if template.has("u") else ""
        text = f"{first} {unit}".strip()
    elif name == "frac":
        text = "/".join(filter(None, (first, second, third)))
    return text


_TIDY = tuple(
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in (
        (r"<ref[^>]*>[^<]*</ref>|'{2,}|__[A-Z]+__", ""),  # what a broken table or reference left unparsed
        (r"^ *(?:[|!].*|\{\|.*)$", ""),
        (r"[ \t\u00a0]+", " "),
        (r"\((?:[ ,;:/–-]|or|and)*\)", ""),  # brackets that lost all their words
        (r"([(\[])[ ,;:]+", r"\1"),
        (r"[ ,;:]+([)\]])", r"\1"),
        (r" +([,.;:!?)])(?=\s|$)", r"\1"),
        (r"^(?:- ?)*- ", "- "),
        (r"^ +| +$", ""),
        (r" {2,}", " "),
        (r"^-?$\n(?=^- )", ""),
        (r"^[-,.;:|]+$", ""),
        (r"\n{3,}", "\n\n"),
    )
)


def _tidy(text: str) -> str:
    for pattern, replacement in _TIDY:
        text = pattern.sub(replacement, text)
    return text.strip()
