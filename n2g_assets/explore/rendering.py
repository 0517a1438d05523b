"""The templates of all pages, and what they may call; a server shows them, or ``site`` writes them as files.

Model text is untrusted text: Jinja escapes everything.
"""

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from n2g_assets.core.explorer import dagster_address, unit_address
from n2g_assets.explore import plots
from n2g_assets.explore.page import RULE, OfUnit, address
from n2g_assets.explore.tokens import spans
from n2g_assets.reading.database import Snapshot
from n2g_assets.report import text as wording


def environment(place: Callable[[str], str] = str, policy: str = "") -> Environment:
    """The templates.

    Args:
        place: what a page writes for an address of the explorer; empty where nothing is there.
        policy: the Content-Security-Policy that pages carry themselves, where no server gives it; such pages offer
            nothing that takes a server.
    """
    found = Environment(
        loader=PackageLoader("n2g_assets.explore"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip

    def link(path: str, **values: Any) -> str:
        return place(address(path, values))

    def picture(snapshot: Snapshot, unit: dict[str, Any]) -> Markup:
        asked = OfUnit(study=unit["study"], layer=unit["layer"], unit=unit_address(unit["unit"], unit["sign"]))

        def rule(node: int, offset: int) -> str:
            return place(address(RULE, asked.model_dump() | {"node": node}) + f"#o{-offset}")

        svg = asked.the_unit(snapshot).svg(unit["rules"], rule)
        return Markup(svg)  # our own SVG, in which every token is escaped

    found.filters |= {"share": wording.share, "percent": wording.percent, "count": wording.count_text, "spans": spans}
    found.filters |= {"kind_name": wording.kind_name}
    found.globals |= {"link": link, "picture": picture, "unit_address": unit_address}
    found.globals |= {"plots": plots, "dagster": dagster_address}
    found.globals |= {"policy": policy, "served": not policy}
    return found
