"""The summary of a study for a terminal."""

from unittest.mock import patch

from n2g_assets.core.home import Home
from n2g_assets.report.summary import study_summary
from n2g_assets_tests.report.published import database, study
from n2g_assets_tests.storage.helpers import rows


def said(tmp_path, **given) -> tuple[str, list[list[list[str]]]]:
    """The summary of a study named toy, and the cells of its tables."""
    with (
        database(toy=study(**given)) as connection,
        patch("n2g_assets.report.summary.open_database", return_value=connection),
    ):
        text = study_summary(Home(tmp_path), "toy")
    blocks = [block.splitlines() for block in text.split("\n\n") if "──" in block]
    return text, [[[cell.strip() for cell in line.split("  ") if cell] for line in block] for block in blocks]


def test_r_on_ordinary_text_leads_with_every_rival_beside_it_and_firing_follows(tmp_path):
    text, (graded, firing) = said(tmp_path)
    heads = ["layer", "text", "units", "r", "r from", "to", "explained variance"]
    rivals = ["token lookup", "n-gram", "back-off n-gram", "skip-bigrams", "shuffled graph"]
    assert graded[0] == heads + rivals
    assert graded[2] == ["0", "random", "4", "0.40", "0.36", "0.44", "0.20", "0.35", "0.36", "0.42", "0.43", "0.01"]
    texts = ["random"] * 3 + ["out_of_domain"] * 3
    assert [line[:2] for line in graded[2:]] == [
        [str(layer), name] for name, layer in zip(texts, [0, 7, 15] * 2, strict=True)
    ]
    assert firing[0][-6:] == ["AP", *rivals]
    assert len(firing) == 2 + 3 * 4
    assert text.index("Pearson's r of the activation in study 'toy', ") < text.index("F1 of firing in study 'toy'")


def test_the_rivals_are_those_of_the_studys_method(tmp_path):
    _, tables = said(tmp_path, method="evidence")
    for table in tables:
        assert table[0][-4:] == ["token lookup", "suffix evidence", "skip-bigrams", "shuffled graph"]


def test_the_papers_preset_has_firing_alone_and_its_own_rivals(tmp_path):
    text, (firing,) = said(tmp_path, preset="paper")
    assert firing[0][-2:] == ["token lookup", "n-gram"]
    assert "Pearson" not in text


def test_a_layer_that_is_not_evaluated_yet_has_a_line_without_scores(tmp_path):
    ledger = study()["ledger"]
    waiting = rows("ledger", {"layer": 20, "unit": 3, "stage": "activation_cache", "status": "ok"})
    _, (graded, firing) = said(tmp_path, ledger=ledger.vstack(waiting))
    assert [line[:3] for line in (graded[-1], firing[-1])] == [["20", "–", "1"]] * 2
    assert set(graded[-1][3:]) == {"–"}
