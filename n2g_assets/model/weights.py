"""The plain model of a folder, with its weights: a transformers model, or one in TransformerLens' own format.

The SoLU models of the paper are published in the second format: a config.json with TransformerLens' names
(``d_model``, ``act_fn``, ...) and a state dict with its names (``blocks.0.attn.W_Q``, ...), here as safetensors.
"""

import json
import logging
from pathlib import Path
from typing import Any

import torch

from n2g_assets.core.errors import SourceError
from n2g_assets.model.config import read_config
from n2g_assets.model.folder import CURE, loading
from n2g_assets.model.hooks import boot_bridge

_LOG = logging.getLogger(__name__)
_NATIVE_KEYS = ("d_model", "n_layers", "d_mlp", "d_head", "n_heads", "n_ctx", "d_vocab", "act_fn")


def load_plain(folder: Path, dtype: torch.dtype, device: torch.device) -> tuple[torch.nn.Module, torch.nn.Linear]:
    """The model of a folder, for inference, and its unembedding: the last matrix in it, hidden states to logits.

    The model takes token ids and gives logits, or an object with ``logits``.

    Raises:
        SourceError: Files are damaged, or weights that the config asks for are missing.
    """
    native = read_config(folder) is None
    with loading(f"The model in {folder}", CURE):
        plain: Any = _load_native(folder, dtype) if native else _load_transformers(folder, dtype)
    _refuse_not_finite(folder, plain)
    return plain.to(device).eval(), plain.head if native else plain.get_output_embeddings()


def _load_transformers(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )  # fmt: skip  (attention is sdpa where transformers offers it for the architecture, else eager)
    module, info = loaded
    _refuse_missing(folder, [*info["missing_keys"], *info["mismatched_keys"]])
    tied = getattr(module.config.get_text_config(), "tie_word_embeddings", False)
    if tied and module.get_input_embeddings().weight is not module.get_output_embeddings().weight:
        _LOG.warning(
            "The config.json in %s says that embedding and unembedding are one matrix, but the safetensors "
            "hold two that differ: both are read.", folder,
        )  # fmt: skip
    return module


def _load_native(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
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
    bridge = boot_bridge(module, folder, tokenizer=None)  # it shares the parameters that it loads
    _refuse_missing(folder, list(bridge.state_dict().keys() - converted.keys()))
    bridge.load_state_dict(converted)
    return module


def _refuse_missing(folder: Path, names: list[Any]) -> None:
    """Refuse a model with missing weights, which transformers would draw at random."""
    if names:
        lacking = sorted(str(name) for name in names)
        raise SourceError(
            f"The safetensors in {folder} lack {len(lacking)} weights that config.json asks for, such as {lacking[0]}: "
            "put the whole model there anew."
        )


def _refuse_not_finite(folder: Path, plain: torch.nn.Module) -> None:
    """Refuse weights that are no finite numbers, of which every activation behind them would be none."""
    for name, parameter in plain.named_parameters():
        bad = ~torch.isfinite(parameter)
        if bad.any():
            row = int(bad.nonzero()[0, 0])
            raise SourceError(
                f"The weights {name} in {folder} hold {int(bad.sum())} values that are no finite numbers, the first in "
                f"row {row}: put the whole model there anew."
            )
