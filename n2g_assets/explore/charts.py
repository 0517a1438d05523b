"""Small pictures of numbers that stand in a page as SVG: lines of scores, and bars of counts.

They have no colours of their own: the classes ``c0`` to ``c8``, ``axis``, ``band`` and ``bar`` are those of the style
sheet, light and dark. Every line has its name at its end, so that no colour need be told from another, and every point
says its number to a pointer. All lengths are units of the picture, of which one is about a pixel.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from n2g_assets.report.text import count_text, share

Scale = Callable[[float], float]
"""A number's place in a picture."""

WIDTH, HEIGHT = 440, 230
_LEFT, _RIGHT, _TOP, _BELOW = 34, 122, 12, 40
_LINE = 13
"""Least distance of two names."""


@dataclass(frozen=True)
class Point:
    """A number at a place."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    """Ends of its interval, where it has one."""


@dataclass(frozen=True)
class Line:
    """Numbers that belong together."""

    name: str
    points: Sequence[Point]
    look: str = "c0"
    """Class in the style sheet."""


def lines(title: str, drawn: Sequence[Line], ticks: Sequence[tuple[float, str]], below: str) -> Markup:
    """Lines over an axis of shares, each with its name behind its last point.

    Args:
        title: what is shown, for those who do not see it.
        drawn: lines; points without a number are left out before.
        ticks: places of the horizontal axis with their names.
        below: what the horizontal axis is.
    """
    shown = [line for line in drawn if line.points]
    values = [each for line in shown for point in line.points for each in (point.y, point.low) if each is not None]
    bottom = min(0.0, math.floor(10 * min(values, default=0.0)) / 10)
    places = [place for place, _ in ticks]
    first, last = min(places, default=0.0), max(places, default=1.0)

    def x(place: float) -> float:
        wide = WIDTH - _LEFT - _RIGHT
        return _LEFT + (wide / 2 if first == last else wide * (place - first) / (last - first))

    def y(value: float) -> float:
        return _TOP + (HEIGHT - _TOP - _BELOW) * (1 - (value - bottom) / (1 - bottom))

    parts = [*_shares(y, bottom), *_ticks([(x(place), name) for place, name in ticks], below)]
    parts += [_line(line, x, y) for line in shown]
    ends = [(y(line.points[-1].y), x(line.points[-1].x), line) for line in shown]
    for height, (_, right, line) in zip(_apart([end[0] for end in ends]), ends, strict=True):
        parts.append(
            Markup('<text class="{} name" x="{:.0f}" y="{:.1f}">{}</text>').format(
                line.look, right + 8, height + 4, line.name
            )
        )
    return _picture(title, parts)


def bars(title: str, counts: Sequence[tuple[float, int]], width: float, below: str) -> Markup:
    """Bars of counts over an axis from 0 to 1, their height by the logarithm.

    Args:
        title: what is shown, for those who do not see it.
        counts: where each bar begins, and how many it counts.
        width: of a bar on the axis.
        below: what the horizontal axis is.
    """
    highest = max(1, math.ceil(math.log10(1 + max((count for _, count in counts), default=1))))
    wide, high = WIDTH - _LEFT - 14, HEIGHT - _TOP - _BELOW

    def x(place: float) -> float:
        return _LEFT + wide * place

    def y(count: float) -> float:
        return _TOP + high * (1 - math.log10(1 + count) / highest)

    parts = [
        _level(y(each), WIDTH - 14, count_text(each))
        for each in (0, *(10**power for power in range(highest + 1)))
        if y(each) >= _TOP - 1
    ]
    parts += _ticks([(x(place / 5), share(place / 5, 1)) for place in range(6)], below)
    for begin, count in counts:
        if count:
            said = f"{share(begin, 2)} to {share(begin + width, 2)}: {count_text(count)}"
            parts.append(
                Markup(
                    '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
                ).format(x(begin) + 1, y(count), wide * width - 2, _TOP + high - y(count), said)
            )
    return _picture(title, parts)


def _picture(title: str, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, HEIGHT, WIDTH, HEIGHT, title, Markup("").join(parts))


def _line(line: Line, x: Scale, y: Scale) -> Markup:
    """A line with its points, and behind it the band of its intervals."""
    within = [(x(each.x), each.low, each.high) for each in line.points]
    known = [(place, y(low), y(high)) for place, low, high in within if low is not None and high is not None]
    outline = [(place, low) for place, low, _ in known] + [(place, high) for place, _, high in reversed(known)]
    band = Markup('<polygon class="band" points="{}"/>').format(_written(outline)) if len(known) > 1 else Markup("")
    route = Markup('<polyline points="{}"/>').format(_written([(x(each.x), y(each.y)) for each in line.points]))
    points = Markup("").join(
        Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3"><title>{}: {}</title></circle>').format(
            x(each.x), y(each.y), line.name, share(each.y, 3)
        )
        for each in line.points
    )
    return Markup('<g class="{}">{}{}{}</g>').format(line.look, band, route, points)


def _written(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{left:.1f},{top:.1f}" for left, top in places)


def _apart(heights: Sequence[float]) -> list[float]:
    """Heights moved so far that no two names touch, and none leaves the picture."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    moved = list(heights)
    for before, each in pairwise(order):
        moved[each] = max(moved[each], moved[before] + _LINE)
    lowest = HEIGHT - _BELOW + 6.0
    for each in reversed(order):
        moved[each] = min(moved[each], lowest)
        lowest = moved[each] - _LINE
    return moved


def _shares(y: Scale, bottom: float) -> Iterator[Markup]:
    for number in range(round(10 * bottom), 11):
        if number % 2 == 0:
            yield _level(y(number / 10), WIDTH - _RIGHT, share(number / 10, 1))


def _level(height: float, right: float, name: str) -> Markup:
    """A line of the vertical axis, with its name."""
    return Markup(
        '<line class="axis" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>'
        '<text class="tick" text-anchor="end" x="{3}" y="{4:.1f}">{5}</text>'
    ).format(_LEFT, right, height, _LEFT - 6, height + 4, name)


def _ticks(places: Sequence[tuple[float, str]], below: str) -> Iterator[Markup]:
    taken = -math.inf
    for place, name in places:
        if place - taken >= 4 + 7 * len(name):  # names that would touch the one before are left out
            taken = place
            yield Markup('<text class="tick" text-anchor="middle" x="{:.1f}" y="{}">{}</text>').format(
                place, HEIGHT - _BELOW + 16, name
            )
    yield Markup('<text class="tick" x="{}" y="{}">{}</text>').format(_LEFT, HEIGHT - 6, below)
