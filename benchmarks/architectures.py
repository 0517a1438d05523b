"""Which of transformers' causal language models can be read: a tiny model of each, made from its config, is loaded.

Each has random weights, drawn wide, and the tokenizer of the tests. Loading checks it as any model is checked: logits
and activations against TransformerLens' bridge. The table says what came out, or the sentence that refuses it.

    python -m benchmarks.architectures            # prints the table and writes docs/architectures.md
    python -m benchmarks.architectures --only gemma2,opt
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from n2g_assets.core.errors import N2GError
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.model.load import load_subject
from n2g_assets_tests.tiny_models import SPECIAL, save_tiny_model

COMMON: dict[str, Any] = {**SPECIAL, "pad_token_id": 0}
WIDE = {"initializer_range": 0.3}
LLAMA: dict[str, Any] = {
    "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
"""The shape of a tiny model, under the names that most configs use."""
GPT2: dict[str, Any] = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 128, "n_inner": 48}
EXPERTS: dict[str, Any] = {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}
ROUTED: dict[str, Any] = {
    **LLAMA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8,
}  # fmt: skip
GEMMA: dict[str, Any] = {**LLAMA, "head_dim": 8, "query_pre_attn_scalar": 8}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "gpt_neo": {
        "num_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "max_position_embeddings": 128,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,
    },
    "gptj": {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 128, "rotary_dim": 4, "n_inner": 48},
    "gpt_neox": {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"},
    "gpt_bigcode": GPT2,
    "codegen": {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 128, "rotary_dim": 4, "n_inner": 48},
    "opt": {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "word_embed_proj_dim": 32,
    },
    "bloom": {"n_layer": 2, "hidden_size": 32, "n_head": 4},
    "mpt": {"n_layers": 2, "d_model": 32, "n_heads": 4, "max_seq_len": 128, "expansion_ratio": 2},
    "falcon": {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4},
    "xglm": {"num_layers": 2, "d_model": 32, "ffn_dim": 48, "attention_heads": 4, "max_position_embeddings": 128},
    "biogpt": {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
    },
    "llama": LLAMA,
    "mistral": {**LLAMA, "sliding_window": 8},
    "gemma": {**LLAMA, "head_dim": 8},
    "gemma2": {**GEMMA, "sliding_window": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    "gemma3_text": {**GEMMA, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "qwen2": LLAMA,
    "qwen3": {**LLAMA, "head_dim": 8},
    "phi": {**LLAMA, "partial_rotary_factor": 0.5},
    "phi3": LLAMA,
    "stablelm": {**LLAMA, "partial_rotary_factor": 0.5},
    "starcoder2": {**LLAMA, "sliding_window": 8},
    "olmo": LLAMA,
    "olmo2": LLAMA,
    "cohere": LLAMA,
    "granite": LLAMA,
    "smollm3": LLAMA,
    "glm": {**LLAMA, "head_dim": 8},
    "nemotron": LLAMA,
    "mamba": {"num_hidden_layers": 2, "hidden_size": 32, "state_size": 4},
    "mixtral": EXPERTS,
    "qwen2_moe": {**ROUTED, "shared_expert_intermediate_size": 24},
    "qwen3_moe": ROUTED,
    "olmoe": {key: value for key, value in ROUTED.items() if key not in ("moe_intermediate_size", "head_dim")},
    "gpt_oss": {**EXPERTS, "head_dim": 8, "sliding_window": 8},
}
"""By transformers' name of the architecture, what its config is given beside the vocabulary."""


TABLE = Path(__file__).parents[1] / "docs" / "architectures.md"
HEAD = """\
# Which models can be read

Written by `python -m benchmarks.architectures`, which makes a tiny model of each architecture from its config
(transformers {version}), with random weights drawn wide, and loads it as a study does, with the hook `mlp.hook_post`.
*Attention* is what computes it: sdpa, or eager where transformers offers no other. *Units* are the values a position
at the hook; a tiny model has 48 neurons a layer, or four times its width. *Packed* says whether prompts are read many
to a row, *alone* whether neurons are computed without the others of their layer; both are checked when a model is
loaded, and only cost time where they are missing. *Difference* is the largest difference of the logits from
TransformerLens' bridge.

| architecture | attention | units | packed | alone | difference, or why it is refused |
| --- | --- | --- | --- | --- | --- |"""


@dataclass(frozen=True)
class Tried:
    """What loading a tiny model of one architecture gave."""

    name: str
    attention: str = ""
    units: int = 0
    packed: bool = False
    narrow: bool = False
    difference: float = 0.0
    refused: str = ""

    def row(self) -> str:
        if self.refused:
            return f"| {self.name} | | | | | {self.refused} |"
        packed, narrow = ("yes" if each else "no" for each in (self.packed, self.narrow))
        return f"| {self.name} | {self.attention} | {self.units} | {packed} | {narrow} | {self.difference:.0e} |"


def attempt(name: str, given: dict[str, Any], hook: str = "mlp.hook_post") -> Tried:
    """Make a tiny model of an architecture, and load it as a study does."""
    from transformers import AutoConfig

    wide = {} if name in ("mamba",) else WIDE
    config = AutoConfig.for_model(name, **{**COMMON, **wide, **given})
    with tempfile.TemporaryDirectory() as folder:
        files = save_tiny_model(Path(folder) / name, config)
        try:
            model = load_subject(files, hook, HarvestSettings(device="cpu"), "auto")
        except N2GError as error:
            return Tried(name, refused=str(error).replace(str(files.folder), "..."))
        facts = model.facts
        return Tried(name, facts["attention"], model.d_mlp, bool(model.packs), model.narrows, facts["logit_difference"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="comma-separated names; nothing is written then")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name in options.only.split(",") if options.only else MODELS:
        rows.append(attempt(name, MODELS[name]).row())
        print(rows[-1], flush=True)
    if not options.only:
        TABLE.write_text("\n".join([HEAD.format(version=version("transformers")), *rows, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
