"""What a study's units are, and which of them it asks about.

As in ``settings``, the default, the unit and the source of a setting stand under its field.
"""

import re
from typing import Annotated, Literal

from pydantic import Discriminator, Field, StrictInt, Tag, field_validator

from n2g_assets.core.setting import Settings, one_of_shapes, shape


# ------------------------------------------------------------------------------------------ what
class AnyEncoder(Settings):
    """What all encoders share: sparse autoencoders, transcoders and plain directions."""

    format: str = "auto"
    """Layout of its files: ``auto`` goes by the name of the file that holds the weights; or a name of the page on
    encoders, such as ``sae_lens``."""
    neuronpedia: str | None = None
    """Where Neuronpedia shows its latents, to which their pages link then, such as
    ``gemma-2-2b/{layer}-gemmascope-res-16k``; none takes what its files say."""

    @field_validator("neuronpedia")
    @classmethod
    def _names_model_and_set(cls, shown: str | None) -> str | None:
        if shown is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", shown.replace("{layer}", "0")):
            raise ValueError(
                f"'{shown}' is no model and set: write them as in a page's address, with {{layer}} for the layer, such "
                "as gemma-2-2b/{layer}-gemmascope-res-16k."
            )
        return shown


class HubEncoder(AnyEncoder):
    """An encoder of the Hugging Face hub."""

    source: Literal["hub"]
    name: str
    """Such as ``google/gemma-scope-2b-pt-res``."""
    path: str | None = None
    """Folder or file in it, such as ``layer_20/width_16k/average_l0_71``; none takes all that it holds."""
    revision: str | None = None
    """Commit, tag or branch; the commit that was resolved is recorded in ``encoders``."""


class LocalEncoder(AnyEncoder):
    """An encoder's folder or file, or a folder that holds one for each layer."""

    source: Literal["local"]
    path: str
    """A relative path counts from the study's folder."""


EncoderSettings = Annotated[HubEncoder | LocalEncoder, Field(discriminator="source")]


class UnitSettings(Settings):
    """What a unit is, where it is no number that the hook carries."""

    encoder: EncoderSettings
    """Makes latents of what the hook carries: each is a unit. A folder may hold an encoder for each layer."""


HEADS = "heads"
"""As the setting ``units``: each attention head of a layer is one."""
HEADS_HOOK = "attn.hook_z"
"""Where heads are read: the values of each, side by side, which the output matrix of attention reads."""
AnyUnits = Annotated[
    Annotated[UnitSettings, Tag("dict")] | Annotated[Literal["heads"], Tag("heads")] | Annotated[None, Tag("NoneType")],
    Discriminator(shape),
    one_of_shapes("units must be {encoder: ...} or heads.", "dict", "heads", "NoneType"),
]
"""None where a unit is a number that the hook carries."""

NEURON, LATENT, HEAD = "neuron", "latent", "head"
"""What a unit is called."""


def unit_word(units: object) -> str:
    """What a unit is called, by the setting ``units`` of its study, in whatever form; None where there is none."""
    return NEURON if units is None else HEAD if units == HEADS else LATENT


# ------------------------------------------------------------------------------------------ which
class NeuronSample(Settings):
    """A random sample of a layer's neurons; samples are nested: the first n of one seeded order."""

    sample: StrictInt = Field(gt=0)
    """Number of neurons a layer."""
    seed: StrictInt = Field(default=0, ge=0)
    """Seed of the order; each layer has an order of its own."""


NeuronSelection = Annotated[
    Annotated[NeuronSample, Tag("dict")]
    | Annotated[Literal["all"], Tag("all")]
    | Annotated[list[Annotated[StrictInt, Field(ge=0)]], Field(min_length=1), Tag("list")],
    Discriminator(shape),
    one_of_shapes("neurons must be {sample: n, seed: s}, 'all' or a list of neurons.", "dict", "all", "list"),
]
