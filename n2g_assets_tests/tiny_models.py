"""Tiny language models built from a config, each saved as a folder in Hugging Face layout, with a real tokenizer.

The weights are random but drawn wide, so that units differ, fire on few tokens and depend on context.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from n2g_assets.core.settings import HarvestSettings
from n2g_assets.model.folder import hash_model
from n2g_assets.model.sources import SubjectFiles

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig

    from n2g_assets.model.model import SubjectModel

BOS = "<|begin|>"
END = "<|endoftext|>"
VOCABULARY = 384
"""Token ids of a tiny model: a few more than its tokenizer knows, as real models have."""

SENTENCES = (
    "Everyone came to the party except the old king. All of them had bread, cheese and wine.",
    "All birds sing in the morning; nobody knows why. Everyone except me was asleep.",
    "def add(first, second):\n    return first + second\n\nfor item in items:\n    total = add(total, item)\n",
    "The river was brown and fast. It had rained for three days, and the bridge was under water.",
    "She said: “We should go home, it is late.” He did not answer, but he took his coat.",
    "In 1987 the town had 12,500 people, two schools and a naïve café called Zoë’s.",
    "The children of the village ran to the river when the boat came in.",
    "    if value is None:\n        raise ValueError('no value')\n    print(value)\n",
)
"""What the tokenizer is trained on; also enough text for tiny corpora."""


def tiny_tokenizer() -> Tokenizer:
    """Byte-level BPE trained on :data:`SENTENCES`: end of text is token 0, BOS token 1, then the 256 bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 8,
        special_tokens=[END, BOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def save_tiny_tokenizer(folder: Path) -> None:
    """Write :func:`tiny_tokenizer` as tokenizer.json and tokenizer_config.json."""
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer(), bos_token=BOS, eos_token=END)
    wrapped.save_pretrained(folder)


def save_tiny_model(folder: Path, config: PreTrainedConfig, seed: int = 0) -> SubjectFiles:
    """A language model with seeded random weights from ``config``, saved with the tiny tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.data.add_(torch.randn_like(parameter) * 0.1)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    save_tiny_tokenizer(folder)
    return SubjectFiles(folder, folder.name, "local", hash_model(folder))


SPECIAL = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 0}


def _shape(n_layers: int, d_mlp: int, max_context: int) -> dict[str, int]:
    """The shape of a tiny model, under the names that most configs use."""
    return {
        "num_hidden_layers": n_layers,
        "hidden_size": 32,
        "intermediate_size": d_mlp,
        "num_attention_heads": 4,
        "max_position_embeddings": max_context,
        **SPECIAL,
    }


_GEMMA = {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8, "pad_token_id": 0}


def tiny_gpt2(
    folder: Path, *, n_layers: int = 3, d_mlp: int = 48, max_context: int = 128, seed: int = 0
) -> SubjectFiles:
    """GPT-2 shape: GELU, ungated, learned positions, tied embeddings, one matrix for q, k and v."""
    from transformers import GPT2Config

    config = GPT2Config(
        n_layer=n_layers,
        n_embd=32,
        n_inner=d_mlp,
        n_head=4,
        n_positions=max_context,
        **SPECIAL,
        initializer_range=0.3,
    )
    return save_tiny_model(folder, config, seed)


def tiny_llama(
    folder: Path, *, n_layers: int = 3, d_mlp: int = 48, max_context: int = 128, seed: int = 0
) -> SubjectFiles:
    """Llama shape: SiLU, gated, rotary positions, grouped keys and values, tied embeddings."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        **_shape(n_layers, d_mlp, max_context),
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    return save_tiny_model(folder, config, seed)


def tiny_neox(
    folder: Path, *, n_layers: int = 2, d_mlp: int = 48, max_context: int = 128, seed: int = 0
) -> SubjectFiles:
    """GPT-NeoX shape (Pythia): exact GELU, ungated, attention and MLP side by side."""
    from transformers import GPTNeoXConfig

    config = GPTNeoXConfig(
        **_shape(n_layers, d_mlp, max_context),
        initializer_range=0.3,
    )
    return save_tiny_model(folder, config, seed)


def tiny_gemma(
    folder: Path, *, n_layers: int = 3, d_mlp: int = 48, max_context: int = 128, seed: int = 0
) -> SubjectFiles:
    """Gemma 3 shape: GELU by tanh, gated, norms on both sides of attention and MLP, windows and full attention."""
    from transformers import Gemma3TextConfig

    config = Gemma3TextConfig(
        **_shape(n_layers, d_mlp, max_context),
        **_GEMMA,
        query_pre_attn_scalar=8,
        layer_types=["full_attention" if layer % 2 else "sliding_attention" for layer in range(n_layers)],
        initializer_range=0.3,
    )
    return save_tiny_model(folder, config, seed)


def tiny_gemma2(
    folder: Path,
    *,
    n_layers: int = 3,
    d_mlp: int = 48,
    max_context: int = 128,
    seed: int = 0,
    cap: float | None = 2.0,
) -> SubjectFiles:
    """Gemma 2 shape: as Gemma 3, with attention scores soft-capped at ``cap``, a bound that they are far beyond."""
    from transformers import Gemma2Config

    config = Gemma2Config(
        **_shape(n_layers, d_mlp, max_context),
        **_GEMMA,
        query_pre_attn_scalar=1,
        attn_logit_softcapping=cap,
        final_logit_softcapping=5.0,
        initializer_range=0.5,
    )
    return save_tiny_model(folder, config, seed)


def tiny_opt(
    folder: Path, *, n_layers: int = 2, d_mlp: int = 48, max_context: int = 128, seed: int = 0
) -> SubjectFiles:
    """OPT shape: ReLU, ungated, batch and positions in one dimension of the MLP."""
    from transformers import OPTConfig

    config = OPTConfig(
        num_hidden_layers=n_layers,
        hidden_size=32,
        ffn_dim=d_mlp,
        num_attention_heads=4,
        word_embed_proj_dim=32,
        max_position_embeddings=max_context,
        **SPECIAL,
        pad_token_id=0,
        init_std=0.3,
    )
    return save_tiny_model(folder, config, seed)


def tiny_solu(
    folder: Path, *, n_layers: int = 2, d_mlp: int = 48, max_context: int = 128, seed: int = 0
) -> SubjectFiles:
    """The paper's SoLU models: TransformerLens' own format, SoLU with a LayerNorm behind it, ungated."""
    import json

    import torch
    from safetensors.torch import save_file

    shape = {"d_model": 32, "n_layers": n_layers, "d_mlp": d_mlp, "d_head": 8, "n_heads": 4, "n_ctx": max_context}
    config = {**shape, "d_vocab": VOCABULARY, "act_fn": "solu_ln", "attn_only": False, "normalization": "LN"}
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int, around: float = 0.0) -> torch.Tensor:
        return torch.randn(size, generator=generator) * 0.3 + around

    weights = {"embed.W_E": draw(VOCABULARY, 32), "pos_embed.W_pos": draw(max_context, 32)}
    weights |= {
        "unembed.W_U": draw(32, VOCABULARY),
        "unembed.b_U": draw(VOCABULARY),
        "ln_final.w": draw(32, around=1.0),
        "ln_final.b": draw(32),
    }
    for layer in range(n_layers):
        block = {
            **{f"attn.W_{name}": draw(4, 32, 8) for name in "QKV"},
            **{f"attn.b_{name}": draw(4, 8) for name in "QKV"},
            **{"attn.W_O": draw(4, 8, 32), "attn.b_O": draw(32)},
            **{
                "mlp.W_in": draw(32, d_mlp),
                "mlp.b_in": draw(d_mlp),
                "mlp.W_out": draw(d_mlp, 32),
                "mlp.b_out": draw(32),
            },
            **{"mlp.ln.w": draw(d_mlp, around=1.0), "mlp.ln.b": draw(d_mlp)},
            **{f"ln{i}.{part}": draw(32, around=float(part == "w")) for i in (1, 2) for part in "wb"},
        }
        weights |= {f"blocks.{layer}.{name}": tensor for name, tensor in block.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    save_tiny_tokenizer(folder)
    return SubjectFiles(folder, folder.name, "local", hash_model(folder))


def load_tiny(files: SubjectFiles, hook: str = "mlp.hook_post") -> SubjectModel:
    """A tiny model, loaded on the processor in float32."""
    from n2g_assets.model.load import load_subject

    return load_subject(files, hook, HarvestSettings(device="cpu"), "auto")


def write_tiny_gguf(path: Path, folder: Path, kind: str = "F32", **changes: object) -> None:
    """Write the tiny Llama of ``folder`` as GGUF, q and k in the order that GGUF has them.

    Args:
        path: The GGUF file.
        folder: A folder that :func:`tiny_llama` made.
        kind: Name of the tensors' quantisation type.
        changes: Metadata to write instead, or None to leave a key out; dots of the keys as double underscores.
    """
    import json

    import gguf
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    special = {token["content"] for token in tokenizer["added_tokens"]}
    unused = [f"<unused {i}>" for i in range(config["vocab_size"] - len(vocabulary))]
    metadata: dict[str, object] = {
        "general.architecture": "llama",
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.rope.freq_base": 10000.0,
        "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": vocabulary + unused,
        "tokenizer.ggml.token_type": [3 if t in special else 1 for t in vocabulary] + [5] * len(unused),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in tokenizer["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 0,
    }
    metadata |= {key.replace("__", "."): value for key, value in changes.items()}
    architecture = metadata.pop("general.architecture")
    writer = gguf.GGUFWriter(path, str(architecture))
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
    kind_id = gguf.GGMLQuantizationType[kind]
    for name, weights in load_file(folder / "model.safetensors").items():
        tensor = weights
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
        for part in heads.keys() & {name.split(".")[-2]}:
            half = len(weights) // heads[part] // 2
            pairs = [(head * 2 * half + row) for head in range(heads[part]) for row in range(half)]
            tensor = weights[[row + side for row in pairs for side in (0, half)]]
        if tensor.ndim == 1:
            writer.add_tensor(_gguf_name(name), tensor)
        else:
            writer.add_tensor(_gguf_name(name), gguf.quants.quantize(tensor, kind_id), raw_dtype=kind_id)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "model.layers": "blk",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.o_proj": "attn_output",
        "self_attn.": "attn_",
        "mlp.": "ffn_",
        "_proj": "",
    }
    for theirs, gguf_part in names.items():
        name = name.replace(theirs, gguf_part)
    return name
