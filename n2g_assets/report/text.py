"""Numbers, lists, tables and graphs as plain text for people: in reports, in plots and in terminals.

Model text is untrusted text: whatever could move a cursor, reverse a line or hide itself is shown by its code.
"""

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from n2g_assets.core.explorer import explorer_address
from n2g_assets.core.units import unit_text
from n2g_assets.method.tokens import clean_text
from n2g_assets.report.class_layout import is_background, rules_fire

if TYPE_CHECKING:
    from jinja2 import Environment

_EIGHTHS = " ▏▎▍▌▋▊▉█"
NONE = "–"
"""What stands where a value is not defined."""

FEW_UNITS = 10
"""A mean over fewer units is said to be one of few."""
UNIT_KINDS = ("neuron", "autoencoder latent", "transcoder latent", "direction", "head", "latent")
"""Values of ``unit_kinds.kind`` that have a name of their own; others are hooks."""
LAYERS_TOLD = 3
"""Layers whose scores are told one by one in a sentence; of more, those with the highest and the lowest one."""

_TOKENS, _CHARACTERS = 24, 160


def text_width(text: str) -> int:
    """Columns that a text takes in a fixed-width font: 2 for wide East Asian characters and emoji, 0 for marks."""
    return sum(map(_character_width, text))


def shorten(text: str, width: int) -> str:
    """The text, cut with an ellipsis where it is wider than ``width`` columns."""
    if text_width(text) <= width:
        return text
    kept, used = [], 1
    for character in text:
        used += _character_width(character)
        if used > width:
            break
        kept.append(character)
    return "".join(kept) + "…"


def bar(share: float, width: int = 8) -> str:
    """A bar of block characters, ``width`` columns at a share of 1, padded to ``width``; shares are cut to [0, 1]."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


def share(value: float | None, digits: int = 3, *, trim: bool = False) -> str:
    """A share as .532, 0 or 1.000, with a true minus sign, or – where it is None or no number.

    ``trim`` takes trailing zeros away: .5, 1.
    """
    if value is None or math.isnan(value):
        return NONE
    text = f"{abs(value):.{digits}f}"
    sign = "−" if value < 0 and text.strip("0.") else ""
    text = text[1:] if text.startswith("0.") else text
    return sign + ((text.rstrip("0").rstrip(".") or "0") if trim else text)


def count_text(count: int) -> str:
    """A count in at most four characters or so: 812, 1.2k, 34k, 5.6M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            value = count / size
            return f"{value:.1f}".removesuffix(".0") + letter if value < 9.95 else f"{value:.0f}{letter}"
    return str(count)


def graph_text(rules: pl.DataFrame, *, title: str, limit: int = 8) -> str:
    """One unit's token graph for a terminal: a title line, then its rules, strongest first.

    Of the rows of the table ``rules``, ``limit`` are shown, such as ``0.93 ███████▌  All * [except]   (4 prompts)``,
    with patterns cut to 72 columns; a last line says how many are not.
    """
    lines = [clean_text(title)]
    ordered = rules.sort(["activation", "count", "rule_id"], descending=[True, True, False])
    shown = ordered.head(limit)
    patterns = _aligned([shorten(clean_text(pattern), 72) for pattern in shown["pattern"]])
    for pattern, activation, count in zip(patterns, shown["activation"], shown["count"], strict=True):
        lines.append(f"  {activation:.2f} {bar(activation)}  {pattern}   ({counted(count, 'prompt')})")
    if not len(ordered):
        lines.append("  no rules: the graph is empty and predicts silence everywhere")
    if len(ordered) > limit:
        lines.append(f"  … and {counted(len(ordered) - limit, 'more rule')}")
    return "\n".join(lines)


def class_graph_text(rules: pl.DataFrame, *, title: str, threshold: float) -> str:
    """One unit's graph of token classes for a terminal: a title line, then its rules.

    Each row of the macro ``graph_rules`` is a line such as ``−.41   ███▎  [{a|b|+3}]   (fires at 0 % of 741)``, first
    those that raise the activation, then those that lower it, the strongest first; a star marks what fires. Patterns
    are cut to 72 columns. Rules that expect next to nothing share the last line (``class_layout.is_background``).
    """
    values = rules["activation"].to_numpy().astype(float)
    fires = rules_fire(values, rules["firing_share"].to_numpy(), threshold)
    ordered = rules.with_columns(star=np.where(fires, "*", " "), quiet=is_background(values, fires)).sort(
        pl.col("activation") < 0, -pl.col("activation").abs(), "rule_id"
    )
    shown, folded = ordered.filter(~pl.col("quiet")), ordered.filter("quiet")
    patterns = _aligned([shorten(clean_text(pattern), 72) for pattern in shown["pattern"]])
    lines = [clean_text(title)]
    columns = shown.select("activation", "star", "firing_share", "count").iter_rows()
    for pattern, (value, star, firing_share, count) in zip(patterns, columns, strict=True):
        support = f"fires at {percent(firing_share)} of {count:,}" if count else "in no text"
        lines.append(f"  {share(value, 2):>4} {star} {bar(abs(value))}  {pattern}   ({support})")
    if len(folded):
        values, counts = folded["activation"].to_numpy(), folded["count"].to_numpy()
        mean = float(values @ counts / max(1, counts.sum()))
        of_text = percent(float(counts.sum() / rules["count"].sum()))
        lines.append(f"  {share(mean, 2):>4}   everything else: {counted(len(folded), 'rule')}, {of_text} of the text")
    return "\n".join(lines)


def table_text(frame: pl.DataFrame) -> str:
    """A small table for a terminal: aligned columns, numbers to the right, two decimals, – for what is undefined."""
    columns = [
        _aligned([clean_text(column.name), *map(_cell, column)], right=column.dtype.is_numeric()) for column in frame
    ]
    if not columns:
        return ""
    lines = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
    lines.insert(1, "  ".join("─" * text_width(column[0]) for column in columns))
    return "\n".join(lines)


# -------------------------------------------------------------------------------------- templates
@cache
def templates() -> "Environment":
    """The templates, which have these functions as filters, compiled once."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    loader = PackageLoader("n2g_assets.report")
    escaped = select_autoescape(("html", "svg"))
    environment = Environment(
        loader=loader, autoescape=escaped, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters = (
        share, plain_share, interval, at_layer, by_layer, percent, number, counted, units_a_layer, listed,
        layers_listed, compared_layers, plain, window, upper_first, shorten, at, kind_name,
    )  # fmt: skip
    environment.filters |= {function.__name__: function for function in filters}
    environment.globals |= {"explorer_address": explorer_address, "unit_text": unit_text}
    return environment


def at(value: float) -> str:
    """A coordinate with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def plain_share(value: float | None) -> str:
    """A share inside a sentence: .53, and .012 where it is small."""
    return share(value, _digits(value))


def interval(row: Mapping[str, Any], name: str, digits: int = 3) -> str:
    """The interval of a score of a row as [.491, .573]; nothing where an end is missing."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "" if low is None or high is None else f"[{share(low, digits)},\u00a0{share(high, digits)}]"


def few(units: int, per: str = "") -> str:
    """What stands behind a mean of few units: (one unit only), (only 3 units a layer); nothing where they are more."""
    if units >= FEW_UNITS:
        return ""
    said = {0: "of no unit", 1: f"one unit {per or 'only'}"}.get(units, f"only {units} units{' ' * bool(per)}{per}")
    return f" ({said})"


def at_layer(row: Mapping[str, Any], name: str, units: str = "") -> str:
    """A mean with its interval and where it is reached: .53 [.47, .61] at layer 0.

    Behind it stands that it is of few units, where ``units`` names the column with their number.
    """
    ends = interval(row, name, _digits(row[name])) if f"{name}_low" in row else ""
    behind = few(row[units]) if units else ""
    return f"{plain_share(row[name])} {ends + ' ' if ends else ''}at layer {row['layer']}{behind}"


def by_layer(rows: Iterable[Mapping[str, Any]], name: str, units: str) -> str:
    """Means of layers in a sentence: .87 at layer 0, .39 at layer 7 and .08 at layer 15 (only 3 units a layer).

    Layers without the mean are left out; of more than ``LAYERS_TOLD`` layers only the highest and the lowest are told.
    """
    told = sorted((row for row in rows if row[name] is not None), key=lambda row: row["layer"])
    numbers = {row[units] for row in told}
    same = len(numbers) == 1 and len(told) > 1
    ends = sorted(told, key=lambda row: -row[name])[:: max(1, len(told) - 1)] if len(told) > LAYERS_TOLD else []
    parts = [at_layer(row, name, "" if same else units) for row in ends or told]
    return ("between " if ends else "") + listed(parts) + (few(min(numbers), "a layer") if same else "")


def kind_name(row: Mapping[str, Any]) -> str:
    """What the units of a row of ``unit_kinds`` are called: neurons, values of mlp.hook_pre, neurons (control)."""
    kind = row["kind"]
    plural = f"{kind}s" if kind in UNIT_KINDS else f"values of {kind}"
    return f"{plural} (control)" if row["control"] else plural


def reached(card: Mapping[str, Any]) -> str:
    """What r a unit's graph reaches on held-out text, and what could be: 30 rules reach .59; counting everything .70.

    Of a row of ``fidelity_card``; what is not known is left out.
    """
    parts = {
        "30 rules reach": card["random_r_30"],
        "counting everything": card["random_r_all"],
        "the last 5 tokens allow": card["reach_5"],
    }
    return "; ".join(f"{words} {plain_share(r)}" for words, r in parts.items() if r is not None)


def percent(value: float | None) -> str:
    """A share in percent: 53 %, and 1.2 % or 0.03 % where it is small."""
    if value is None:
        return NONE
    digits = ".0f" if value >= 0.095 or value == 0 else ".1f" if value >= 0.00095 else ".1g"
    return f"{value * 100:{digits}}\u00a0%"


def number(value: int | None) -> str:
    """A count with its thousands apart, or –."""
    return NONE if value is None else f"{value:,}"


def counted(value: int, noun: str) -> str:
    """A count with its noun, whose plural takes an s: 1 unit, 2,048 units."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def upper_first(text: str) -> str:
    """A phrase as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def spread(low: int, high: int) -> str:
    """A range of counts: 1,035–1,270, or the one count."""
    return number(low) if low == high else f"{low:,}–{high:,}"


def units_a_layer(counts: Iterable[int]) -> str:
    """Over how many units the means of layers are: 16 units a layer, 12–16 units a layer."""
    there = list(counts)
    return f"{spread(min(there), max(there))} unit{'' if max(there) == 1 else 's'} a layer"


def listed(items: Iterable[object]) -> str:
    """Items in a sentence: a, b and c."""
    texts = [str(item) for item in items]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else "none"


def layers_listed(layers: Iterable[int]) -> str:
    """Layers in a sentence, runs of three and more drawn together: layers 0, 4–7 and 29."""
    numbers = sorted(layers)
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    parts = [part for run in runs for part in ([f"{run[0]}–{run[-1]}"] if len(run) > 2 else run)]
    return f"layer{'' if len(numbers) == 1 else 's'} {listed(parts)}"


def compared_layers(rows: Sequence[Mapping[str, Any]]) -> str:
    """The layers of rows of ``graph_comparison``, each with its paired difference where there are at most six."""
    layers = [row["layer"] for row in rows]
    if len(rows) > 6 or not all(row["paired"] for row in rows):
        return layers_listed(layers)
    parts = [f"{row['layer']} ({share(row['difference'], 2)} {interval(row, 'difference', 2)})" for row in rows]
    return f"layer{'' if len(layers) == 1 else 's'} {listed(parts)}"


def plain(value: object) -> str:
    """Any value as text: – for None, few digits for a float, what is invisible made visible."""
    return NONE if value is None else f"{value:.4g}" if isinstance(value, float) else clean_text(str(value))


def window(tokens: Sequence[bytes]) -> tuple[str, str]:
    """The end of a window for reading, and its last token apart."""
    *before, last = tokens
    text = _readable(b"".join(before[1 - _TOKENS :]))
    cut = len(before) >= _TOKENS and not text.startswith("…")
    return ("…" if cut else "") + text, _readable(last)


@lru_cache(maxsize=2**12)  # a picture asks a thousand times, nearly always for the same letters
def _character_width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:z.2f}"
    return NONE if value is None else f"{value:,}" if isinstance(value, int) else shorten(clean_text(str(value)), 60)


def _aligned(cells: list[str], right: bool = False) -> list[str]:
    width = max(map(text_width, cells), default=0)
    gaps = [" " * (width - text_width(cell)) for cell in cells]
    return [gap + cell if right else cell + gap for cell, gap in zip(cells, gaps, strict=True)]


def _readable(text: bytes) -> str:
    """Text on one line, line breaks visible; of a long one its end."""
    shown = clean_text(text.decode("utf-8", errors="surrogateescape").replace("\n", "↵"))
    return shown if len(shown) <= _CHARACTERS else "…" + shown[-_CHARACTERS:]


def _digits(value: float | None) -> int:
    return 2 if value is None or abs(value) >= 0.095 else 3


def human_bytes(count: float) -> str:
    """In the largest unit of which there is one, such as 1.4 GB."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    power = min(max(len(f"{count:.0f}") - 1, 0) // 3, len(units) - 1)
    return f"{count / 1000**power:.{1 if power else 0}f} {units[power]}"
