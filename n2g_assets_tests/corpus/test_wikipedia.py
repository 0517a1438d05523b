from __future__ import annotations

import bz2
import io

import pytest

from n2g_assets.core.home import Home
from n2g_assets.corpus import wikipedia
from n2g_assets.corpus.wikipedia import read_wikipedia, render_article
from n2g_assets_tests.storage.helpers import files_below

ARTICLE = """{{Use dmy dates}}
{{Infobox river
| name = Aa
}}
[[File:Aa.jpg|thumb|The [[Aa River|Aa]] in May]]
The '''Aa''' ({{IPA-nl|aː}}) is a [[river]] of ''the'' [[Netherlands|Low Countries]],<ref name="x">A book.</ref> about
{{convert|5|to|7|km|mi}} long and {{nowrap|2&nbsp;m}} deep.<!-- true? --> Its flow is <math>Q = v A</math>.

== History ==

* First, {{lang|nl|water}}
** then [http://example.org a mill]

{| class="wikitable"
| a || b
|}

=== Floods ===

== Empty ==

=== Not empty ===
Words.

== See also ==
* [[Rivers]]

=== Lists ===
More links.

== Name ==
{{quote|Aa means water.}}
[[Category:Rivers]]
"""

RENDERED = """Aa River

The Aa is a river of the Low Countries, about
5 to 7 km long and 2 m deep. Its flow is $Q = v A$.

History

- First, water
- then a mill

Empty

Not empty

Words.

Name

Aa means water.
"""


def page(title, text, ns=0, more=""):
    return f"<page><title>{title}</title><ns>{ns}</ns>{more}<revision><text>{text}</text></revision></page>"


def dump(*pages):
    xml = f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">{"".join(pages)}</mediawiki>'
    return io.BytesIO(bz2.compress(xml.encode()))


def test_wikitext_becomes_the_prose_that_a_reader_would_see():
    assert render_article("Aa River", ARTICLE) == RENDERED


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("{{As of|2008}}, all.", "As of 2008, all."),
        ("{{convert|5|km}} off", "5 km off"),
        ("{{frac|1|2}} {{val|3|u=kg}}", "1/2 3 kg"),
        ("a (; {{IPA|x}}) b", "a b"),
        ("[[:Category:Rivers]] and [[wikt:word]]", ":Category:Rivers and word"),
        ("x<ref>unclosed {{cite</ref>, y", "x, y"),
        ("one<br />two", "one\ntwo"),
    ],
)
def test_inline_markup_leaves_no_hole(wikitext, text):
    assert render_article("T", wikitext) == f"T\n\n{text}\n"


def test_disambiguation_pages_and_pages_without_text_are_left_out():
    assert render_article("Aa", "'''Aa''' may be:\n* [[Aa River]]\n{{disambiguation}}") == ""
    assert render_article("Aa", "{{Infobox river}}") == ""


def test_redirects_and_other_namespaces_are_left_out(tmp_path):
    file = dump(
        page("One", "First."),
        page("Old", "#REDIRECT [[One]]", more='<redirect title="One" />'),
        page("Talk:One", "Chat.", ns=1),
        page("Two", "Second."),
    )
    documents = list(read_wikipedia(file, "abc", Home(tmp_path)))
    assert [(document.name, document.text) for document in documents] == [
        ("One", "One\n\nFirst.\n"),
        ("Two", "Two\n\nSecond.\n"),
    ]


def test_articles_are_rendered_once_and_kept(tmp_path, monkeypatch):
    first = list(read_wikipedia(dump(page("One", "First.\u2028Line.")), "abc", Home(tmp_path)))
    assert first[0].text == "One\n\nFirst.\u2028Line.\n"
    assert [document.name for document in read_wikipedia(dump(page("Two", "Other.")), "def", Home(tmp_path))] == ["Two"]
    monkeypatch.setattr(wikipedia, "render_article", None)
    assert list(read_wikipedia(dump(page("One", "First.")), "abc", Home(tmp_path))) == first


def test_articles_of_which_any_bit_is_flipped_are_rendered_anew(tmp_path, caplog):
    home = Home(tmp_path)
    first = list(read_wikipedia(dump(page("One", "First.")), "abc", home))
    kept = [tmp_path / name for name in files_below(tmp_path) if name.startswith("cache")]
    assert {path.name for path in kept} == {"articles.jsonl", "entry.json"}
    for path in kept:
        whole = path.read_bytes()
        for position in range(0, len(whole), 5):
            flipped = whole[position] ^ 1 << position % 8
            path.write_bytes(whole[:position] + bytes([flipped]) + whole[position + 1 :])
            assert list(read_wikipedia(dump(page("One", "First.")), "abc", home)) == first
            assert path.read_bytes() == whole
    assert "is damaged" in caplog.text
