"""The explanations that a study names, for one layer: what each predicts of a unit, and rows of ``explanations``."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from jaxtyping import Float32

from n2g_assets.core.explained import AnyStudyExplanation, ExplanationTexts, PredictedActivations, PredictingFunction
from n2g_assets.core.units import Unit
from n2g_assets.corpus.user_code import UserFunction
from n2g_assets.explanations.predicting import ExplainedUnit, FunctionPredictions
from n2g_assets.explanations.predictions import GivenPredictions, by_context, check_predictions, read_predictions
from n2g_assets.explanations.words import files_of, read_words
from n2g_assets.method.text import EncodedText
from n2g_assets.storage.hashing import file_sha256


class Predicts(Protocol):
    """What an explanation is to the evaluation."""

    @property
    def from_outside(self) -> bool:
        """It is not learnt from the harvest."""

    def predict(self, text: EncodedText) -> Float32[np.ndarray, " tokens"]:
        """Predicted normalised activation of every token."""


def _path(text: str, study_folder: Path) -> Path:
    return (study_folder / Path(text).expanduser()).resolve()


def _function(explanation: PredictingFunction, study_folder: Path) -> UserFunction:
    return UserFunction("explanation function", explanation.function, study_folder)


def _words_path(explanation: AnyStudyExplanation, study_folder: Path) -> Path | None:
    named = explanation.path if isinstance(explanation, ExplanationTexts) else explanation.texts
    return None if named is None else _path(named, study_folder)


def check_explanation(explanation: AnyStudyExplanation, study_folder: Path) -> None:
    """Check that what an explanation names is there, as far as that can be seen at once.

    Raises:
        SourceError: It is not.
    """
    if isinstance(explanation, PredictedActivations):
        check_predictions(_path(explanation.path, study_folder))
    if isinstance(explanation, PredictingFunction):
        _function(explanation, study_folder).check()
    if (words := _words_path(explanation, study_folder)) is not None:
        files_of(words)


def explanation_hash(explanation: AnyStudyExplanation, study_folder: Path) -> dict[str, Any]:
    """What an explanation's predictions and words depend on: its settings, and the content of what they name."""
    found: dict[str, Any] = {"settings": explanation.hashed()}
    if isinstance(explanation, PredictedActivations):
        found["predictions"] = file_sha256(_path(explanation.path, study_folder))
    if isinstance(explanation, PredictingFunction):
        file = _function(explanation, study_folder).check()
        found["function"] = None if file is None else file_sha256(file)
    if (words := _words_path(explanation, study_folder)) is not None:
        found["words"] = [file_sha256(file) for file in files_of(words)]
    return found


@dataclass
class LayerExplanations(AbstractContextManager["LayerExplanations"]):
    """The explanations of a study, on the units of a layer; functions stay imported while the context is open."""

    explanations: Sequence[AnyStudyExplanation]
    study_folder: Path
    layer: int
    asked: Mapping[int, Sequence[Unit]]
    """By layer, the units of the study."""
    contexts: pl.DataFrame
    """Every context of the study: ``context_id`` and ``length``."""
    token_ids: Mapping[str, np.ndarray]
    """By the id of a context that is scored, its token ids."""
    tokens: Sequence[bytes]
    """The tokens of the vocabulary."""
    _open: ExitStack = field(default_factory=ExitStack, repr=False)
    _functions: dict[str, Any] = field(default_factory=dict, repr=False)

    def __exit__(self, *error: object) -> None:
        """Forget the modules of functions."""
        self._functions.clear()
        self._open.close()

    def of_unit(self, unit: Unit) -> dict[str, Predicts]:
        """By name, what predicts a unit; files that do not speak of it do not."""
        found: dict[str, Predicts] = {}
        for each in self.explanations:
            if isinstance(each, PredictedActivations) and unit in self._predictions[each.name]:
                rows = self._predictions[each.name][unit]
                found[each.name] = GivenPredictions(by_context(rows, self.token_ids, each.scale))
            if isinstance(each, PredictingFunction):
                told = ExplainedUnit(self.layer, unit.number, unit.sign, self._words[each.name].get(unit, []))
                found[each.name] = FunctionPredictions(
                    _function(each, self.study_folder), self._imported(each), told, self.tokens, each.scale
                )
        return found

    def rows(self, scored: Mapping[Unit, Sequence[str]]) -> pl.DataFrame:
        """The rows of the table ``explanations``; ``scored`` has by unit the contexts on which it is scored."""
        rows = []
        for each in self.explanations:
            given = self._predictions.get(each.name)
            for unit, context_ids in scored.items():
                n_given = n_tokens = None
                if given is not None and unit in given:
                    mine = given[unit].filter(pl.col("context_id").is_in(list(context_ids)))
                    n_given, n_tokens = mine.height, sum(len(self.token_ids[one]) - 1 for one in context_ids)
                texts = self._words[each.name].get(unit, [None] * (each.source != "texts" and n_given is not None))
                for place, text in enumerate(texts):
                    rows.append((*unit, each.name, place, each.source, text, n_given, n_tokens))
        schema = {
            "unit": pl.Int32, "sign": pl.Int8, "explanation": pl.String, "place": pl.Int32, "source": pl.String,
            "text": pl.String, "n_given": pl.Int64, "n_scored": pl.Int64,
        }  # fmt: skip
        return pl.DataFrame(rows, schema=schema, orient="row")

    def _imported(self, each: PredictingFunction) -> Any:
        if each.name not in self._functions:
            function = self._open.enter_context(_function(each, self.study_folder).imported())
            self._functions[each.name] = partial(function, **each.arguments)
        return self._functions[each.name]

    @cached_property
    def _predictions(self) -> dict[str, dict[Unit, pl.DataFrame]]:
        return {
            each.name: read_predictions(_path(each.path, self.study_folder), self.layer, self.asked, self.contexts)
            for each in self.explanations
            if isinstance(each, PredictedActivations)
        }

    @cached_property
    def _words(self) -> dict[str, dict[Unit, list[str]]]:
        """By name and unit of the layer, what is said in words."""
        found: dict[str, dict[Unit, list[str]]] = {}
        for each in self.explanations:
            said: dict[Unit, list[str]] = defaultdict(list)
            path = _words_path(each, self.study_folder)
            for words in read_words(path) if path is not None else ():
                if words.layer == self.layer:
                    said[words.unit].append(words.text)
            found[each.name] = dict(said)
        return found
