"""How a browser shows the report and its pictures."""

import json
import subprocess
from pathlib import Path

import pytest

from n2g_assets_tests.browser import BROWSER, need_browser
from n2g_assets_tests.report.parsed import Page
from n2g_assets_tests.report.published import HOSTILE, page, study
from n2g_assets_tests.report.test_page import SECTIONS


@pytest.fixture(scope="module", autouse=True)
def _browser() -> None:
    need_browser()


@pytest.fixture(scope="module")
def html() -> str:
    return page({"toy": study((7,))}, pictures=True)


def browse(folder: Path, html: str, *flags: str) -> str:
    (folder / "report.html").write_text(html, encoding="utf-8")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
        "--no-first-run", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={folder / 'profile'}", *flags, (folder / "report.html").as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=True).stdout


MEASURE = """<script>addEventListener('load', () => {
    const pictures = [...document.images].map(each => [each.naturalWidth, each.clientWidth, each.clientHeight])
    const tables = [...document.querySelectorAll('.wide')].filter(each => each.scrollWidth > each.clientWidth)
    const cut = tables.map(each => each.innerText)
    document.body.style.width = '390px'
    document.title = JSON.stringify({ pictures, cut, narrow: document.body.scrollWidth })
})</script>"""
"""Sizes of pictures, tables that are wider than the page, and how wide the page is that has only 390 pixels."""


def test_every_section_and_every_picture_is_shown_and_nothing_is_cut(tmp_path, html):
    """The page's own policy forbids scripts: a copy with one that measures shows that pictures load."""
    copy = html.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';", 1)
    copy = copy.replace("</head>", MEASURE + "</head>", 1)
    found = Page(browse(tmp_path, copy, "--dump-dom", "--window-size=1280,900"))
    assert [title.strip() for title in found.words["h2"]] == SECTIONS
    measured = json.loads(found.words["title"][0])
    sizes = measured["pictures"]
    # F1, curves and calibration of each text, r of the two ordinary ones, reach, and an example
    assert len(sizes) == html.count("<figure>") == 4 * 3 + 2 + 2
    assert all(natural > 300 and width > 300 and height > 150 for natural, width, height in sizes)
    assert (measured["cut"], measured["narrow"]) == ([], 390)


def test_the_pages_policy_lets_no_script_run(tmp_path, html):
    scripted = html.replace("</head>", "<script>document.title = 'ran'</script></head>", 1)
    found = Page(browse(tmp_path, scripted, "--dump-dom"))
    assert found.words["title"][0] == "toy: report on token graphs"
    assert any(HOSTILE in cell for cell in found.words["td"])


def test_the_page_can_be_printed(tmp_path):
    paper = page({"toy": study((7,), preset="paper")})
    browse(tmp_path, paper, f"--print-to-pdf={tmp_path / 'report.pdf'}", "--no-pdf-header-footer")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
