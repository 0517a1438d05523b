"""A model's config.json: read before anything else, and compared with the headers of its weights before it is built."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from n2g_assets.core.errors import SourceError
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


def read_config(folder: Path) -> Any:
    """What transformers reads in the config.json of a folder; None where it is of TransformerLens' own format.

    It is compared with the headers of the weights before anything is given room.

    Raises:
        SourceError: It is no JSON object, of no causal language model that transformers knows, or asks for other layers
            or far more weights than the files hold; or one of these is damaged.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    what = f"The config.json in {folder}"
    try:
        given = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{what} is no JSON ({error}): {CURE}.") from error
    if not isinstance(given, dict):
        raise SourceError(f"{what} is no JSON object: {CURE}.")
    for key, why in _NEVER.items():
        if key in given:
            raise SourceError(f"{what} {why}.")
    numbers, layers = _held(folder)
    _check_layers(what, given, layers)
    if "model_type" not in given:
        return None
    name, cure = given["model_type"], "choose a causal language model whose architecture transformers has"
    if not isinstance(name, str) or name not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if "auto_map" in given:
            raise SourceError(f"{what} relies on code that comes with it (auto_map), which is never run: {cure}.")
        raise SourceError(f"{what} has the model_type {name!r}, of which transformers has no causal model: {cure}.")
    with loading(what, CURE):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    _check_size(what, config, numbers)
    return config


def _check_size(what: str, config: Any, held: int) -> None:
    """Refuse a config that asks for far more weights than the files hold."""
    import torch
    from transformers import AutoModelForCausalLM

    with loading(what, CURE), torch.device("meta"):
        wanted = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
    if wanted > _MOST * held:
        raise SourceError(f"{what} asks for {wanted:,} weights, but the safetensors hold {held:,}: {CURE}.")


def _check_layers(what: str, given: Mapping[str, Any], held: int) -> None:
    """Refuse a number of layers that the weights do not have, before transformers makes lists of that length."""
    inner = given.get("text_config")
    for part in (given, inner if isinstance(inner, dict) else {}):
        for asked in (part.get(name) for name in _LAYERS):
            if isinstance(asked, int) and not 1 <= asked <= held:
                raise SourceError(f"{what} asks for {asked:,} layers, but the safetensors hold {held:,}: {CURE}.")


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
