"""Numbers, lists and units inside the sentences and tables of a report: the filters of its templates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from n2g_assets.core.units import unit_text
from n2g_assets.method.tokens import clean_text
from n2g_assets.report.text import share_text

NONE = "–"
"""What stands where a value is not defined."""

_TOKENS, _CHARACTERS = 24, 160


def share(value: float | None, digits: int = 3) -> str:
    """A share as .532, or – where it is None or no number."""
    return NONE if value is None or math.isnan(value) else share_text(value, digits)


def plain_share(value: float | None) -> str:
    """A share inside a sentence: .53, and .012 where it is small."""
    return share(value, _digits(value))


def interval(row: Mapping[str, Any], name: str, digits: int = 3) -> str:
    """The interval of a score of a row as [.491, .573]; nothing where an end is missing."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "" if low is None or high is None else f"[{share(low, digits)},\u00a0{share(high, digits)}]"


def at_layer(row: Mapping[str, Any], name: str = "f1_all") -> str:
    """A score with its interval and where it is reached: .53 [.47, .61] at layer 0."""
    ends = interval(row, name, _digits(row[name]))
    return f"{plain_share(row[name])} {ends + ' ' if ends else ''}at layer {row['layer']}"


def percent(value: float | None) -> str:
    """A share in percent: 53 %, and 1.2 % where it is small."""
    if value is None:
        return NONE
    return f"{value * 100:.0f}\u00a0%" if value >= 0.095 or value == 0 else f"{value * 100:.1f}\u00a0%"


def number(value: int | None) -> str:
    """A count with its thousands apart, or –."""
    return NONE if value is None else f"{value:,}"


def counted(value: int, noun: str) -> str:
    """A count with its noun, whose plural takes an s: 1 unit, 2,048 units."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def spread(low: int, high: int) -> str:
    """A range of counts: 1,035–1,270, or the one count."""
    return number(low) if low == high else f"{low:,}–{high:,}"


def listed(items: Iterable[object]) -> str:
    """Items in a sentence: a, b and c."""
    texts = [str(item) for item in items]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else "none"


def layers_listed(layers: Iterable[int]) -> str:
    """Layers in a sentence, runs of three and more drawn together: layers 0, 4–7 and 29."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    parts: list[str] = []
    for run in runs:
        parts += [f"{run[0]}–{run[-1]}"] if len(run) > 2 else [str(layer) for layer in run]
    return f"layer{'' if sum(map(len, runs)) == 1 else 's'} {listed(parts)}"


def compared_layers(rows: Sequence[Mapping[str, Any]]) -> str:
    """The layers of rows of ``graph_comparison``, each with its paired difference where there are at most six."""
    layers = [row["layer"] for row in rows]
    if len(rows) > 6 or not all(row["paired"] for row in rows):
        return layers_listed(layers)
    parts = [f"{row['layer']} ({share(row['difference'], 2)} {interval(row, 'difference', 2)})" for row in rows]
    return f"layer{'' if len(layers) == 1 else 's'} {listed(parts)}"


def unit_name(row: Mapping[str, Any]) -> str:
    """A unit as layer 7, neuron 12; the sign is named where it is negative."""
    return unit_text(row["layer"], row["unit"], row["sign"])


def upper_first(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def plain(value: object) -> str:
    """Any value as text: – for None, few digits for a float, what is invisible made visible."""
    return NONE if value is None else f"{value:.4g}" if isinstance(value, float) else clean_text(str(value))


def window(tokens: Sequence[bytes]) -> tuple[str, str]:
    """The end of a window for reading, and its last token apart."""
    *before, last = tokens
    text = _readable(b"".join(before[1 - _TOKENS :]))
    cut = len(before) >= _TOKENS and not text.startswith("…")
    return ("…" if cut else "") + text, _readable(last)


def _readable(text: bytes) -> str:
    """Text on one line, line breaks visible; of a long one its end."""
    shown = clean_text(text.decode("utf-8", errors="surrogateescape").replace("\n", "↵"))
    return shown if len(shown) <= _CHARACTERS else "…" + shown[-_CHARACTERS:]


def _digits(value: float | None) -> int:
    return 2 if value is None or abs(value) >= 0.095 else 3
