"""Plots of scores, for the metadata of assets and for the report: small hand-made SVG, no plotting library.

``f1_by_layer`` shows how well firing is predicted with its uncertainty, ``precision_recall`` the choice of another
threshold, ``calibration`` what a predicted activation is worth. What they share is in ``axes``.
"""

from __future__ import annotations

import base64

from n2g_assets.report.curves import calibration, precision_recall
from n2g_assets.report.layer_plot import PUBLISHED_F1, f1_by_layer
from n2g_assets.report.text import clean_text

__all__ = ["PUBLISHED_F1", "as_markdown_image", "calibration", "f1_by_layer", "precision_recall"]


def as_markdown_image(svg: str, alt: str = "picture") -> str:
    """An SVG document as a markdown image that carries its own data, for places that render markdown."""
    data = base64.b64encode(svg.encode("utf-8")).decode("ascii")
    name = "".join(character for character in clean_text(alt) if character not in "[]()\\<>`!")
    return f"![{name}](data:image/svg+xml;base64,{data})"
