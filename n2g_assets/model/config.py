"""A model's config.json: read before anything else, and compared with the headers of its weights before it is built."""

import json
import re
from pathlib import Path
from typing import Any

from n2g_assets.core.errors import SourceError
from n2g_assets.model.folder import CURE, loading, weight_files

_NUMBER = re.compile(r"\.(\d+)\.")
_MOST = 2
"""A config may ask for so many times the weights of the files; one model holds some matrices twice."""


def read_config(folder: Path) -> Any:
    """What transformers reads in the config.json of a folder; None where it is of TransformerLens' own format.

    Raises:
        SourceError: It is no JSON object, or of no causal language model that transformers knows.
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
    if "model_type" not in given:
        return None
    name, cure = given["model_type"], "choose a causal language model whose architecture transformers has"
    if not isinstance(name, str) or name not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if "auto_map" in given:
            raise SourceError(f"{what} relies on code that comes with it (auto_map), which is never run: {cure}.")
        raise SourceError(f"{what} has the model_type {name!r}, of which transformers has no causal model: {cure}.")
    with loading(what, CURE):
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def compare_with_weights(folder: Path, config: Any) -> None:
    """Refuse a config that asks for other layers or far more weights than the files hold, before it is built.

    Raises:
        SourceError: as said, or a file is damaged.
    """
    import torch
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    held, layers = 0, 0
    with loading(f"The model in {folder}", CURE):
        for file in weight_files(folder):
            with safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118  (no mapping)
                    shape = opened.get_slice(name).get_shape()
                    held += int(torch.Size(shape).numel())
                    layers = max(layers, *(int(number) + 1 for number in _NUMBER.findall(name)[:1]), 0)
    asked = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(asked, int) and asked > layers:
        raise SourceError(
            f"The config.json in {folder} asks for {asked:,} layers, but the safetensors hold {layers:,}: {CURE}."
        )
    with loading(f"The config.json in {folder}", CURE), torch.device("meta"):
        wanted = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
    if wanted > _MOST * held:
        raise SourceError(
            f"The config.json in {folder} asks for {wanted:,} weights, but the safetensors hold {held:,}: {CURE}."
        )
