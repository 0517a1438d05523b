"""What a report is told: frames of one study's tables and plain values, nothing that it would have to look up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from n2g_assets.report.findings import TEXTS


@dataclass(frozen=True)
class ExampleGraph:
    """One unit's graph as an example."""

    layer: int
    unit: int
    sign: int
    svg: str
    """From ``drawing.svg.draw_graph``."""
    rules: pl.DataFrame
    """The unit's rows of table ``rules`` that are listed below the picture (rule_id, pattern, activation, count)."""


@dataclass(frozen=True)
class ReportFacts:
    """Everything that a report says about one study. Frames may hold only the layers that are materialised."""

    study: str
    """Name of the study."""
    made_at: datetime
    """When the facts were taken (UTC)."""
    settings: Mapping[str, Any]
    """All settings, as in ``studies.settings``; ``preset``, ``method`` and ``evaluation`` are read."""
    versions: Mapping[str, str]
    """Package versions."""
    model: Mapping[str, Any]
    """The row of table ``subject_models``."""
    layers: Sequence[int]
    """Layers that the study asks for."""
    documents: pl.DataFrame
    """Columns split, source, kind, documents, tokens: sums of table ``documents``."""
    text_hashes: Mapping[str, str]
    """Content hashes of the corpus by what they are of: harvest, held_out, out_of_domain."""
    slices: pl.DataFrame
    """Columns table_name, layer, rows, input_hash, content_hash, as in table ``slices``."""
    units: pl.DataFrame
    """Columns layer, asked, ok, dead, too_few_contexts, failed: counts of the view ``unit_status``, a row a layer."""
    layer_scores: pl.DataFrame
    """Table ``layer_scores``."""
    evaluation: pl.DataFrame
    """Table ``evaluation``."""
    rule_tests: pl.DataFrame
    """Table ``rule_tests``; empty where no rule was tested."""
    failures: pl.DataFrame
    """Table ``failures``."""
    counterexamples: pl.DataFrame
    """Table ``counterexamples``."""
    tokens: Mapping[int, bytes]
    """Exact bytes of the tokens that counterexamples hold, by token id."""
    examples: Sequence[ExampleGraph]
    """A few graphs."""
    commands: Sequence[str]
    """Commands that make the study again."""

    @property
    def is_paper(self) -> bool:
        """Whether the study follows the paper's protocol and nothing else."""
        return self.settings.get("preset") == "paper"

    @property
    def threshold(self) -> float:
        """Normalised activation from which a unit fires."""
        return float(self.settings.get("method", {}).get("firing_threshold", 0.5))

    @property
    def texts(self) -> list[str]:
        """The texts that were scored, in their fixed order."""
        there = set(self.layer_scores["text"])
        return [text for text in TEXTS if text in there] + sorted(there - set(TEXTS))

    @property
    def missing_layers(self) -> list[int]:
        """Layers that were asked for and are not evaluated."""
        return sorted(set(self.layers) - set(self.layer_scores["layer"]))
