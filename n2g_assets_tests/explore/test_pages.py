"""Every page in a browser, over a database that real runs have published."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from n2g_assets.core.explorer import dagster_address
from n2g_assets.core.home import Home
from n2g_assets.reading.study import open_study
from n2g_assets.report.text import share
from n2g_assets_tests.explore.conftest import EVIDENCE, PAPER

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Visit = Callable[..., "Page"]


try:
    from playwright.sync_api import expect
except ImportError:  # the fixture `browser` says what is missing
    expect = None


@pytest.fixture
def visit(browser: Browser, site: str) -> Iterator[Visit]:
    """Opens an address in a window of its own; nothing may fail there, and nothing may be asked for elsewhere."""
    wrong: list[str] = []
    contexts = []

    def open_page(path: str, *, problem: bool = False, **window: Any) -> Page:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | window))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(f"{path}: {error}"))
        page.on("requestfailed", lambda request: wrong.append(f"{path}: {request.url}") if broken(request) else None)
        page.on("request", lambda request: wrong.append(request.url) if outside(request.url) else None)
        if not problem:  # Chromium itself logs an answer of 404
            page.on("console", lambda message: wrong.append(f"{path}: {message.text}"))
        response = page.goto(site + path)
        assert problem or response.status == 200, page.content()
        return page

    def broken(request: Any) -> bool:
        return request.failure != "net::ERR_ABORTED"  # as of a page that is left before it is whole

    def outside(url: str) -> bool:
        return not url.startswith((site, "data:", "blob:"))

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@dataclass(frozen=True)
class Places:
    """Addresses in the home that both studies share."""

    layer: str
    unit: str
    paper: str
    rule: str
    token: str

    @property
    def pages(self) -> dict[str, str]:
        a, b = (quote(unit.removeprefix("/study/")) for unit in (self.unit, self.paper))
        return {
            "studies": "/", "study": f"/study/{EVIDENCE}", "study of the paper": f"/study/{PAPER}",
            "layer": self.layer, "unit": self.unit, "unit of the paper": self.paper, "rule": self.rule,
            "similar": f"{self.unit}/similar",
            "try": f"{self.unit}/try?text={quote(TEXT)}", "compare": f"/compare?a={a}&b={b}", "pair": "/compare",
            "search": f"/search?how=exact&activating={quote(self.token)}", "text": f"/search?text={quote(TEXT)}",
            "nothing": "/search?q=zzzz", "api": "/about/api",
        }  # fmt: skip


PAGES = (
    "studies", "study", "study of the paper", "layer", "unit", "unit of the paper", "rule", "similar", "try", "compare",
    "pair", "search", "text", "nothing", "api",
)  # fmt: skip
TEXT = "The children ran to the old king."


@pytest.fixture(scope="session")
def places(both: Home) -> Places:
    """A unit that has rules of both methods, a rule of several tokens, and a token it fires on."""
    study = open_study(EVIDENCE, both)
    layer, number = study.units().sort("random_pearson_r", descending=True).select("layer", "unit").row(0)
    unit = study.unit(layer, number)
    token = study.rows(
        """SELECT token FROM token_uses JOIN vocabulary USING (study, token_id)
        WHERE study = $study AND layer = $layer AND unit = $unit AND "offset" = 0 AND token_id > 300
        ORDER BY activation DESC, token_id LIMIT 1""",
        layer=layer, unit=number,
    )[0]["token"]  # fmt: skip
    of = f"/study/{EVIDENCE}/{layer}"
    return Places(
        of, f"{of}/{number}", f"/study/{PAPER}/{layer}/{number}",
        f"{of}/{number}/rule/{unit.rules()['end_node_id'][0]}", token.decode(),
    )  # fmt: skip


LOOK = """() => {
  const all = [...document.querySelectorAll('body *')];
  const shown = all.filter((each) => each.checkVisibility() && !each.closest('svg'));
  const colour = (text) => {
    const found = text.match(/[0-9.]+/g).map(Number);
    return found.length === 4 ? found : [...found, 1];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const behind = (each) => {
    const layers = [];
    for (let at = each; at; at = at.parentElement) layers.unshift(colour(getComputedStyle(at).backgroundColor));
    return layers.reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const faint = new Set();
  for (const each of shown) {
    if (![...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
    const style = getComputedStyle(each), paper = behind(each);
    const [a, b] = [light(over(colour(style.color), paper)), light(paper)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05), large = parseFloat(style.fontSize) >= 24;
    if (ratio < (large ? 3 : 4.5)) faint.add(`${each.tagName}.${each.className} ${ratio.toFixed(2)}`);
  }
  const named = (each) => each.labels?.length || each.ariaLabel || each.textContent.trim() || each.title;
  const levels = [...document.querySelectorAll('h1, h2, h3, h4')].filter((each) => !each.closest('dialog'));
  const ids = [...document.querySelectorAll('[id]')].map((each) => each.id);
  return {
    faint: [...faint],
    nameless: shown.filter((each) => each.matches('input:not([type=hidden]), select, textarea, button, a, [role]') &&
      !each.querySelector('img[alt]:not([alt=""])') && !named(each)).map((each) => each.outerHTML.slice(0, 80)),
    unlabelled: [...document.querySelectorAll('input:not([type=hidden]), select, textarea')].filter((each) =>
      !each.labels?.length && !each.getAttribute('aria-label')).map((each) => each.outerHTML.slice(0, 80)),
    pictures: [...document.images].filter((each) => !each.hasAttribute('alt')).length +
      [...document.querySelectorAll('main svg')].filter((each) => !each.getAttribute('aria-label') &&
        !each.getAttribute('aria-labelledby') && !each.querySelector('title')).length,
    levels: levels.map((each) => Number(each.tagName[1])),
    twice: ids.filter((each, at) => ids.indexOf(each) !== at),
    landmarks: ['main', 'header', 'footer', 'title'].filter((each) => !document.querySelector(each)),
    language: document.documentElement.lang,
  };
}"""
"""What somebody who sees little, or nothing, would miss on a page."""


def test_text_can_be_read_on_every_shade(visit, places) -> None:
    page = visit(places.unit)
    page.evaluate("""() => {
        for (const sign of ['u', 'd']) for (let step = 0; step <= 10; step++) {
            const token = document.createElement('span');
            token.className = `t ${sign}${step}`;
            token.textContent = 'token';
            document.querySelector('main').append(token);
        }
    }""")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(LOOK)["faint"] == []


def overflow(page: Page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_itself_in_both_schemes_wide_and_narrow(visit, places, name) -> None:
    page = visit(places.pages[name], color_scheme="light")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate(LOOK)
        levels = found.pop("levels")
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels)), levels
        assert (found.pop("language"), found.pop("pictures")) == ("en", 0)
        assert not any(found.values()), found
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", dark)[:3])) < 120
    assert overflow(page) <= 0
    page.set_viewport_size({"width": 390, "height": 800})
    assert overflow(page) <= 0
    assert len(page.content()) < 500_000


@pytest.mark.parametrize("path", ["/nowhere", "/study/none", f"/study/{EVIDENCE}/77", f"/study/{EVIDENCE}/x"])
def test_a_problem_is_a_page_too(visit, path: str) -> None:
    page = visit(path, problem=True, viewport={"width": 390, "height": 800})
    assert page.locator("h1").inner_text() in {"Not found", "That cannot be shown"}
    assert overflow(page) <= 0
    found = page.evaluate(LOOK)
    assert (found["faint"], found["unlabelled"]) == ([], [])
    page.get_by_text("All studies").last.click()
    assert page.locator("h1").inner_text() == "Studies"


def test_without_scripts_links_and_forms_lead_from_the_studies_to_a_text_and_back(visit, places) -> None:
    page = visit("/", java_script_enabled=False)
    page.get_by_role("link", name=EVIDENCE, exact=True).click()
    page.get_by_role("link", name=f"Layer {places.layer[-1]}", exact=True).click()
    assert page.locator("table.units tbody tr").count() == 4
    page.get_by_role("link", name=places.unit.rpartition("/")[2], exact=True).click()
    assert page.locator(".picture svg").count() == 1
    assert not page.locator("button.png").is_visible()
    page.locator(".sizes a").first.click()
    assert "rules=" in page.url
    page.locator(".rules a").first.click()
    assert page.locator("h1").inner_text().startswith("A rule of")
    page.go_back()
    page.get_by_role("link", name="try it on a text").click()
    page.get_by_label("A text of your own").fill(TEXT)
    page.get_by_role("button", name="Predict").click()
    assert page.locator("#live .t").count() > len(TEXT.split())
    page.get_by_label("Units that fire on a token").fill(places.token)
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Search")
    assert page.locator("tbody tr").count() > 0


def test_a_layer_is_sorted_filtered_and_paged_by_links(visit, places, monkeypatch) -> None:
    monkeypatch.setattr("n2g_assets.explore.layer.PER_PAGE", 3)
    page = visit(places.layer)
    assert page.locator("table.units tbody tr").count() == 3
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**page=2*")
    assert page.locator("table.units tbody tr").count() == 1
    page.get_by_role("link", name="before").click()
    page.get_by_role("link", name="Unit", exact=True).click()
    numbers = [int(each) for each in page.locator("table.units tbody th").all_inner_texts()]
    assert numbers == sorted(numbers)
    assert page.locator("th[aria-sort=ascending]").inner_text() == "Unit"
    page.get_by_label("Status").select_option("dead")
    page.get_by_role("button", name="Filter").click()
    assert page.locator("table.units tbody").inner_text() == "No unit of this layer is like that."
    assert "sort=unit" in page.url


def test_keys_search_step_change_the_size_and_go_up(visit, places) -> None:
    page = visit(places.unit)
    page.keyboard.press("?")
    assert page.locator("dialog#keys").is_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog#keys")).to_be_hidden()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "q"
    page.keyboard.type("[u")  # no keys where one types
    assert page.locator("input[name=q]").input_value() == "[u"
    page.locator("h1").click()
    before = page.locator(".rules tbody tr").count()
    page.keyboard.press("[")
    page.wait_for_url("**rules=*")
    assert page.locator(".rules tbody tr").count() < before
    page.keyboard.press("]")
    expect(page.locator(".rules tbody tr")).to_have_count(before)
    key, away = ("ArrowRight", "prev") if page.locator("a[rel=next]").count() else ("ArrowLeft", "next")
    page.keyboard.press(key)
    page.wait_for_url(lambda url: not url.split("?")[0].endswith(places.unit))  # both links may stand on either page
    page.wait_for_selector(f"a[rel={away}]")
    page.keyboard.press("u")
    page.wait_for_selector("table.units")
    page.wait_for_load_state()  # the script that listens to keys comes last
    page.keyboard.press("u")
    expect(page.locator("h1")).to_have_text(EVIDENCE)
    page.wait_for_load_state()
    page.keyboard.press("u")
    expect(page.locator("h1")).to_have_text("Studies")


def test_sections_fold_by_click_and_by_key(visit, places) -> None:
    page = visit(places.unit)
    heading = page.get_by_role("button", name="Rules", exact=True)
    table = page.locator("table.rules")
    assert heading.get_attribute("aria-expanded") == "true"
    heading.click()
    assert not table.is_visible()
    assert heading.get_attribute("aria-expanded") == "false"
    heading.press("Enter")
    assert table.is_visible()


def test_a_token_lights_up_the_rule_that_spoke(visit, places) -> None:
    page = visit(places.unit)
    node = page.evaluate("""() => [...document.querySelectorAll('.tokens [data-n]')].map((each) => each.dataset.n)
        .find((each) => document.querySelector(`tr[data-n="${each}"]`))""")
    page.locator(f".tokens [data-n='{node}']").first.click()
    assert "lit" in page.locator(f"tr[data-n='{node}']").get_attribute("class")


def test_a_text_is_predicted_while_it_is_typed_as_the_library_predicts_it(visit, both, places) -> None:
    page = visit(f"{places.unit}/try?rules=100")
    page.get_by_label("A text of your own").press_sequentially("The old king")
    page.wait_for_url("**text=The+old+king*")
    study, layer, number = places.unit.removeprefix("/study/").split("/")
    unit = open_study(study, both).unit(int(layer), int(number))
    expected = unit.predict("The old king", 100)
    assert page.locator("#live .t[data-n]").all_inner_texts() == expected["text"].to_list()
    titles = [each.get_attribute("title") for each in page.locator("#live .t[data-n]").all()]
    assert titles == [f"expected {share(value, 2)}" for value in expected["predicted"]]
    spoke = expected.drop_nulls("rule_id").sort("predicted", "position", descending=[True, False])
    means = dict(unit.rules(100).select("rule_id", "activation").rows())
    shown = [each.inner_text().split("\t")[:4] for each in page.locator("#live tbody tr").all()]
    assert shown == [
        [
            row["text"],
            *(
                share(value, 2)
                for value in (row["predicted"], means[row["rule_id"]], row["predicted"] - means[row["rule_id"]])
            ),
        ]
        for row in spoke.iter_rows(named=True)
    ]
    page.get_by_label("A text of your own").fill("")
    expect(page.locator("#live .t[data-n]")).to_have_count(0)


def test_a_graph_is_zoomed_and_taken_away_as_png_and_svg(visit, site, places) -> None:
    page = visit(places.unit)
    width = page.evaluate("document.querySelector('.picture svg').width.baseVal.value")
    page.get_by_role("button", name="larger").first.click()
    assert page.evaluate("document.querySelector('.picture svg').width.baseVal.value") > width
    with page.expect_download() as taken:
        page.get_by_role("button", name="PNG").click()
    png = Path(taken.value.path()).read_bytes()
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20], "big") == 2 * width
    for ending in ("SVG", "DOT", "JSON"):
        address = page.get_by_role("link", name=ending, exact=True).get_attribute("href")
        assert page.request.get(site + address).ok


def test_two_units_of_two_studies_stand_side_by_side_and_get_smaller_together(visit, places) -> None:
    page = visit("/compare")
    page.get_by_label("First").fill(places.unit.removeprefix("/study/"))
    page.get_by_label("Second").fill(places.paper.removeprefix("/study/"))
    page.get_by_role("button", name="Compare").click()
    assert page.locator("article .picture svg").count() == 2
    assert [EVIDENCE in each for each in page.locator("article h2").all_inner_texts()] == [True, True]
    page.locator(".sizes a").first.click()
    assert page.locator("article .picture svg").count() == 2
    page.set_viewport_size({"width": 1920, "height": 900})
    left, right = (box.bounding_box() for box in page.locator("article").all())
    assert left["y"] == right["y"]
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        upper, lower = (box.bounding_box() for box in page.locator("article").all())
        assert upper["y"] < lower["y"]
    for width in (1280, 1920):  # what rules expect stands at the right end of a picture
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(
            "[...document.querySelectorAll('.picture')].every((each) => each.scrollWidth <= each.clientWidth)"
        )


def test_what_masking_a_token_takes_is_said_and_shows_on_an_example_under_the_pointer_or_the_focus(
    visit, both, places
) -> None:
    page = visit(f"{places.unit}?examples=100")
    study, layer, number = places.unit.removeprefix("/study/").split("/")
    examples = open_study(study, both).unit(int(layer), int(number)).top_contexts()
    measured = [each for each in examples if each.importances is not None]
    assert 0 < len(measured) < len(examples)
    shown = page.locator("#examples ~ figure.measured")
    assert shown.count() == len(measured)
    first = measured[0]
    masked = shown.first.locator("[title*='masked']")
    titles = [each.get_attribute("title").split("; ")[1] for each in masked.all()]
    within = first.importances[max(1, first.peak - 32) : first.peak + 9]
    assert titles == [f"masked, {share(float(each), 2)} of the peak is lost" for each in within if each == each]
    strongest = page.locator("#examples ~ figure.measured .t.peak:is(.mu3, .mu4, .mu5, .mu6, .mu7, .mu8, .mu9, .mu10)")
    figure = strongest.first.locator("xpath=ancestor::figure")
    alpha = "each => getComputedStyle(each).boxShadow.match(/[0-9.]+(?=\\))/)[0]"
    page.mouse.move(0, 0)
    assert float(strongest.first.evaluate(alpha)) == 0
    figure.hover()
    assert float(strongest.first.evaluate(alpha)) > 0.25
    page.mouse.move(0, 0)
    figure.focus()
    assert float(strongest.first.evaluate(alpha)) > 0.25


def test_similar_units_come_into_the_page_by_script_and_are_a_link_without_it(visit, both, places) -> None:
    page = visit(places.unit)
    place = page.locator("[data-load=similar]")
    place.scroll_into_view_if_needed()
    expect(place.locator("table, p.meta").first).to_be_visible()
    links = [each.get_attribute("href") for each in place.locator("tbody th a").all()]
    study, layer, number = places.unit.removeprefix("/study/").split("/")
    query = "SELECT study, layer, unit FROM similar_units($study, $layer, $unit, controls := false)"
    found = open_study(study, both).rows(query, layer=int(layer), unit=int(number))
    assert links
    assert set(links) == {f"/study/{row['study']}/{row['layer']}/{row['unit']}" for row in found[:20]}
    plain = visit(places.unit, java_script_enabled=False)
    plain.locator("[data-load=similar] a").click()
    assert plain.locator("h1").inner_text().startswith("Units like")
    assert [each.get_attribute("href") for each in plain.locator("tbody th a").all()] == links
    plain.get_by_role("link", name="compare").first.click()
    assert plain.locator("article .picture svg").count() == 2


def test_curves_and_strengths_are_pictures_that_say_their_numbers(visit, both, places) -> None:
    page = visit(places.unit)
    study, layer, number = places.unit.removeprefix("/study/").split("/")
    unit = open_study(study, both).unit(int(layer), int(number))
    names = [each.get_attribute("aria-label") for each in page.locator(".charts svg").all()]
    sizes = unit.sizes()
    r = sizes["pearson_r"].drop_nulls()
    assert f"r from {share(r[0], 2)} to {share(r[-1], 2)}" in names[0]
    assert [name.split(":")[0].split(".")[0] for name in names] == [
        "Scores by rules of the graph", "r of the model by the tokens that it is shown",
        "Harvested positions by activation, as a share of the largest",
    ]  # fmt: skip
    counts = [each.text_content() for each in page.locator(".chart .bar title").all()]
    strong = [each / unit.a_max for each in unit.frame("activations")["activation"] if each > 0]
    assert counts[-1].startswith(".95 to 1.00: ")
    assert int(counts[-1].rpartition(" ")[2]) == sum(each >= 0.95 for each in strong)
    page = visit(f"/study/{EVIDENCE}")
    assert "graph from" in page.locator(".charts svg").first.get_attribute("aria-label")


def test_a_study_leads_to_its_assets_and_to_its_report(visit, site, places) -> None:
    page = visit(f"/study/{EVIDENCE}")
    assert page.get_by_role("link", name="Assets in Dagster").get_attribute("href") == dagster_address(EVIDENCE)
    assets = [each.get_attribute("href") for each in page.locator(".facts a").all()]
    assert dagster_address(EVIDENCE, "neuron_graphs") in assets
    assert len(assets) == 11
    page.get_by_role("link", name="Report", exact=True).click()
    page.wait_for_url("**/report")
    own_style = "getComputedStyle(document.documentElement).getPropertyValue('--paper')"
    assert page.evaluate(own_style)  # is let in
    page = visit(f"/study/{PAPER}")
    assert page.get_by_role("link", name="Report", exact=True).count() == 0


def test_several_tokens_are_asked_for_in_a_form_without_scripts(visit, places) -> None:
    page = visit("/search", java_script_enabled=False)
    page.get_by_text("More tokens, in order").click()
    page.get_by_label("Fires on", exact=True).fill(places.token)
    page.get_by_label("after", exact=True).fill("the")
    page.get_by_label("and before that").first.fill("a")
    page.get_by_role("button", name="Search", exact=True).click()
    assert page.locator("details.more").get_attribute("open") is not None
    assert page.get_by_label("and before that").first.input_value() == "a"
    assert "WITH meant AS MATERIALIZED" in page.locator("pre").inner_text() or page.locator(".notice").count()


def test_a_search_leads_to_a_unit_whose_rules_want_the_token(visit, both, places) -> None:
    page = visit("/")
    page.keyboard.press("/")
    page.keyboard.type(places.token.strip())
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Search")
    assert page.locator("pre").inner_text().startswith(("SELECT", "WITH", "FROM"))
    units = {each.get_attribute("href") for each in page.locator("tbody th a").all()}
    assert places.unit in units
    page.locator(f"tbody a[href='{places.unit}']").first.click()
    page.wait_for_selector(".picture svg")
    page = visit(places.pages["text"])
    assert page.locator(".lit .tokens").count() > 0
