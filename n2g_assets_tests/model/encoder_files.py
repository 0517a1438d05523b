"""Encoders with random weights in the documented layout of each library, and its equations in double precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

D_IN, LATENTS, D_OUT, TOP = 12, 40, 10, 5

Named = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A kind of encoder: how its files are written, and what it computes of inputs in double precision."""

    shapes: dict[str, tuple[int, ...]]
    write: Callable[[Path, Named], Path]
    """Writes the files under a folder; returns the path that a person would give."""
    activations: Callable[[Tensor, Named], Tensor]
    reconstruction: Callable[[Tensor, Tensor, Named], Tensor] | None
    """Of the inputs and their activations."""
    layer: int | None = None
    hook: str | None = None
    target: str | None = None
    alone: bool = True

    def drawn(self, seed: int = 0) -> Named:
        """Weights and biases; thresholds are positive, and hit about half of what is above 0."""
        generator = torch.Generator().manual_seed(seed)
        drawn = {name: torch.randn(shape, generator=generator) / 2 for name, shape in self.shapes.items()}
        return {name: each.abs() + 0.3 if name.endswith("threshold") else each for name, each in drawn.items()}

    def double(self, weights: Named) -> Named:
        """The same weights in double precision."""
        return {name: each.double() for name, each in weights.items()}


def inputs(tokens: int = 64, seed: int = 1) -> Tensor:
    """Vectors that are neither centred nor of one length."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, D_IN, generator=generator) * torch.rand(tokens, 1, generator=generator) * 3 + 0.5


def keep_top(values: Tensor, k: int) -> Tensor:
    """All but the k largest of each row, by sorting, set to 0."""
    order = values.argsort(dim=1, descending=True)
    kept = torch.zeros_like(values, dtype=torch.bool)
    for row, columns in enumerate(order[:, :k]):
        kept[row, columns] = True
    return torch.where(kept, values, torch.zeros_like(values)).clamp(min=0)


# ------------------------------------------------------------------------------------------ SAELens
def _sae_lens(
    architecture: str,
    extra: dict[str, tuple[int, ...]],
    activations: Any,
    reconstruction: Any = None,
    *,
    alone: bool = True,
    **config: Any,
) -> Case:
    transcodes = "transcoder" in architecture
    d_out = D_OUT if transcodes else D_IN
    metadata = {"hook_name": "blocks.4.hook_resid_pre", "sae_lens_version": "6.54.12", "neuronpedia_id": "tiny/4-res"}
    if transcodes:
        metadata |= {"hook_name": "blocks.4.mlp.hook_in", "hook_name_out": "blocks.4.hook_mlp_out"}
    settings = {
        **{"architecture": architecture, "d_in": D_IN, "d_sae": LATENTS, "dtype": "float32", "device": "cpu"},
        **{"apply_b_dec_to_input": not transcodes, "normalize_activations": "none", "reshape_activations": "none"},
        **({"d_out": d_out} if transcodes else {}),
        "metadata": metadata,
        **config,
    }

    def write(folder: Path, weights: Named) -> Path:
        save_file(weights, folder / "sae_weights.safetensors")
        (folder / "cfg.json").write_text(json.dumps(settings))
        return folder

    def decode(x: Tensor, found: Tensor, w: Named) -> Tensor:
        return found @ w["W_dec"] + w["b_dec"]

    biases = {} if architecture == "gated" else {"b_enc": (LATENTS,)}
    shapes = {"W_enc": (D_IN, LATENTS), "W_dec": (LATENTS, d_out), "b_dec": (d_out,), **biases, **extra}
    hooks = ("mlp.hook_in", "hook_mlp_out") if transcodes else ("hook_resid_pre", None)
    return Case(shapes, write, activations, reconstruction or decode, 4, *hooks, alone=alone)


def _centred(x: Tensor, w: Named) -> Tensor:
    return (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]


def _plain(x: Tensor, w: Named) -> Tensor:
    return x @ w["W_enc"] + w["b_enc"]


def _standard(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows with mean 0 and (nearly) deviation 1, and what they had."""
    mean, deviation = x.mean(dim=1, keepdim=True), x.std(dim=1, keepdim=True)
    return (x - mean) / (deviation + 1e-5), mean, deviation


def _jump(values: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(values > threshold, values.clamp(min=0), torch.zeros_like(values))


def _gated(x: Tensor, w: Named) -> Tensor:
    products = (x - w["b_dec"]) @ w["W_enc"]
    magnitudes = (products * torch.exp(w["r_mag"]) + w["b_mag"]).clamp(min=0)
    return torch.where(products + w["b_gate"] > 0, magnitudes, torch.zeros_like(magnitudes))


def _skip(x: Tensor, found: Tensor, w: Named) -> Tensor:
    return found @ w["W_dec"] + w["b_dec"] + x @ w["W_skip"].t()


_TOP_BEFORE_6 = {
    **{"activation_fn": "topk", "activation_fn_kwargs": {"k": TOP}, "metadata": None},
    "hook_name": "blocks.4.hook_resid_pre",
}
SAE_LENS = {
    "standard": _sae_lens("standard", {}, lambda x, w: _centred(x, w).clamp(min=0)),
    "standard_off_centre": _sae_lens(
        "standard", {}, lambda x, w: _plain(x, w).clamp(min=0), apply_b_dec_to_input=False
    ),
    "standard_layer_norm": _sae_lens(
        "standard", {}, lambda x, w: _centred(_standard(x)[0], w).clamp(min=0),
        lambda x, found, w: (found @ w["W_dec"] + w["b_dec"]) * _standard(x)[2] + _standard(x)[1],
        normalize_activations="layer_norm",
    ),
    "standard_of_one_length": _sae_lens(
        "standard", {}, lambda x, w: _centred(x / x.norm(dim=1, keepdim=True) * D_IN**0.5, w).clamp(min=0),
        lambda x, found, w: (found @ w["W_dec"] + w["b_dec"]) * x.norm(dim=1, keepdim=True) / D_IN**0.5,
        normalize_activations="constant_norm_rescale",
    ),
    "gated": _sae_lens("gated", {"r_mag": (LATENTS,), "b_mag": (LATENTS,), "b_gate": (LATENTS,)}, _gated),
    "jumprelu": _sae_lens(
        "jumprelu", {"threshold": (LATENTS,)}, lambda x, w: _jump(_centred(x, w), w["threshold"])
    ),
    "jumprelu_logarithm": _sae_lens(
        "jumprelu", {"log_threshold": (LATENTS,)}, lambda x, w: _jump(_centred(x, w), torch.exp(w["log_threshold"]))
    ),
    "topk": _sae_lens("topk", {}, lambda x, w: keep_top(_centred(x, w), TOP), k=TOP, alone=False),
    "topk_rescaled": _sae_lens(
        "topk", {}, lambda x, w: keep_top(_centred(x, w) * w["W_dec"].norm(dim=1), TOP),
        lambda x, found, w: found / w["W_dec"].norm(dim=1) @ w["W_dec"] + w["b_dec"],
        k=TOP, rescale_acts_by_decoder_norm=True, alone=False,
    ),
    "topk_before_6": _sae_lens(
        "standard", {}, lambda x, w: keep_top(_centred(x, w), TOP), alone=False, **_TOP_BEFORE_6
    ),
    "transcoder": _sae_lens("transcoder", {}, lambda x, w: _plain(x, w).clamp(min=0)),
    "skip_transcoder": _sae_lens(
        "skip_transcoder", {"W_skip": (D_OUT, D_IN)}, lambda x, w: _plain(x, w).clamp(min=0), _skip
    ),
    "jumprelu_skip_transcoder": _sae_lens(
        "jumprelu_skip_transcoder", {"W_skip": (D_OUT, D_IN), "threshold": (LATENTS,)},
        lambda x, w: _jump(_plain(x, w), w["threshold"]), _skip,
    ),
}  # fmt: skip


# ------------------------------------------------------------------------------------------ sparsify
def _sparsify(folder_name: str, hooks: tuple[str, str | None], **config: Any) -> Case:
    transcodes, skips = config.get("transcode", False), config.get("skip_connection", False)

    def write(folder: Path, weights: Named) -> Path:
        (folder / folder_name).mkdir()
        save_file(weights, folder / folder_name / "sae.safetensors")
        settings = {
            **{"activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": LATENTS},
            **{"k": TOP, "multi_topk": True, "skip_connection": False, "transcode": False, "d_in": D_IN, **config},
        }
        (folder / folder_name / "cfg.json").write_text(json.dumps(settings))
        return folder

    def activations(x: Tensor, w: Named) -> Tensor:
        x = x if transcodes else x - w["b_dec"]
        return keep_top(x @ w["encoder.weight"].t() + w["encoder.bias"], TOP)

    shapes = {
        **{"encoder.weight": (LATENTS, D_IN), "encoder.bias": (LATENTS,), "W_dec": (LATENTS, D_IN), "b_dec": (D_IN,)},
        **({"W_skip": (D_IN, D_IN)} if skips else {}),
    }
    decode = _skip if skips else lambda x, found, w: found @ w["W_dec"] + w["b_dec"]
    return Case(shapes, write, activations, decode, 7, *hooks, alone=False)


SPARSIFY = {
    "sae": _sparsify("layers.7", ("hook_resid_post", None)),
    "mlp": _sparsify("layers.7.mlp", ("mlp.hook_out", None)),
    "transcoder": _sparsify("h.7.mlp", ("mlp.hook_in", "mlp.hook_out"), transcode=True, skip_connection=True),
}


# ------------------------------------------------------------------------------------------ Gemma Scope
def _gemma_scope(folder_name: str, hook: str, target: str | None, save: Any) -> Case:
    d_out = D_OUT if target else D_IN

    def write(folder: Path, weights: Named) -> Path:
        path = folder / folder_name / "layer_20/width_16k/average_l0_71"
        path.mkdir(parents=True)
        save(path / "params.npz", **{name: each.numpy() for name, each in weights.items()})
        return folder

    shapes = {
        **{"W_enc": (D_IN, LATENTS), "b_enc": (LATENTS,), "threshold": (LATENTS,)},
        **{"W_dec": (LATENTS, d_out), "b_dec": (d_out,)},
    }
    return Case(
        shapes, write, lambda x, w: _jump(_plain(x, w), w["threshold"]),
        lambda x, found, w: found @ w["W_dec"] + w["b_dec"], 20, hook, target,
    )  # fmt: skip


GEMMA_SCOPE = {
    "res": _gemma_scope("gemma-scope-2b-pt-res", "hook_resid_post", None, np.savez),
    "compressed": _gemma_scope("models--google--gemma-scope-2b-pt-att", "attn.hook_z", None, np.savez_compressed),
    "transcoders": _gemma_scope(
        "gemma-scope-2b-pt-transcoders", "ln2.hook_normalized", "hook_mlp_out", np.savez
    ),
}  # fmt: skip


def _gemma_scope_2(d_out: int, hook: str, modules: tuple[str, str | None], target: str | None) -> Case:
    def write(folder: Path, weights: Named) -> Path:
        save_file(weights, folder / "params.safetensors")
        points = {"hf_hook_point_in": f"model.layers.9.{modules[0]}"}
        if modules[1]:
            points["hf_hook_point_out"] = f"model.layers.9.{modules[1]}"
        (folder / "config.json").write_text(json.dumps({"architecture": "jump_relu", "model_name": "tiny", **points}))
        return folder

    def decode(x: Tensor, found: Tensor, w: Named) -> Tensor:
        return found @ w["w_dec"] + w["b_dec"] + (x @ w["affine_skip_connection"] if target else 0)

    shapes = {
        **{"w_enc": (D_IN, LATENTS), "b_enc": (LATENTS,), "threshold": (LATENTS,)},
        **{"w_dec": (LATENTS, d_out), "b_dec": (d_out,)},
        **({"affine_skip_connection": (D_IN, d_out)} if target else {}),
    }
    return Case(
        shapes, write, lambda x, w: _jump(x @ w["w_enc"] + w["b_enc"], w["threshold"]), decode, 9, hook, target
    )  # fmt: skip


_NORMS = ("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output")
GEMMA_SCOPE_2 = {
    "res": _gemma_scope_2(D_IN, "hook_resid_post", ("output", None), None),
    "transcoder": _gemma_scope_2(D_IN, "mlp.hook_in", _NORMS, "hook_mlp_out"),
}


# ------------------------------------------------------------------------------------------ dictionary_learning
def _dictionary(kind: str, shapes: dict[str, tuple[int, ...]], activations: Any, reconstruction: Any) -> Case:
    def write(folder: Path, weights: Named) -> Path:
        counts = {"k": torch.tensor(TOP)} if "TopK" in kind else {}
        torch.save({**weights, **counts}, folder / "ae.pt")
        trainer = {"dict_class": kind, "activation_dim": D_IN, "dict_size": LATENTS, "layer": 3, "k": TOP}
        settings = {"trainer": {**trainer, "submodule_name": "resid_post_layer_3", "lm_name": "tiny"}}
        (folder / "config.json").write_text(json.dumps(settings))
        return folder

    return Case(
        shapes, write, activations, reconstruction, 3, "hook_resid_post", alone=kind != "AutoEncoderTopK"
    )  # fmt: skip


_LINEAR = {"encoder.weight": (LATENTS, D_IN), "decoder.weight": (D_IN, LATENTS)}
_MATRICES = {"W_enc": (D_IN, LATENTS), "b_enc": (LATENTS,), "W_dec": (LATENTS, D_IN), "b_dec": (D_IN,)}


def _linear(x: Tensor, w: Named, bias: str | None) -> Tensor:
    return ((x - w[bias]) if bias else x) @ w["encoder.weight"].t() + w.get("encoder.bias", torch.zeros(()))


def _linear_back(bias: str) -> Any:
    return lambda x, found, w: found @ w["decoder.weight"].t() + w[bias]


def _gated_dictionary(x: Tensor, w: Named) -> Tensor:
    products = _linear(x, w, "decoder_bias")
    magnitudes = (products * torch.exp(w["r_mag"]) + w["mag_bias"]).clamp(min=0)
    return torch.where(products + w["gate_bias"] > 0, magnitudes, torch.zeros_like(magnitudes))


DICTIONARIES = {
    "AutoEncoder": _dictionary(
        "AutoEncoder", {**_LINEAR, "encoder.bias": (LATENTS,), "bias": (D_IN,)},
        lambda x, w: _linear(x, w, "bias").clamp(min=0) * w["decoder.weight"].norm(dim=0),
        lambda x, found, w: found @ (w["decoder.weight"] / w["decoder.weight"].norm(dim=0)).t() + w["bias"],
    ),
    "AutoEncoderNew": _dictionary(
        "AutoEncoderNew", {**_LINEAR, "encoder.bias": (LATENTS,), "decoder.bias": (D_IN,)},
        lambda x, w: _linear(x, w, None).clamp(min=0), _linear_back("decoder.bias"),
    ),
    "GatedAutoEncoder": _dictionary(
        "GatedAutoEncoder",
        {**_LINEAR, "decoder_bias": (D_IN,), **dict.fromkeys(("r_mag", "gate_bias", "mag_bias"), (LATENTS,))},
        _gated_dictionary, _linear_back("decoder_bias"),
    ),
    "JumpReluAutoEncoder": _dictionary(
        "JumpReluAutoEncoder", {**_MATRICES, "threshold": (LATENTS,)},
        lambda x, w: _jump(_plain(x, w), w["threshold"]), lambda x, found, w: found @ w["W_dec"] + w["b_dec"],
    ),
    "AutoEncoderTopK": _dictionary(
        "AutoEncoderTopK", {**_LINEAR, "encoder.bias": (LATENTS,), "b_dec": (D_IN,), "threshold": ()},
        lambda x, w: keep_top(_linear(x, w, "b_dec"), TOP), _linear_back("b_dec"),
    ),
    "BatchTopKSAE": _dictionary(
        "BatchTopKSAE", {**_LINEAR, "encoder.bias": (LATENTS,), "b_dec": (D_IN,), "threshold": ()},
        lambda x, w: _jump(_linear(x, w, "b_dec"), w["threshold"]), _linear_back("b_dec"),
    ),
    "MatryoshkaBatchTopKSAE": _dictionary(
        "MatryoshkaBatchTopKSAE", {**_MATRICES, "threshold": ()},
        lambda x, w: _jump(_centred(x, w), w["threshold"]), lambda x, found, w: found @ w["W_dec"] + w["b_dec"],
    ),
}  # fmt: skip


# ------------------------------------------------------------------------------------------ circuit-tracer, directions
def _circuit_tracer(*, jumps: bool, skips: bool) -> Case:
    def write(folder: Path, weights: Named) -> Path:
        save_file(weights, folder / "layer_11.safetensors")
        hooks = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}
        (folder / "config.yaml").write_text(yaml.safe_dump({"model_kind": "transcoder_set", "scan": "tiny", **hooks}))
        return folder

    def activations(x: Tensor, w: Named) -> Tensor:
        values = x @ w["W_enc"].t() + w["b_enc"]
        return values * (values > w["activation_function.threshold"]) if jumps else values.clamp(min=0)

    shapes = {
        **{"W_enc": (LATENTS, D_IN), "b_enc": (LATENTS,), "W_dec": (LATENTS, D_OUT), "b_dec": (D_OUT,)},
        **({"activation_function.threshold": (LATENTS,)} if jumps else {}),
        **({"W_skip": (D_OUT, D_IN)} if skips else {}),
    }
    decode = _skip if skips else lambda x, found, w: found @ w["W_dec"] + w["b_dec"]
    return Case(shapes, write, activations, decode, 11, "mlp.hook_in", "hook_mlp_out")


CIRCUIT_TRACER = {
    "relu": _circuit_tracer(jumps=False, skips=False),
    "jumprelu_skip": _circuit_tracer(jumps=True, skips=True),
}


def _directions(ending: str, *, biased: bool) -> Case:
    def write(folder: Path, weights: Named) -> Path:
        path = folder / f"probes.{ending}"
        arrays = {name: each.numpy() for name, each in weights.items()}
        if ending == "npy":
            np.save(path, arrays["directions"])
        elif ending == "npz":
            np.savez(path, **arrays)
        else:
            save_file(weights, path)
        return path

    shapes = {"directions": (LATENTS, D_IN), **({"bias": (LATENTS,)} if biased else {})}
    return Case(shapes, write, lambda x, w: x @ w["directions"].t() + w.get("bias", torch.zeros(())), None)


DIRECTIONS = {
    "npy": _directions("npy", biased=False),
    "npz": _directions("npz", biased=True),
    "safetensors": _directions("safetensors", biased=True),
}

CASES = {
    **{f"sae_lens-{name}": case for name, case in SAE_LENS.items()},
    **{f"sparsify-{name}": case for name, case in SPARSIFY.items()},
    **{f"gemma_scope-{name}": case for name, case in GEMMA_SCOPE.items()},
    **{f"gemma_scope_2-{name}": case for name, case in GEMMA_SCOPE_2.items()},
    **{f"dictionary_learning-{name}": case for name, case in DICTIONARIES.items()},
    **{f"circuit_tracer-{name}": case for name, case in CIRCUIT_TRACER.items()},
    **{f"matrix-{name}": case for name, case in DIRECTIONS.items()},
}
"""By the name of the format, a dash and the kind."""
