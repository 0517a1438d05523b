"""A page as tests read it: its tags and words, its text, its tables."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """Tags with their attributes, the words of every element by its tag, and all words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
            self.words.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        for tag in set(self.open):
            self.words[tag][-1] += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def text_of(html: str) -> str:
    return " ".join("".join(Page(html).words["main"]).replace("\xa0", " ").split())


def tables(html: str) -> dict[str, list[list[str]]]:
    """The body of every table, by its caption."""
    found = {}
    for table in re.findall(r"<table>.*?</table>", html, re.DOTALL):
        bodies = re.findall(r"<tbody>(.*?)</tbody>", table, re.DOTALL)
        lines = [line for body in bodies for line in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)]
        cells = [Page(f"<main>{line}</main>").words for line in lines]
        caption = Page(table).words["caption"][0]
        found[caption] = [[text.strip() for text in [*words.get("th", []), *words.get("td", [])]] for words in cells]
    return found
