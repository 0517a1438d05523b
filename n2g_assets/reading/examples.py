"""Contexts worth looking at: where a unit is strongest, where it is of every strength, and where its graph is wrong."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from jaxtyping import Float32, Int32

from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.tokens import display_text
from n2g_assets.report.text import share

if TYPE_CHECKING:
    from n2g_assets.reading.study import Unit

UNIT = "study = $study AND layer = $layer AND unit = $unit AND sign = $sign"
"""The condition that a row is of one unit; a ``Unit`` gives the values."""

_BEFORE, _AFTER = 12, 4
"""Tokens around the position in question that ``repr`` shows."""
_TENTHS = (
    "weakest tenth",
    *(f"{n} tenth" for n in ("2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th")),
    "strongest tenth",
)


@dataclass(frozen=True)
class Example:
    """A context with what a unit does in it."""

    title: str
    """What it is one of, and where it comes from."""
    token_ids: Int32[np.ndarray, " length"]
    """Position 0 is not text."""
    activations: Float32[np.ndarray, " length"] | None
    """The unit's activation at every position, as a share of a_max; None where the database does not have it."""
    peak: int
    """The position in question."""
    vocabulary: Vocabulary
    importances: Float32[np.ndarray, " length"] | None = None
    """The share of the activation at ``peak`` that is lost when the token at a position is masked, as it was measured
    on the end of the context that pruning keeps; NaN before that, and None where it was not measured."""

    @property
    def text(self) -> str:
        """The context for reading, the token in question in square brackets, as in the view ``top_context_text``."""
        return self._text(1, len(self.token_ids))

    def table(self) -> pl.DataFrame:
        """Its tokens in order, each with its ``position``, ``token_id``, ``token`` for reading and ``activation``."""
        ids = self.token_ids[1:]
        tokens = self.vocabulary.tokens
        return pl.DataFrame(
            {
                "position": np.arange(1, len(self.token_ids), dtype=np.int32),
                "token_id": ids,
                "token": [display_text(tokens[token]) for token in ids],
                "activation": None if self.activations is None else self.activations[1:],
            },
            schema_overrides={"token": pl.String, "activation": pl.Float32},
        )

    def __repr__(self) -> str:
        first, stop = max(1, self.peak - _BEFORE), min(len(self.token_ids), self.peak + _AFTER + 1)
        text = ("…" if first > 1 else "") + self._text(first, stop) + ("…" if stop < len(self.token_ids) else "")
        return f"<Example {self.title}: {text}>"

    def _text(self, first: int, stop: int) -> str:
        tokens = self.vocabulary.tokens
        shown = [display_text(tokens[self.token_ids[place]]) for place in range(first, stop)]
        return "".join(
            f"[{token}]" if place == self.peak else token.replace("␣", " ")
            for place, token in enumerate(shown, start=first)
        )


def top_contexts(unit: "Unit") -> list[Example]:
    """A unit's strongest contexts with their activations, strongest first."""
    pruned = {row["rank"]: row for row in unit.rows("pruned_examples")}
    return [_top_context(unit, row, pruned.get(row["rank"])) for row in unit.rows("top_examples", order="rank")]


def _top_context(unit: "Unit", row: dict[str, Any], pruned: dict[str, Any] | None) -> Example:
    title, importances = f"number {row['rank'] + 1}, {row['split']}", None
    if pruned is not None:
        n_kept = len(pruned["token_ids"]) - 1
        title += (
            f"; of its activation {share(pruned['kept_share'], 2)} is left when only the last "
            f"{'token is' if n_kept == 1 else f'{n_kept} tokens are'} shown"
        )
        importances = np.full(len(row["token_ids"]), np.nan, np.float32)
        importances[pruned["start"] : pruned["start"] + n_kept] = pruned["importances"][1:]
    return Example(
        title, np.array(row["token_ids"], np.int32), np.array(row["activations"], np.float32) / np.float32(unit.a_max),
        row["peak"], unit.study.vocabulary, importances,
    )  # fmt: skip


def strength_examples(unit: "Unit") -> list[Example]:
    """Contexts of held-out text of every strength, the strongest first; none where no such text is scored."""
    query = f"""
        SELECT tenth, position, activation, activations, token_ids
        FROM strength_examples JOIN contexts USING (study, context_id) WHERE {UNIT} ORDER BY tenth DESC"""
    return [
        Example(
            f"from the {_TENTHS[row['tenth']]} of its positive activations on held-out text: "
            f"{row['activation'] / unit.a_max:.2f}",
            np.array(row["token_ids"], np.int32), np.array(row["activations"], np.float32) / np.float32(unit.a_max),
            row["position"], unit.study.vocabulary,
        )
        for row in unit.study.rows(query, **unit.key)
    ]  # fmt: skip


def counterexamples(unit: "Unit") -> list[Example]:
    """Contexts of held-out text in which a unit's graph is most wrong, the worst of each kind first."""
    query = f"""
        SELECT kind, text, rank, position, predicted, actual, cause, c.token_ids
        FROM counterexamples JOIN contexts AS c USING (study, context_id)
        WHERE {UNIT} ORDER BY rank, text DESC, kind"""
    return [
        Example(
            f"{row['kind'].replace('_', ' ')} on {row['text'].replace('_', '-')} text: "
            f"expected {row['predicted']:.2f}, was {row['actual']:.2f} ({row['cause']})",
            np.array(row["token_ids"], np.int32), None, row["position"], unit.study.vocabulary,
        )
        for row in unit.study.rows(query, **unit.key)
    ]  # fmt: skip
