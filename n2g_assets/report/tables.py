"""The report's tables, from the frames of one study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from n2g_assets.core.units import unit_text
from n2g_assets.method.display import clean_text
from n2g_assets.report.blocks import NONE, Cell, Table, count, of_total, scored, share, words
from n2g_assets.report.findings import PREDICTORS, text_name
from n2g_assets.report.plots import styles as entries


class _Style:
    def __init__(self, entry: Any) -> None:
        self.name, self.control = entry.label, entry.role == "control"


def styles(names: Any) -> dict[str, Any]:  # noqa: D103
    return {entry.name: _Style(entry) for entry in entries(names)}


PUBLISHED = {
    "precision": (0.74, 0.66, 0.60, 0.48, 0.44, 0.45),
    "recall": (0.85, 0.77, 0.77, 0.70, 0.72, 0.67),
    "f1": (0.74, 0.64, 0.60, 0.48, 0.46, 0.42),
}
"""Means of firing by layer that the paper (arXiv 2305.19911) gives for SoLU-6L, 50 units a layer."""

CHANGES = ("exchanged", "moved", "removed")

_MEANS = ("precision", "recall", "average_precision", "auroc", "pearson_r", "coverage_firings", "coverage_mass")
_WINDOW, _CHARACTERS = 24, 160
_UNIT = ("layer", "unit", "sign")
_STATUS = ("ok", "dead", "too_few_contexts", "failed")


def overview(scores: pl.DataFrame, text: str) -> Table:
    """Layers by predictors: mean F1 over all units, controls left out, the largest of a layer in bold."""
    here = scores.filter(text=text)
    names = [name for name, style in styles(here["predictor"].unique()).items() if not style.control]
    rows = []
    for layer in here["layer"].unique().sort():
        found = {row["predictor"]: row for row in here.filter(layer=layer).iter_rows(named=True)}
        largest = max((found[name]["f1_all"] for name in names if name in found), default=None)
        cells = [
            scored(found[name], "f1_all", strong=found[name]["f1_all"] == largest) if name in found else Cell(NONE)
            for name in names
        ]
        rows.append((Cell(str(layer)), *cells))
    head = ("layer", *(style.name for style in styles(names).values()))
    return Table(f"Mean F1 of firing over all units asked for, on {text_name(text)}.", head, (tuple(rows),))


def details(scores: pl.DataFrame, evaluation: pl.DataFrame, text: str) -> Table:
    """Every score of every layer and predictor on one text."""
    here, units = scores.filter(text=text), evaluation.filter(text=text)
    means = {
        (row["layer"], row["predictor"]): row
        for row in units.group_by("layer", "predictor")
        .agg(pl.col(name).mean() for name in _MEANS)
        .iter_rows(named=True)
    }
    groups = []
    for layer in here["layer"].unique().sort():
        found = {row["predictor"]: row for row in here.filter(layer=layer).iter_rows(named=True)}
        rows = []
        for name, style in styles(found).items():
            row, mean = found[name], means.get((layer, name), dict.fromkeys(_MEANS))
            rows.append(
                (
                    words(style.name), Cell(f"{row['evaluated']}/{row['units']}"), scored(row, "f1_all"),
                    scored(row, "f1"), Cell(share(mean["precision"])), Cell(share(mean["recall"])),
                    scored(row, "average_precision"), Cell(share(mean["auroc"])), Cell(share(mean["pearson_r"])),
                    Cell(share(mean["coverage_firings"])), Cell(share(mean["coverage_mass"])),
                )
            )  # fmt: skip
        groups.append(((Cell(str(layer)), *rows[0]), *rows[1:]))
    return Table(
        f"All scores on {text_name(text)}. Units: with a score, of those asked for.",
        ("layer", "predictor", "units", "all", "defined", "P", "R", "AP", "AUROC", "r", "firings", "mass"),
        tuple(groups),
        over=(("", 3), ("F1 of firing", 2), ("", 5), ("coverage", 2)),
        grouped=True,
    )


def controls(scores: pl.DataFrame, texts: Sequence[str]) -> Table | None:
    """The graph beside its controls: mean F1 over all units by text and layer; None where there is no control."""
    series = styles(scores["predictor"].unique())
    names = [name for name, style in series.items() if style.control or name == "graph"]
    if not any(series[name].control for name in names):
        return None
    groups = []
    for text in texts:
        rows = []
        for layer in scores.filter(text=text)["layer"].unique().sort():
            found = {row["predictor"]: row for row in scores.filter(text=text, layer=layer).iter_rows(named=True)}
            cells = [scored(found[name], "f1_all") if name in found else Cell(NONE) for name in names]
            rows.append((count(layer), *cells))
        if rows:
            groups.append(((words(text_name(text, 0)), *rows[0]), *rows[1:]))
    head = ["text", "layer", *(series[name].name for name in names)]
    return Table("Mean F1 of firing over all units asked for.", tuple(head), tuple(groups), grouped=True)


def rule_tests(tests: pl.DataFrame) -> Table:
    """By layer: rules tested, share of matching texts that fire, share of near misses that stay silent."""
    sums = tests.group_by("layer").agg(
        pl.struct("unit", "sign").n_unique().alias("units"),
        pl.len().alias("rules"),
        *(
            pl.col(name).sum()
            for name in ("n_matches", "fired", "n_near_misses", "silent", "n_context_near_misses", "context_silent")
        ),
    )
    rows = tuple(
        (
            Cell(str(row["layer"])), count(row["units"]), count(row["rules"]),
            count(row["n_matches"]), Cell(_ratio(row["fired"], row["n_matches"])),
            count(row["n_context_near_misses"]), Cell(_ratio(row["context_silent"], row["n_context_near_misses"])),
            count(row["n_near_misses"] - row["n_context_near_misses"]),
            Cell(_ratio(row["silent"] - row["context_silent"], row["n_near_misses"] - row["n_context_near_misses"])),
        )
        for row in sums.sort("layer").iter_rows(named=True)
    )  # fmt: skip
    head = ("layer", "units", "rules", "texts", "that fire", *("texts", "that stay silent") * 2)
    over = (("", 3), ("matches", 2), ("context changed", 2), ("activating token changed", 2))
    return Table("Rules tested on the model.", head, (rows,), over=over)


def near_miss_changes(tests: pl.DataFrame, threshold: float) -> Table | None:
    """By layer and kind of change: share of near misses that stay silent; None where there is no near miss."""
    lists = ("near_miss_changes", "near_miss_activations", "near_miss_tokens")
    each = tests.select("layer", *lists).explode(*lists).drop_nulls().filter(near_miss_tokens="context")
    if each.is_empty():
        return None
    silent = each.group_by("layer", "near_miss_changes").agg(
        (pl.col("near_miss_activations") < threshold).mean().alias("silent")
    )
    found = {(row["layer"], row["near_miss_changes"]): row["silent"] for row in silent.iter_rows(named=True)}
    rows = tuple(
        (Cell(str(layer)), *(Cell(share(found.get((layer, change)))) for change in CHANGES))
        for layer in each["layer"].unique().sort()
    )
    return Table(
        "Share of near misses that stay silent, by what was done to a context token.", ("layer", *CHANGES), (rows,)
    )


def failures(found: pl.DataFrame, units: pl.DataFrame, kinds: Sequence[str]) -> Table:
    """Layers by kinds of failure: units of the kind, and their share of the units asked for."""
    numbers = {
        (row["layer"], row["kind"]): row["len"] for row in found.group_by("layer", "kind").len().iter_rows(named=True)
    }
    asked = dict(units.select("layer", "asked").iter_rows())
    rows = tuple(
        (
            Cell(str(layer)),
            count(asked[layer]),
            *(of_total(numbers.get((layer, kind), 0), asked[layer]) for kind in kinds),
        )
        for layer in sorted(asked)
    )
    return Table(
        "Units of each kind, and their share of the units asked for. A unit may be of several kinds.",
        ("layer", "units", *(kind.replace("_", " ") for kind in kinds)),
        (rows,),
    )


def counterexamples(found: pl.DataFrame, tokens: Mapping[int, bytes], kind: str, text: str, limit: int) -> Table | None:
    """The most confident ones of one kind and text, at most one a unit; None where there is none."""
    gap = (pl.col("predicted") - pl.col("actual")).abs().alias("gap")
    worst = (
        found.filter(kind=kind, text=text)
        .with_columns(gap)
        .sort("gap", *_UNIT, "rank", descending=[True, False, False, False, False])
        .unique(_UNIT, keep="first", maintain_order=True)
        .head(limit)
    )
    if worst.is_empty():
        return None
    rows = []
    for row in worst.iter_rows(named=True):
        before, marked = window(row["token_ids"], tokens)
        cause = row["cause"] if row["rule_id"] is None else f"{row['cause']}: rule {row['rule_id']}"
        rows.append(
            (
                words(unit_name(row)), Cell(before, style="mono", marked=marked), Cell(share(row["predicted"], 2)),
                Cell(share(row["actual"], 2)), words(cause),
            )
        )  # fmt: skip
    what = "False alarms: the graph predicts firing" if kind == "false_alarm" else "Misses: the unit fires"
    return Table(
        f"{what}, on {text_name(text)}.",
        ("unit", "text up to the token", "predicted", "actual", "cause"),
        (tuple(rows),),
    )


def window(token_ids: Sequence[int], tokens: Mapping[int, bytes]) -> tuple[str, str]:
    """The last tokens of a window for reading, the token in question apart."""
    ids = list(token_ids)[-_WINDOW:]
    *before, last = [tokens.get(token_id, f"⟨{token_id}⟩".encode()) for token_id in ids]
    text = _readable(b"".join(before))
    return text if text.startswith("…") or len(token_ids) == len(ids) else "…" + text, _readable(last)


def unit_name(row: Mapping[str, int]) -> str:
    """A unit as layer 7, neuron 12; the sign is named where it is negative."""
    return unit_text(row["layer"], row["unit"], row["sign"])


def unit_counts(units: pl.DataFrame) -> Table:
    """By layer: units asked for and what became of them, and the sum over layers."""
    rows = [
        tuple(count(row[name]) for name in ("layer", "asked", *_STATUS))
        for row in units.sort("layer").iter_rows(named=True)
    ]
    if len(rows) > 1:
        rows.append((Cell("all"), *(count(int(units[name].sum())) for name in ("asked", *_STATUS))))
    return Table(
        "What became of the units.",
        ("layer", "asked for", "ok", "dead", "too few contexts", "failed"),
        (tuple(rows),),
    )


def denominators(scores: pl.DataFrame, texts: Sequence[str]) -> Table:
    """By layer and text: units that the graph has a score for, and of those the ones without a firing token."""
    graph = {(row["layer"], row["text"]): row for row in scores.filter(predictor="graph").iter_rows(named=True)}
    layers = sorted({layer for layer, _ in graph})
    rows = tuple(
        (
            Cell(str(layer)),
            *(
                count(graph[layer, text][name]) if (layer, text) in graph else Cell(NONE)
                for text in texts
                for name in ("evaluated", "without_firing")
            ),
        )
        for layer in layers
    )
    return Table(
        "Units with a score of the graph on each text, and of those the units without a firing token there.",
        ("layer", *("scored", "none fires") * len(texts)),
        (rows,),
        over=(("", 1), *((text_name(text, 0), 2) for text in texts)),
    )


def text_sizes(evaluation: pl.DataFrame, texts: Sequence[str]) -> Table:
    """By text: tokens and documents of a unit, and firing tokens over all units."""
    graph = evaluation.filter(predictor="graph")
    rows = []
    for text in texts:
        here = graph.filter(text=text)
        if len(here):
            rows.append(
                (
                    words(text_name(text, 0)), Cell(_range(here["n_tokens"])), Cell(_range(here["n_documents"])),
                    count(len(here)), count(int(here["n_firings"].sum())),
                )
            )  # fmt: skip
    head = ("text", "tokens a unit", "documents a unit", "units scored", "firing tokens")
    return Table("What was scored.", head, (tuple(rows),))


def paper_table(evaluation: pl.DataFrame, units: pl.DataFrame, predictor: str, *, missing_is_zero: bool) -> Table:
    """The paper's table for one predictor on the units' own test contexts.

    Args:
        evaluation: rows of table ``evaluation``.
        units: layer and number of units asked for (``asked``).
        predictor: whose rows.
        missing_is_zero: divide by all units asked for, what is undefined or missing counting 0; else leave it out.
    """
    fp, fn, tn = (pl.col(name) for name in ("false_positives", "false_negatives", "true_negatives"))
    names = ("precision", "recall", "f1", "silent_precision", "silent_recall", "silent_f1")
    rows = evaluation.filter(text="top", predictor=predictor).with_columns(
        silent_precision=tn / _positive(tn + fn),
        silent_recall=tn / _positive(tn + fp),
        silent_f1=2 * tn / _positive(2 * tn + fn + fp),
    )
    layers = rows["layer"].unique().sort()
    asked = dict(units.select("layer", "asked").iter_rows())
    cells = []
    for layer in layers:
        here = rows.filter(layer=layer)
        total = asked.get(layer, len(here))
        values = [here[name].sum() / total if missing_is_zero else here[name].mean() for name in names]
        cells.append((Cell(str(layer)), *(Cell(share(value)) for value in values)))  # type: ignore[arg-type]
    convention = (
        "a unit whose value is undefined, or that has none, counts 0"
        if missing_is_zero
        else "units whose value is undefined are left out"
    )
    style = styles([predictor])[predictor]
    return Table(
        f"{style.name[0].upper()}{style.name[1:]}: means over units; {convention}.",
        ("layer", *("precision", "recall", "F1") * 2),
        (tuple(cells),),
        over=(("", 1), ("firing", 3), ("non-firing", 3)),
    )


def published_table() -> Table:
    """The paper's own numbers, which are of another model."""
    rows = tuple(
        (Cell(str(layer)), *(Cell(share(PUBLISHED[name][layer], 2)) for name in ("precision", "recall", "f1")))
        for layer in range(6)
    )
    caption = "As published for SoLU-6L, another model, 50 units a layer."
    return Table(caption, ("layer", "precision", "recall", "F1"), (rows,), over=(("", 1), ("firing", 3)))


def plain(frame: pl.DataFrame, caption: str, *, shorter: Sequence[str] = ()) -> Table:
    """A frame as it is: numbers as numbers, the rest as words; hashes in ``shorter`` by their first 16 digits."""
    rows = [
        tuple(_plain_cell(value, 16 if name in shorter else None) for name, value in row.items())
        for row in frame.iter_rows(named=True)
    ]
    return Table(caption, tuple(name.replace("_", " ") for name in frame.columns), (tuple(rows),))


def pairs(values: Mapping[str, object], caption: str) -> Table:
    """Names and values, two columns."""
    rows = tuple((words(name.replace("_", " ")), Cell(_text(value), style="mono")) for name, value in values.items())
    return Table(caption, ("", ""), (rows,))


def predictors_of(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Predictors by their names for reading, each with what it is."""
    return tuple((style.name, PREDICTORS.get(name, "")) for name, style in styles(names).items())


def _plain_cell(value: object, digits: int | None) -> Cell:
    if digits is not None:
        return Cell(NONE if value is None else str(value)[:digits], style="mono")
    if isinstance(value, int) and not isinstance(value, bool):
        return count(value)
    return words(value)


def _text(value: object) -> str:
    return NONE if value is None else f"{value:.4g}" if isinstance(value, float) else clean_text(str(value))


def _ratio(part: int, total: int) -> str:
    return share(part / total if total else None)


def _positive(total: pl.Expr) -> pl.Expr:
    """The total, NULL where it is 0."""
    return pl.when(total > 0).then(total)


def _range(values: pl.Series) -> str:
    low, high = int(values.min()), int(values.max())  # type: ignore[arg-type]
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _readable(text: bytes) -> str:
    """Text on one line, line breaks visible; of a long one its end."""
    shown = clean_text(text.decode("utf-8", errors="surrogateescape").replace("\n", "↵"))
    return shown if len(shown) <= _CHARACTERS else "…" + shown[-_CHARACTERS:]
