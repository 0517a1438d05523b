"""Rules: every path of a token graph from an activating node to an end, in readable form.

1. Take every node at which a path ends; its rule holds the forms from the activating token backwards (NULL: any token).
2. Order rules by the activation they predict, the strongest first; of equals, the node with the lower number.
3. Write the pattern in the order of the text, the activating token last and in square brackets: ``all * [except]``.
   ``*`` is one token of any kind, ``*{3}`` three. White space and bytes that are no text are made visible; a
   backslash stands before a ``*``, ``[``, ``]`` or backslash that is part of a token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from n2g_assets.method.display import display_text


def rule_rows(nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of ``rules`` of one graph, without the unit; ``nodes`` are its rows in the order of ``node_id``."""
    forms: dict[int, tuple[bytes | None, ...]] = {}
    ends = []
    for node in nodes:
        parent_id = node["parent_id"]
        above: tuple[bytes | None, ...] = () if parent_id is None else forms[parent_id]
        forms[node["node_id"]] = (*above, node["token"])
        if node["end_count"]:
            ends.append(node)
    ends.sort(key=lambda node: (-node["end_activation"], node["node_id"]))
    return [
        {
            "rule_id": rule_id, "end_node_id": end["node_id"], "pattern": pattern(forms[end["node_id"]]),
            "tokens": list(forms[end["node_id"]]), "activation": end["end_activation"], "count": end["end_count"],
        }
        for rule_id, end in enumerate(ends)
    ]  # fmt: skip


def pattern(forms: Sequence[bytes | None]) -> str:
    """The readable pattern of a rule, given its forms from the activating token backwards (None: any token)."""
    activating, *context = forms
    words = []
    for form, run in groupby(reversed(context)):
        number = len(list(run))
        if form is None:
            words.append("*" if number == 1 else f"*{{{number}}}")
        else:
            words += [visible(form)] * number
    return " ".join([*words, f"[{visible(activating or b'')}]"])


def visible(form: bytes) -> str:
    """A form for reading inside a pattern, where ``*``, ``[`` and ``]`` have a meaning."""
    return display_text(re.sub(rb"[\\*\[\]]", rb"\\\g<0>", form))
