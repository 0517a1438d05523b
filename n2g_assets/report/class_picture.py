"""A graph of token classes as one self-contained SVG picture.

A rule is a row, and the text runs to the right as in a sentence: a column is an offset, the token itself the last. A
cell is a class, shown by the tokens that matter most in it, by how many more there are, and by a name where a simple
property describes it; a line under a token says what it adds to the expected activation, beside the others. What takes
all but a class shows what it leaves out. Rules that share a class share its cell. On the right stands what a rule
expects, as a bar from zero, and what it rests on; ``class_layout`` says in which order.

The picture keeps the conventions of ``svg``. All lengths are pixels.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from n2g_assets.core.registry import SHOWN_RULES
from n2g_assets.method.classes import ClassGraph
from n2g_assets.method.tokens import clean_text, display_text
from n2g_assets.report.class_layout import Background, Cell, ClassLayout, lay_out_classes
from n2g_assets.report.class_names import Properties, class_name, token_properties
from n2g_assets.report.svg import BOLD, PLAIN, render_svg
from n2g_assets.report.text import counted, percent, share, shorten, text_width

FIRES, RAISES, LOWERS, LOWERS_INK = "#b92d2b", "#f0a48e", "#2a8c8c", "#1d6a6a"
"""Bars of rules that fire, of others above the unit's mean, and of those below it, and numbers of these."""

_MARGIN, _GAP, _LEAST_COLUMN, _LEAST_WIDTH = 28.0, 26.0, 64.0, 660.0
_MOST_COLUMNS = 760.0
"""Room of all columns of classes together: wider ones are cut, the widest first."""
_BAR, _VALUE, _NUMBER, _TICK = 140.0, 62.0, 70.0, 24.0
_CHIPS, _LONGEST = 5, 18
"""Tokens of a class that are shown, and columns of a token, at most."""
_LEAST_ADDED = 0.005
"""Where no token adds or takes away as much, none is underlined."""
_SWATCHES = {"chip": 24.0, "all but": 24.0, "adds": 42.0, "importance": 56.0}
"""Room of the drawing before an entry of the legend; 22 for bars."""
_MONO, _DIGIT, _SENTENCE = 0.607, 0.64, 0.52
"""Estimated width of a character as a share of the font's size: of the fixed-width font, of digits, of long texts."""


class Scale(NamedTuple):
    """How large rows and what stands in them are."""

    row: float
    chip: float
    font: float
    padding: float
    between: float


_ROOMY, _DENSE = Scale(34.0, 22.0, 12.5, 6.0, 5.0), Scale(21.0, 16.0, 10.5, 4.0, 4.0)
_ROOMY_ROWS, _ROOMY_COLUMNS = 14, 4
"""A picture with more rows or columns is a dense one."""


class Chip(NamedTuple):
    """A token of a class."""

    x: float
    width: float
    text: str
    adds: float
    """What it adds to the expected activation, as a share of what any token that is shown adds or takes away."""


class Shown(NamedTuple):
    """A cell with its place."""

    x: float
    middle: float
    lead: str
    """Words before the chips: the name of the class, after a not where all but it is meant."""
    chips: list[Chip]
    tail: str
    """How many tokens are not shown."""
    tail_x: float
    struck: bool
    importance: float | None
    tooltip: str
    address: str = ""
    """Where it leads to; empty for nowhere."""


class Swatch(NamedTuple):
    """An entry of the legend."""

    x: float
    y: float
    kind: str
    """What is drawn: a colour of a bar, ``chip``, ``all but``, ``adds``, ``importance`` or nothing."""
    text: str


class Axis(NamedTuple):
    """The scale of the bars."""

    left: float
    low: float
    high: float

    def at(self, value: float) -> float:
        """Where a value stands."""
        return self.left + _BAR * (value - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[float]:
        """Values that are written above it: 0 and the ends, unless they stand too near to it."""
        return [0.0, *(end for end in (self.low, self.high) if abs(self.at(end) - self.at(0.0)) > _TICK)]


def draw_classes(
    graph: ClassGraph,
    importances: Mapping[int, float],
    vocabulary: Sequence[bytes],
    *,
    threshold: float,
    title: str,
    subtitle: str = "",
    n_rules: int = SHOWN_RULES,
    link: Callable[[int, int], str] = lambda node, offset: "",
) -> str:
    """Draws one unit's graph of token classes.

    Args:
        graph: its largest graph.
        importances: by node, how much the activation depends on its token, where that was measured.
        vocabulary: exact bytes of every token id.
        threshold: normalised activation from which the unit fires.
        title: first line, such as study, layer, neuron and sign.
        subtitle: second line, such as scores.
        n_rules: the graph of how many rules is drawn.
        link: the address of a class, given the node at which a rule ends and an offset; empty for none.

    Returns:
        The SVG document as text.
    """
    layout = lay_out_classes(graph, importances, n_rules=n_rules, threshold=threshold)
    scale = _ROOMY if len(layout.rules) <= _ROOMY_ROWS and len(layout.offsets) <= _ROOMY_COLUMNS else _DENSE
    words = _Words(vocabulary, token_properties(tuple(vocabulary)))
    columns = _columns(layout, words, scale)
    numbers = _BAR + _VALUE + 3 * _NUMBER
    inside = max(sum(columns.values()) + _GAP * (len(columns) + 1) + numbers, _LEAST_WIDTH)
    right = _MARGIN + inside
    axis = Axis(right - numbers, *_limits([rule.value for rule in layout.rules]))
    title, notes = clean_text(title), [line for line in (clean_text(subtitle), _note(layout)) if line]
    top = _MARGIN + 52 + 19 * len(notes)
    edges = _MARGIN + np.cumsum([0.0, *columns.values()]) + _GAP * np.arange(len(columns) + 1)
    lefts = dict(zip(columns, edges[:-1].tolist(), strict=True))
    most = max((float(np.abs(cell.found.deviations[:_CHIPS]).max(initial=0)) for cell in layout.cells), default=0.0)
    cells = [
        _shown(cell, words, scale, lefts[cell.offset], columns[cell.offset], top, most)._replace(
            address=link(cell.node, cell.offset)
        )
        for cell in layout.cells
    ]
    folded = layout.background
    bottom = top + (len(layout.rules) + bool(folded)) * scale.row + (8 if folded else 0)
    legend = _legend(layout, threshold, inside, bottom + 32, most)
    digits = 2 if any(abs(rule.value) >= 0.095 for rule in layout.rules) else 3
    return render_svg(
        "class_graph.svg", width=round(inside + 2 * _MARGIN), height=round(legend[-1].y + 22), left=_MARGIN,
        right=right, top=top, bottom=bottom, title=title, headline=shorten(title, int(inside / (17 * BOLD))),
        notes=[shorten(line, int(inside / (12.5 * PLAIN))) for line in notes],
        heads=[("token" if offset == 0 else f"{-offset} before", lefts[offset]) for offset in columns],
        rules=layout.rules, mean=layout.mean, cells=cells, background=folded, scale=scale, axis=axis,
        threshold=threshold, value_right=axis.left + _BAR + _VALUE, number_width=_NUMBER,
        edges=_edges(layout.cells, cells, scale), legend=legend, digits=digits, fires=FIRES, raises=RAISES,
        lowers=LOWERS, lowers_ink=LOWERS_INK, everything_else=_everything_else(folded, layout.positions),
    )  # fmt: skip


class _Words:
    """What is written of classes."""

    def __init__(self, vocabulary: Sequence[bytes], properties: Properties) -> None:
        self._vocabulary, self._properties = vocabulary, properties
        self._leads: dict[int, str] = {}

    def token(self, token_id: int) -> str:
        """A token for reading, a long run of one character as its number."""
        text = display_text(self._vocabulary[token_id])
        return re.sub(r"(.)\1{3,}", lambda run: f"{run[1]}×{len(run[0])}", text)

    def lead(self, cell: Cell) -> str:
        """The name of a cell's class, after a not where all but it is meant; of a cell it is asked three times."""
        if id(cell) not in self._leads:
            name = class_name(cell.found.tokens, cell.found.weights, self._properties)
            self._leads[id(cell)] = " ".join(filter(None, ("not" if cell.found.all_but else "", name)))
        return self._leads[id(cell)]

    def tooltip(self, cell: Cell, tokens: int = 40) -> str:
        found = cell.found
        shown = "  ".join(
            self.token(token) + (f" {added:+.2f}" if abs(added) >= 0.005 else "")
            for token, added in zip(found.tokens[:tokens].tolist(), found.deviations[:tokens].tolist(), strict=True)
        )
        more = f"  and {len(found.tokens) - tokens:,} more" if len(found.tokens) > tokens else ""
        importance = "" if cell.importance is None else f"; importance {cell.importance:.2f}"
        lead = self.lead(cell)
        return f"{lead + ': ' if lead else ''}{shown}{more}{importance}"


def _note(layout: ClassLayout) -> str:
    if not layout.positions:
        return "The graph is empty: the harvest has no position of this unit."
    found = len(layout.rules) + (layout.background.rules if layout.background else 0)
    return (
        f"The graph of {counted(found, 'rule')}, from {layout.positions:,} positions in "
        f"{counted(layout.documents, 'document')}. Activations are shares of the largest."
    )


def _everything_else(folded: Background | None, positions: int) -> str:
    if folded is None:
        return ""
    return f"everything else: {counted(folded.rules, 'rule')}, {percent(folded.positions / positions)} of the text"


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the bars' scale: 0, or the next 1, 2 or 5 of a power of ten."""

    def limit(value: float) -> float:
        steps = (step * 10.0**power for power in range(-4, 5) for step in (1, 2, 5))
        return next(step for step in steps if step >= value * (1 - 1e-6))

    low, high = max([0.0, *(-value for value in values)]), max([0.0, *values])
    return -limit(low) if low else 0.0, limit(high) if high or not low else 0.0


def _lead_width(lead: str, scale: Scale) -> float:
    return text_width(lead) * (scale.font - 1.5) * PLAIN + scale.between if lead else 0.0


def _tail(cell: Cell, shown: int) -> str:
    hidden = len(cell.found.tokens) - shown
    return f"+{hidden:,}" if hidden else ""


def _tail_width(tail: str, scale: Scale) -> float:
    return text_width(tail) * (scale.font - 1.5) * _DIGIT


def _chip_width(text: str, scale: Scale) -> float:
    return text_width(text) * scale.font * _MONO + 2 * scale.padding


def _natural(cell: Cell, words: _Words, scale: Scale) -> float:
    """Room of a cell from which nothing is cut."""
    tokens = [shorten(words.token(token), _LONGEST) for token in cell.found.tokens[:_CHIPS].tolist()]
    chips = sum(_chip_width(text, scale) + scale.between for text in tokens)
    return _lead_width(words.lead(cell), scale) + chips + _tail_width(_tail(cell, len(tokens)), scale)


def _columns(layout: ClassLayout, words: _Words, scale: Scale) -> dict[int, float]:
    """Width of the column of each offset; where all are too wide together, the widest are cut to one width."""
    widths = dict.fromkeys(layout.offsets, _LEAST_COLUMN)
    for cell in layout.cells:
        widths[cell.offset] = max(widths[cell.offset], _natural(cell, words, scale))
    room, narrow = _MOST_COLUMNS - _GAP * len(widths), sorted(widths.values())
    limit = np.inf
    for place, width in enumerate(narrow):
        if width * (len(narrow) - place) > room:
            limit = room / (len(narrow) - place)
            break
        room -= width
    return {offset: min(width, limit) for offset, width in widths.items()}


def _shown(cell: Cell, words: _Words, scale: Scale, x: float, width: float, top: float, most: float) -> Shown:
    lead = words.lead(cell)
    least = _chip_width("ab", scale) + scale.between + _tail_width(_tail(cell, 1), scale)
    if _lead_width(lead, scale) + least > width:  # the name of the class leaves no room for a token
        lead = "not" if cell.found.all_but else ""
    place, end = x + _lead_width(lead, scale), x + width + 0.01
    chips: list[Chip] = []
    for token, added in zip(cell.found.tokens[:_CHIPS].tolist(), cell.found.deviations.tolist(), strict=False):
        text = shorten(words.token(token), _LONGEST)
        tail = _tail_width(_tail(cell, len(chips) + 1), scale)
        if not chips:
            room = end - place - scale.between - tail - 2 * scale.padding
            text = shorten(text, max(2, int(room / (scale.font * _MONO))))
        needed = _chip_width(text, scale) + scale.between
        if chips and place + needed + tail > end:
            break
        chips.append(Chip(place, needed - scale.between, text, added / most if most >= _LEAST_ADDED else 0.0))
        place += needed
    middles = [top + (row + 0.5) * scale.row for row in range(cell.row, cell.row + cell.rows)]
    return Shown(
        x, (middles[0] + middles[-1]) / 2, lead, chips, _tail(cell, len(chips)), place, cell.found.all_but,
        cell.importance, words.tooltip(cell),
    )  # fmt: skip


def _edges(cells: Sequence[Cell], shown: Sequence[Shown], scale: Scale) -> list[tuple[float, float, float, float]]:
    """From each cell to the next one on its right: where it begins, how far it runs, and both heights."""
    edges = []
    for cell, start in zip(cells, shown, strict=True):
        nearer = [
            end for other, end in zip(cells, shown, strict=True)
            if other.offset > cell.offset and other.row <= cell.row < other.row + other.rows
        ]  # fmt: skip
        if nearer:
            end = min(nearer, key=lambda each: each.x)
            begin = start.tail_x + _tail_width(start.tail, scale)
            edges.append((begin + 6, end.x - 4, start.middle, end.middle))
    return edges


def _legend(layout: ClassLayout, threshold: float, inside: float, top: float, most: float) -> list[Swatch]:
    """What the signs of this picture mean, in lines."""
    rules, cells = layout.rules, layout.cells
    fires = f"fires: expects {share(threshold, 2, trim=True)} (dotted) or more, or most of its positions do"
    entries = [
        (FIRES, fires, any(rule.fires for rule in rules)),
        (RAISES, "above the unit's mean", any(rule.value >= layout.mean and not rule.fires for rule in rules)),
        (LOWERS, "below it", any(rule.value < layout.mean and not rule.fires for rule in rules)),
        ("chip", "one of these tokens, or of +9 more", any(not cell.found.all_but for cell in cells)),
        ("all but", "any token but these", any(cell.found.all_but for cell in cells)),
        ("adds", "the token itself adds, or takes away", most >= _LEAST_ADDED),
        ("importance", "measured importance of the token, 0 to 1", any(cell.importance is not None for cell in cells)),
        ("", "empty: any token", len(layout.offsets) > 1),
    ]
    swatches: list[Swatch] = []
    x, y = _MARGIN, top
    for kind, text, there in entries:
        width = _SWATCHES.get(kind, 22.0 if kind else 0.0) + text_width(text) * 11.5 * _SENTENCE
        if there:
            if x > _MARGIN and x + width > _MARGIN + inside:
                x, y = _MARGIN, y + 20
            swatches.append(Swatch(x, y, kind, text))
            x += width + 22
    return swatches or [Swatch(_MARGIN, top, "", "")]
