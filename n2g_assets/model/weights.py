"""The plain model of a folder, with its weights: a transformers model, or one in TransformerLens' own format.

The SoLU models of the paper are published in the second format: a config.json with TransformerLens' names
(``d_model``, ``act_fn``, ...) and a state dict with its names (``blocks.0.attn.W_Q``, ...), here as safetensors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from n2g_assets.core.errors import SourceError
from n2g_assets.model.hooks import boot_native_bridge, quiet_transformers

_NATIVE_KEYS = ("d_model", "n_layers", "d_mlp", "d_head", "n_heads", "n_ctx", "d_vocab", "act_fn")


@dataclass(frozen=True)
class PlainModel:
    """A language model, and what its config says of it."""

    module: torch.nn.Module
    """Token ids to logits, or to an object with ``logits``."""
    unembedding: torch.nn.Module
    """The last matrix in it: hidden states to logits."""
    d_vocab: int
    max_context: int | None
    """Tokens; None where the config does not say."""
    activation: str | None
    """Of the MLP; None where the config does not say."""


def load_plain(folder: Path, dtype: torch.dtype, device: torch.device) -> PlainModel:
    """The model of a folder, for inference.

    Raises:
        SourceError: Files are damaged, or weights that the config asks for are missing.
    """
    try:
        native = "model_type" not in json.loads((folder / "config.json").read_text())
        with quiet_transformers():
            plain = _load_native(folder, dtype) if native else _load_transformers(folder, dtype)
    except SourceError:
        raise
    except Exception as error:  # damaged files fail in many ways, each with a class of its own
        reason = " ".join(str(error).split())[:300]
        raise SourceError(
            f"The model in {folder} cannot be loaded ({type(error).__name__}: {reason}): put it there anew, "
            "with its config.json and safetensors."
        ) from error
    plain.module.to(device).eval()
    return plain


def _load_transformers(folder: Path, dtype: torch.dtype) -> PlainModel:
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, local_files_only=True,
        trust_remote_code=False, output_loading_info=True,
    )  # fmt: skip
    module, info = loaded
    _refuse_missing(folder, [*info["missing_keys"], *info["mismatched_keys"]])
    config = module.config.get_text_config()
    names = ("hidden_activation", "hidden_act", "activation_function", "afn", "activation")
    return PlainModel(
        module,
        unembedding=module.get_output_embeddings(),
        d_vocab=int(module.get_input_embeddings().weight.shape[0]),
        max_context=getattr(config, "max_position_embeddings", None),
        activation=next((name for key in names if isinstance(name := getattr(config, key, None), str)), None),
    )


def _load_native(folder: Path, dtype: torch.dtype) -> PlainModel:
    from safetensors.torch import load_file
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources.native import NativeModel
    from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

    given = json.loads((folder / "config.json").read_text())
    lacking = [key for key in _NATIVE_KEYS if key not in given]
    if lacking or given.get("shortformer_pos"):
        what = f"no {lacking[0]}" if lacking else "shortformer positions"
        raise SourceError(
            f"The config.json in {folder} has no model_type, so it is read as TransformerLens', and has {what}: give a "
            "folder in Hugging Face layout."
        )
    config = TransformerBridgeConfig(
        **{key: given[key] for key in _NATIVE_KEYS},
        attn_only=given.get("attn_only", False),
        final_rms=given.get("final_rms", False),
        normalization_type=given.get("normalization", given.get("normalization_type", "LN")),
        positional_embedding_type="standard",
        architecture="TransformerLensNative",
    )
    weights = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    module = NativeModel(config).to(dtype)
    module.head.bias = torch.nn.Parameter(torch.zeros(module.head.out_features, dtype=dtype))
    converted = {"unembed.bias": module.head.bias, **convert_tl_checkpoint(weights, config)}
    bridge = boot_native_bridge(module)  # it shares the parameters that it loads
    _refuse_missing(folder, list(bridge.state_dict().keys() - converted.keys()))
    bridge.load_state_dict(converted)
    return PlainModel(module, module.head, config.d_vocab, config.n_ctx, config.act_fn)


def _refuse_missing(folder: Path, names: list[Any]) -> None:
    """Refuse a model with missing weights, which transformers would draw at random."""
    if names:
        lacking = sorted(str(name) for name in names)
        raise SourceError(
            f"The safetensors in {folder} lack {len(lacking)} weights that config.json asks for, such as {lacking[0]}: "
            "put the whole model there anew."
        )
