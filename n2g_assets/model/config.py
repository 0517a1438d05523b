"""A model's config.json: read before anything else, and compared with the headers of its weights before it is built."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from n2g_assets.core.errors import SourceError
from n2g_assets.core.settings import MOST_LAYERS
from n2g_assets.model.folder import CURE, loading, weight_files

_NUMBER = re.compile(r"\.(\d+)\.")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""What configs call the number of layers."""
_NEVER = {
    "transformers_weights": "names another file of weights (transformers_weights), which is not read: give a folder "
    "whose weights are model.safetensors or what its index names",
    "quantization_config": "is of a quantised model, whose weights are not read: give the model as it was before",
}
_MOST = 2
"""A config may ask for so many times the weights of the files; one model holds some matrices twice."""
WIDTHS = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
"""What models call, in their config, the neurons of a layer."""
NEURONS = ("mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post")
"""Hooks that carry a value for each neuron of an MLP."""


@dataclass(frozen=True)
class Shape:
    """A model, as far as its size goes."""

    name: str
    layers: int
    width: int
    """Values a position at a study's hook, or its units a layer where they are latents or heads."""
    heads: int
    """Attention heads of a layer; 0 where there are none."""
    vocabulary: int
    layer_weights: int
    """Weights of a layer; of a mixture of experts all of them, though a token goes through few."""
    weights: int
    """All that are loaded."""


def read_config(folder: Path) -> Any:
    """What transformers reads in the config.json of a folder; None where it is of TransformerLens' own format.

    It is compared with the headers of the weights before anything is given room.

    Raises:
        SourceError: It is no JSON object, of no causal language model that transformers knows, or asks for other layers
            or far more weights than the files hold; or one of these is damaged.
    """
    what, given = _given(folder)
    numbers, layers = _held(folder)
    _check_layers(what, given, layers, f"the safetensors hold {layers:,}")
    if "model_type" not in given:
        return None
    config = _understood(folder, what, given)
    wanted = sum(parameter.numel() for _, parameter in _empty(what, config).named_parameters())
    if wanted > _MOST * numbers:
        raise SourceError(f"{what} asks for {wanted:,} weights, but the safetensors hold {numbers:,}: {CURE}.")
    return config


def read_shape(folder: Path, name: str, hook: str) -> Shape:
    """The shape of the model that the config.json of a folder describes; weights are not read, nor given room.

    Raises:
        SourceError: It is no JSON object, or of no causal language model that transformers knows.
    """
    what, given = _given(folder)
    _check_layers(what, given, MOST_LAYERS, f"no model has more than {MOST_LAYERS:,}")
    if "model_type" not in given:
        raise SourceError(
            f"{what} is not of transformers (it has no model_type), so that the model's size is not known from it "
            "alone: plan on a machine that has the model, without a stated rate."
        )
    config = _understood(folder, what, given)
    sizes = {each: parameter.numel() for each, parameter in _empty(what, config).named_parameters()}
    of_layers = {each: size for each, size in sizes.items() if _NUMBER.search(each)}
    inner = config.get_text_config()
    width = next((size for each in WIDTHS if type(size := getattr(inner, each, None)) is int), 4 * inner.hidden_size)
    return Shape(
        name, inner.num_hidden_layers, width if hook in NEURONS else inner.hidden_size,
        getattr(inner, "num_attention_heads", 0), inner.vocab_size,
        sum(of_layers.values()) // inner.num_hidden_layers, sum(sizes.values()),
    )  # fmt: skip


def _given(folder: Path) -> tuple[str, dict[str, Any]]:
    """What the config.json of a folder is called in messages, and what it says."""
    what = f"The config.json in {folder}"
    try:
        given = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"{what} cannot be read ({error.strerror}): {CURE}.") from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{what} is no JSON ({error}): {CURE}.") from error
    if not isinstance(given, dict):
        raise SourceError(f"{what} is no JSON object: {CURE}.")
    for key, why in _NEVER.items():
        if key in given:
            raise SourceError(f"{what} {why}.")
    return what, given


def _understood(folder: Path, what: str, given: Mapping[str, Any]) -> Any:
    """What transformers reads in it."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name, cure = given["model_type"], "choose a causal language model whose architecture transformers has"
    if not isinstance(name, str) or name not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if "auto_map" in given:
            raise SourceError(f"{what} relies on code that comes with it (auto_map), which is never run: {cure}.")
        raise SourceError(f"{what} has the model_type {name!r}, of which transformers has no causal model: {cure}.")
    with loading(what, CURE):
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _empty(what: str, config: Any) -> Any:
    """The model of a config without room for its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with loading(what, CURE), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _check_layers(what: str, given: Mapping[str, Any], most: int, why: str) -> None:
    """Refuse a number of layers that no model of these weights has, before transformers makes lists of that length."""
    inner = given.get("text_config")
    for part in (given, inner if isinstance(inner, dict) else {}):
        for asked in (part.get(name) for name in _LAYERS):
            if isinstance(asked, int) and not 1 <= asked <= most:
                raise SourceError(f"{what} asks for {asked:,} layers, but {why}: {CURE}.")


def _held(folder: Path) -> tuple[int, int]:
    """Numbers and layers in a model's safetensors, by their headers."""
    from safetensors import safe_open

    numbers = layers = 0
    with loading(f"The model in {folder}", CURE):
        for file in weight_files(folder):
            with safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118  (no mapping)
                    numbers += math.prod(opened.get_slice(name).get_shape())
                    layers = max([layers, *(int(number) + 1 for number in _NUMBER.findall(name)[:1])])
    return numbers, layers
