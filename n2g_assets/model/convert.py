"""A GGUF file, converted once to a folder in Hugging Face layout: safetensors, config and tokenizer.

Loading the folder takes a fraction of what transformers needs to read a GGUF file, and gives the same logits. Steps:

1. read the metadata, and refuse what is not a Llama with a byte-level tokenizer;
2. dequantise every tensor to float32 and give it its transformers name; rows of q and k go back from the order in
   which GGUF pairs the rotary dimensions (neighbours) to that of transformers (first half with second half);
3. write the config and a tokenizer.json that splits text as the metadata says.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from n2g_assets.core.errors import SourceError

if TYPE_CHECKING:
    from gguf import GGUFReader
    from tokenizers import Tokenizer

CONVERTER_VERSION = 1
"""Raised when the converter's output changes: older conversions are then made anew."""

# fmt: off
_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INNER = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
# fmt: on
_FLOATS = ("F64", "F32", "F16", "BF16")
_CONTROL, _USER_DEFINED = 3, 4
"""Token types of GGUF: special tokens, and ordinary ones that are matched before anything else."""


class _Refused(Exception):  # noqa: N818  (the caller names the file)
    """What a file has that the converter does not support."""


def convert_gguf(gguf_file: Path, folder: Path) -> str | None:
    """Write model.safetensors, config.json, tokenizer.json and tokenizer_config.json into ``folder``, which is empty.

    The model is a Llama with a byte-level BPE tokenizer; memory holds it in float32 once.

    Returns:
        The quantisation of most weights, such as Q4_1; None where they are plain floating-point numbers.

    Raises:
        SourceError: The file is damaged or holds another kind of model.
    """
    from gguf import GGUFReader
    from safetensors.numpy import save_file

    what = f"The GGUF file {gguf_file}"
    try:
        reader = GGUFReader(gguf_file)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
        try:
            config = _config(metadata, {str(tensor.name) for tensor in reader.tensors})
            tokenizer, texts = _tokenizer(metadata), metadata["tokenizer.ggml.tokens"]
        except KeyError as key:
            raise SourceError(f"{what} has no {key}: choose a complete conversion of the model.") from key
        tensors = _tensors(reader, config)
    except _Refused as refused:
        raise SourceError(f"{what} has {refused}, which is not supported: choose another model.") from refused
    except (ValueError, IndexError, KeyError, OverflowError, NotImplementedError) as error:
        raise SourceError(f"{what} cannot be read ({type(error).__name__}: {error}): fetch it anew.") from error
    keys = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    config |= {f"{name}_token_id": ids[name] for name in ("bos", "eos", "pad")}
    special = {f"{name}_token": texts[number] for name, number in ids.items() if number is not None}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    weights: Counter[str] = Counter()
    for tensor in reader.tensors:
        weights[str(tensor.tensor_type.name)] += int(tensor.n_elements)
    [(kind, _)] = weights.most_common(1)
    return None if kind in _FLOATS else kind


def _config(metadata: dict[str, Any], tensor_names: set[str]) -> dict[str, Any]:
    architecture = metadata["general.architecture"]
    if architecture != "llama":
        raise _Refused(f"the architecture '{architecture}'")
    if metadata.get("llama.rope.scaling.type", "none") != "none":
        raise _Refused("scaled rotary positions")
    if metadata.get("llama.expert_count"):
        raise _Refused("experts")
    heads = int(metadata["llama.attention.head_count"])
    width = int(metadata["llama.embedding_length"])
    head_dim = int(metadata.get("llama.attention.key_length", width // heads))
    if metadata.get("llama.rope.dimension_count", head_dim) != head_dim:
        raise _Refused("rotary positions on a part of each head")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": int(metadata["llama.feed_forward_length"]),
        "num_hidden_layers": int(metadata["llama.block_count"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(metadata.get("llama.attention.head_count_kv", heads)),
        "head_dim": head_dim,
        "max_position_embeddings": int(metadata["llama.context_length"]),
        "rms_norm_eps": float(metadata["llama.attention.layer_norm_rms_epsilon"]),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(metadata.get("llama.rope.freq_base", 10000.0))},
        "attention_bias": "blk.0.attn_q.bias" in tensor_names,
        "mlp_bias": "blk.0.ffn_up.bias" in tensor_names,
        "tie_word_embeddings": "output.weight" not in tensor_names,
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "dtype": "float32",
    }


def _tensors(reader: GGUFReader, config: dict[str, Any]) -> dict[str, np.ndarray]:
    from gguf import dequantize

    tensors: dict[str, np.ndarray] = {}
    for tensor in reader.tensors:
        name = _transformers_name(str(tensor.name))
        values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if ".q_proj." in name:
            values = _rows_as_halves(values, config["num_attention_heads"])
        elif ".k_proj." in name:
            values = _rows_as_halves(values, config["num_key_value_heads"])
        tensors[name] = values
    return tensors


def _transformers_name(name: str) -> str:
    if name in _OUTER:
        return _OUTER[name]
    match name.split("."):
        case ["blk", layer, part, ("weight" | "bias") as kind] if part in _INNER:
            return f"model.layers.{layer}.{_INNER[part]}.{kind}"
    raise _Refused(f"a tensor '{name}'")


def _rows_as_halves(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """Each head's rows from pairs of neighbours (0, 1), (2, 3), ... to first half and second half."""
    heads = rows.reshape(n_heads, -1, 2, *rows.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(1, 2).reshape(rows.shape))


def _tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind, split = metadata["tokenizer.ggml.model"], metadata.get("tokenizer.ggml.pre", "gpt-2")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    splitters = {
        "gpt-2": byte_level,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level]),
    }
    if kind != "gpt2" or split not in splitters:
        raise _Refused(f"a tokenizer of the kind '{kind}' that splits text as '{split}'")
    texts = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(texts)}, merges=merges))
    tokenizer.pre_tokenizer = splitters[split]
    tokenizer.decoder = decoders.ByteLevel()
    types = metadata.get("tokenizer.ggml.token_type", [])
    added = [(text, kind) for text, kind in zip(texts, types, strict=False) if kind in (_CONTROL, _USER_DEFINED)]
    tokenizer.add_tokens([AddedToken(text, special=kind == _CONTROL, normalized=False) for text, kind in added])
    return tokenizer
