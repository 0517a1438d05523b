"""Other people's explanations of a study's units: where each comes from.

As in ``settings``, the default, the unit and the source of a setting stand under its field.
"""

import re
from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator

from n2g_assets.core import registry
from n2g_assets.core.setting import Settings
from n2g_assets.core.sources import module_and_name


class AnyExplanation(Settings):
    """What all explanations share."""

    name: str
    """What it is called in ``explanations.explanation`` and, where it predicts, in ``evaluation.predictor``."""

    @field_validator("name")
    @classmethod
    def _is_a_new_name(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ValueError(f"name an explanation with small letters, digits and _, not '{name}'.")
        if name in registry.named(registry.PREDICTORS):
            raise ValueError(f"there is a predictor '{name}' already: give the explanation another name.")
        return name


class PredictingExplanation(AnyExplanation):
    """What explanations share that predict activations, and are scored."""

    scale: float = Field(default=1.0, gt=0)
    """What it says where the unit is as strong as ever: its values are divided by it; 10 where they go from 0 to 10."""
    texts: str | None = None
    """File with the explanations in words, as that of source ``texts``; none shows no words."""


class PredictedActivations(PredictingExplanation):
    """A file with an activation for each token, such as a simulator gave for ``n2g export-contexts``."""

    source: Literal["predictions"]
    path: str
    """Parquet or JSONL with ``layer``, ``unit``, ``context_id``, ``position`` (of the token, from 1), ``value`` and, if
    wanted, ``sign`` (1 or -1); a relative path counts from the study's folder. A token that is not in it counts as
    predicted 0; a unit that is not in it has no score."""


class PredictingFunction(PredictingExplanation):
    """A function that predicts the activations of a unit on the tokens of a context."""

    source: Literal["python"]
    function: str
    """Such as ``package.module:name``; a module of the study's folder comes first. It is called as
    ``name(unit, tokens)``: ``unit`` has ``layer``, ``unit``, ``sign`` and ``texts``, ``tokens`` are the texts of a
    context's tokens; it gives a value for each of them. It is run anew where its file, or a setting, has changed."""
    arguments: dict[str, JsonValue] = Field(default={})
    """What else it is called with, by name."""

    _names_module_and_function = field_validator("function")(module_and_name)


class ExplanationTexts(AnyExplanation):
    """Explanations in words alone, as they are published: shown beside the graph, not scored."""

    source: Literal["texts"]
    path: str
    """JSONL file (also .gz), or folder of such files: a line a unit with ``layer``, ``unit`` (or ``neuron``, ``index``)
    and ``text`` (or ``description``, ``explanation``), as Neuronpedia exports them, or as OpenAI published them
    (``neuron_id`` and ``scored_explanations``). Lines of units that the study does not ask about are passed over."""


AnyStudyExplanation = Annotated[
    PredictedActivations | PredictingFunction | ExplanationTexts, Field(discriminator="source")
]
