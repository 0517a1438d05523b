"""The few shapes, colours and fonts that all pictures share, as SVG text.

Everything that comes from outside goes through ``escaped``. Colours are two ramps of equal lightness that readers
with impaired colour vision can tell apart (red and blue), with ink chosen for contrast.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from n2g_assets.report.text import clean_text, shorten, text_width

INK, MUTED, GREY, PALE, PAPER = "#1f2933", "#5b6673", "#aab2bd", "#eceef1", "#ffffff"
SANS = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
MONO = "ui-monospace, 'SFMono-Regular', Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"


@dataclass(frozen=True)
class Ramp:
    """Colours for values from 0 to 1, evenly spaced stops; values outside are cut."""

    stops: tuple[tuple[int, int, int], ...]
    line: str

    def rgb(self, value: float) -> tuple[int, int, int]:
        """The colour as three numbers from 0 to 255."""
        place = min(max(value, 0.0), 1.0) * (len(self.stops) - 1)
        i = min(int(place), len(self.stops) - 2)
        low, high = self.stops[i], self.stops[i + 1]
        red, green, blue = (round(a + (b - a) * (place - i)) for a, b in zip(low, high, strict=True))
        return red, green, blue

    def color(self, value: float) -> str:
        """The colour as #rrggbb."""
        return "#{:02x}{:02x}{:02x}".format(*self.rgb(value))

    def ink(self, value: float) -> str:
        """Colour of text that stands on it: of dark ink and white, the one with more contrast."""
        background = _luminance(*self.rgb(value))
        dark = _luminance(*(int(INK[i : i + 2], 16) for i in (1, 3, 5)))
        return PAPER if 1.05 / (background + 0.05) > (background + 0.05) / (dark + 0.05) else INK


activation_ramp = Ramp(((255, 255, 255), (254, 224, 210), (252, 160, 130), (222, 64, 52), (140, 10, 24)), "#a3353b")
"""White to deep red: activation of activating tokens."""

importance_ramp = Ramp(((255, 255, 255), (222, 235, 247), (158, 202, 232), (66, 133, 193), (10, 60, 120)), "#2f6398")
"""White to deep blue: importance of context tokens."""


def escaped(text: str) -> str:
    """Text that is safe in XML content and attributes, control and other invisible characters made visible."""
    return escape(clean_text(text), quote=True)


def number(value: float) -> str:
    """A coordinate with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def sans_width(text: str, size: float, bold: bool = False) -> float:
    """Estimated width in pixels of a line in a proportional font, on the safe side."""
    return text_width(text) * size * (0.6 if bold else 0.55)


def label(
    x: float, y: float, text: str, *, size: float, fill: str, font: str = SANS, anchor: str = "start",
    bold: bool = False, room: float | None = None,
) -> str:  # fmt: skip
    """One line of text on a baseline, cut with an ellipsis where it would be wider than ``room`` pixels."""
    text = clean_text(text)
    if room is not None:
        text = shorten(text, max(int(room / sans_width("x", size, bold)), 1))
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{number(x)}" y="{number(y)}" font-family="{font}" font-size="{number(size)}" fill="{fill}" '
        f'text-anchor="{anchor}"{weight} xml:space="preserve">{escaped(text)}</text>'
    )


def box(
    x: float, y: float, width: float, height: float, *, fill: str, stroke: str = "none", radius: float = 0.0,
    dashed: bool = False,
) -> str:  # fmt: skip
    """A rectangle, with rounded corners if asked."""
    rounded = f' rx="{number(radius)}"' if radius else ""
    line = "" if stroke == "none" else f' stroke="{stroke}" stroke-width="1.2"'
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    size = f'width="{number(width)}" height="{number(height)}"'
    return f'<rect x="{number(x)}" y="{number(y)}" {size}{rounded} fill="{fill}"{line}{dashes}/>'


def short_share(value: float) -> str:
    """A share as .87, or 1.0."""
    text = f"{value:.2f}"
    return text[1:] if text.startswith("0") else text[:3]


def ending(x: float, middle: float, value: float) -> str:
    """The mark of a path's end: a bar, what the path predicts, and a short line to the node that starts at x + 36."""
    return (
        f'<g class="end"><path d="M{number(x + 1)} {number(middle - 9)}v18" stroke="{INK}" stroke-width="2.2" '
        f'stroke-linecap="round"/><path d="M{number(x + 1)} {number(middle)}h35" stroke="{INK}" stroke-width="1.2"/>'
        + box(x + 5, middle - 8.5, 26, 17, fill=INK, radius=8.5)
        + label(x + 18, middle + 4, short_share(value), size=11, fill=PAPER, anchor="middle", font=MONO)
        + "</g>"
    )


def document(width: float, height: float, title: str, parts: list[str]) -> str:
    """The whole SVG document: a white card of the given size with an accessible title."""
    width, height = round(width), round(height)
    card = f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="10" fill="{PAPER}" stroke="#d5dae1"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img"><title>{escaped(title)}</title>{card}{"".join(parts)}</svg>'
    )


def _luminance(red: int, green: int, blue: int) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red / 255, green / 255, blue / 255)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
