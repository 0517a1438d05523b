"""Made-up token graphs and a reader of their pictures."""

from __future__ import annotations

import base64
from xml.etree import ElementTree

import polars as pl
from hypothesis import strategies as st

from n2g_assets.method.results import unit_schema

SVG = "{http://www.w3.org/2000/svg}"

HOSTILE = [
    b"<script>alert(1)</script>",
    b"&amp;",
    b"\"'/><image href='http://example.org/x'/>",
    b"]]>",
    b"\x00\x07\x1b[31m",
    b"\n\t ",
    b"\xff\xfe",
    b"\xe2\x82",
    "\u202eabc\u2066".encode(),
    "\u0301".encode(),
    "日本語".encode(),
    "🎉".encode(),
    "\ufffe\uffff".encode(),
    b"",
    b"w" * 200,
]

TOKENS = st.one_of(st.binary(max_size=6), st.text(max_size=6).map(str.encode), st.sampled_from(HOSTILE))


def frame(rows: list[dict]) -> pl.DataFrame:
    return pl.DataFrame([{"unit": 7, "sign": 1, **row} for row in rows], schema=unit_schema("graph_nodes"))


def node(node_id, parent_id, kind, token, *, depth=0, activation=1.0, importance=None, end=None, count=1) -> dict:
    return {
        "node_id": node_id, "parent_id": parent_id, "depth": depth, "kind": kind, "token": token,
        "activation": activation, "importance": importance, "end_activation": end,
        "end_count": 0 if end is None else count,
    }  # fmt: skip


@st.composite
def graphs(draw, max_nodes: int = 60, tokens: st.SearchStrategy[bytes] = TOKENS) -> pl.DataFrame:
    """A random forest whose leaves are ends, as a frame of ``graph_nodes``."""
    rows: list[dict] = []
    number = draw(st.integers(0, max_nodes))
    for node_id in range(number):
        back = draw(st.integers(0, min(node_id, 8)))
        parent = node_id - back if back else None
        kind = "activating" if parent is None else draw(st.sampled_from(["context", "ignore"]))
        rows.append(
            node(
                node_id,
                parent,
                kind,
                None if kind == "ignore" else draw(tokens),
                depth=0 if parent is None else rows[parent]["depth"] + 1,
                importance=draw(st.sampled_from([None, 0.75, 1.0])) if kind == "context" else None,
                end=draw(st.sampled_from([None, 0.5, 0.875, 1.0])),
            )
        )
    inner = {row["parent_id"] for row in rows}
    for row in rows:
        if row["node_id"] not in inner:
            row["end_activation"], row["end_count"] = row["end_activation"] or 0.6, 1
    return frame(rows)


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(root: ElementTree.Element, kind: str) -> list[str]:
    """The words in the nodes of one kind, end marks left out."""
    groups = [group for group in root.iter(f"{SVG}g") if group.get("class") == f"node {kind}"]
    return [text.text or "" for group in groups for text in group.findall(f"{SVG}text")]


def image_of(markdown: str) -> str:
    """The SVG inside a markdown image."""
    return base64.b64decode(markdown.split("base64,")[1].rstrip(")")).decode()
