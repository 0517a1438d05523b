"""The picture of a unit's graph for pages: the report's SVG, of the size that is asked."""

from pydantic import Field

from n2g_assets.core.registry import SHOWN_RULES
from n2g_assets.explore.page import OfUnit
from n2g_assets.reading.study import Unit
from n2g_assets.report.class_picture import draw_classes
from n2g_assets.report.svg import draw_graph
from n2g_assets.report.text import share


class AskedPicture(OfUnit):
    """The picture of a unit's graph."""

    rules: int = Field(default=SHOWN_RULES, ge=1, le=1000)
    """Rules of the graph; of a graph of the paper the strongest nodes are shown."""


def unit_picture(unit: Unit, rules: int) -> str:
    """The SVG of a unit's graph."""
    study, title = unit.study, f"{unit.study.name}, {unit}"
    nodes, subtitle = unit.graph.nodes, f"r on held-out text {share(unit.card['random_pearson_r'], 2)} with all rules"
    if study.has_classes:
        return draw_classes(
            nodes, unit.graph.classes, study.vocabulary.tokens, threshold=study.threshold, title=title,
            subtitle=subtitle, n_rules=rules,
        )  # fmt: skip
    return draw_graph(nodes, title=title, subtitle=subtitle)
