"""The verdict of a report: one sentence that says what graphs reach, against what and on which text.

It is built from numbers alone. Its adjectives are comparisons that intervals decide, and it says where a mean stands on
few units, where a score is not defined and where nothing could be scored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from n2g_assets.core.registry import Predictor, Text
from n2g_assets.report.plots import F1, PEARSON_R, LayerScore
from n2g_assets.report.text import FEW_UNITS, by_layer, counted, layers_listed, listed

Row = Mapping[str, Any]

UNITS_OF = {PEARSON_R: "r_units", F1: "evaluated"}
"""By score the column with the number of units that have it."""

_TOLD = {"better": "beat it", "worse": "are worse than it", "not told apart": "cannot be told apart from it"}
"""What is said of the graphs, by ``graph_comparison.verdict``."""


@dataclass(frozen=True)
class Leading:
    """What the verdict is about: a score on a text, and the means by layer that it compares."""

    score: LayerScore
    text: Text
    rules: int | None
    """The graphs' number of rules; None for whole graphs."""
    graphs: Sequence[Row]
    """Means of the graphs, each with ``layer``, the score and ``units``, the number of units behind it."""
    most_rules: int | None
    """Rules of the largest graphs; None where graphs have one size."""
    rival: Predictor | None
    """The strongest baseline."""
    rivals: Sequence[Row]
    """Its means."""
    verdicts: Mapping[int, str]
    """By layer, whether the largest graph beats it (``graph_comparison.verdict``), as far as intervals are known."""

    @property
    def units(self) -> str:
        """The column of ``layer_summary`` with the number of units behind the score, in the report's rows."""
        return UNITS_OF[self.score]

    @property
    def control_units(self) -> str:
        """The same of ``controls``."""
        return f"control_{self.units}"

    @property
    def defined(self) -> list[Row]:
        """The means that are defined."""
        return [row for row in self.graphs if row[self.score.name] is not None]


def verdict(leading: Leading, *, model: str, asked: int, scored: int) -> str:
    """The sentence.

    Args:
        leading: what it is about.
        model: the subject model, for reading.
        asked: units asked for in the layers that are evaluated.
        scored: of those, units with any score on the text.
    """
    score, text = leading.score, leading.text
    if not scored:
        return (
            f"{'The unit' if asked == 1 else f'None of the {asked:,} units'} asked for could {'not ' * (asked == 1)}be "
            f"scored on {text.phrase}: nothing can be said yet of {model}."
        )
    units = _units(scored, asked)
    rival = _rival(leading)
    if not leading.defined:
        return (
            f"On {text.phrase}, the graphs' predictions for {units} of {model} are constant: no {score.short} is "
            f"defined, and nothing of the activation is explained{f', where {rival}' if rival else ''}."
        )
    graphs = f"graphs of {counted(leading.rules, 'rule')}" if leading.rules else "graphs"
    predict = "predict where {} fire" if score is F1 else "predict how strongly {} activate"
    if scored == 1:
        predict = predict.replace("fire", "fires").replace("activate", "activates")
    mean = f"mean {score.short}" + (f" over all {asked:,}" if score is F1 and scored != asked else "")
    means = by_layer(leading.defined, score.name, "units")
    if len(leading.defined) == 1 and scored < FEW_UNITS:
        means = means.partition(" (")[0]  # the units are named already
    parts = [
        f"On {text.phrase}, {graphs} {predict.format(f'{units} of {model}')} with a {mean} {_of(means)}",
        f"; {rival}" if rival else "",
        _judged(leading),
    ]
    return "".join(parts) + "."


def _units(scored: int, asked: int) -> str:
    few = "only " if scored < FEW_UNITS else ""
    if scored != asked:
        return f"{few}{scored:,} of {counted(asked, 'unit')}"
    return "only one unit" if scored == 1 else few + counted(scored, "unit")


def _of(means: str) -> str:
    return means if means.startswith("between") else f"of {means}"


def _rival(leading: Leading) -> str:
    """What the strongest baseline reaches."""
    rows = [row for row in leading.rivals if row[leading.score.name] is not None]
    if leading.rival is None or not rows:
        return ""
    bare = [{name: row[name] for name in ("layer", leading.score.name)} | {"units": FEW_UNITS} for row in rows]
    return f"the strongest baseline ({leading.rival.label}) reaches {by_layer(bare, leading.score.name, 'units')}"


def _judged(leading: Leading) -> str:
    """Whether the largest graphs beat that baseline, as intervals say."""
    found = {kind: [layer for layer, each in leading.verdicts.items() if each == kind] for kind in _TOLD}
    there = {kind: layers for kind, layers in found.items() if layers}
    if not there:
        return ""
    one = len(leading.verdicts) == 1
    if list(there) == ["not told apart"]:
        said = f"{_TOLD['not told apart']}{'' if one else ' at any layer'}: the intervals of the differences hold 0"
    elif len(there) == 1:
        said = _TOLD[next(iter(there))] + ("" if one else " at every layer")
    else:
        said = listed([f"{_TOLD[kind]} at {layers_listed(layers)}" for kind, layers in there.items()])
    largest = f"with up to {counted(leading.most_rules, 'rule')} " if leading.most_rules else ""
    return f", and {'even ' if largest and 'better' not in there else ''}{largest}the graphs {said}"
