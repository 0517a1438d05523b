"""Reads encoders in the formats of the libraries that train them, and finds those of a folder.

A format is known by the name of the file that holds the weights; a folder may hold an encoder for each layer or hook.
Every reader says where the tensors are and which of the steps of ``encoder`` stand between input and latents.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from n2g_assets.core.errors import SourceError, SubjectError
from n2g_assets.model.encoders import places
from n2g_assets.model.encoders.encoder import Encoder, Normalisation
from n2g_assets.model.encoders.files import ANEW, open_tensors
from n2g_assets.model.encoders.places import Place
from n2g_assets.model.folder import loading

_PICKLES = (".pkl", ".pickle", ".bin", ".joblib", ".ckpt")
_NAMED = 5
"""Encoders that a message names, at most."""


@dataclass(frozen=True)
class Format:
    """How the encoders of a library are known and read."""

    weights: tuple[str, ...]
    """Patterns of the name of the file that holds the weights."""
    read: Callable[[Path], Encoder]
    """Reads the encoder whose weights are in a file."""


def read_encoder(
    path: Path,
    layer: int | None = None,
    hook: str | None = None,
    format: str = "auto",
) -> Encoder:
    """The encoder of a file or folder; of a folder that holds many, the one for a layer and hook.

    Configs and headers are read, weights are mapped. ``format`` is ``auto`` or one of ``FORMATS``.

    Raises:
        SourceError: There is none, or it is damaged, incomplete, a pickle, or of a kind that is not read.
        SubjectError: None of those that are there reads the layer and hook, or several do.
    """
    asked = Place(layer, hook)
    every = [(file, read(file)) for file, read in weights_at(path, format)]
    fitting = [(file, encoder) for file, encoder in every if encoder.reads.may_be(asked)]
    if len(fitting) == 1:
        return fitting[0][1]
    if fitting:
        names = ", ".join(str(file.relative_to(path)) for file, _ in fitting[:_NAMED])
        raise SubjectError(
            f"{path} holds {len(fitting)} encoders for {asked}, such as {names}: give the path of one of them."
        )
    known = ", ".join(dict.fromkeys(str(encoder.reads) for _, encoder in every[:_NAMED]))
    raise SubjectError(
        f"{path} holds no encoder for {asked}, but for {known}: choose another layer or hook, or another path."
    )


def weights_at(path: Path, format: str = "auto") -> list[tuple[Path, Callable[[Path], Encoder]]]:
    """The files of weights at a path, and what reads each; at least one. They are not opened.

    Raises:
        SourceError: There is none, a pickle alone, or the format is not known.
    """
    if format not in ("auto", *FORMATS):
        raise SourceError(f"No encoder has the format '{format}': set it to auto, or to one of {', '.join(FORMATS)}.")
    if not path.exists():
        raise SourceError(f"There is no encoder at {path}: correct the encoder's path.")
    if path.is_file() and format != "auto":
        return [(path, FORMATS[format].read)]
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for name in FORMATS if format == "auto" else [format]:
        found = [file for file in files if any(file.match(pattern) for pattern in FORMATS[name].weights)]
        if found:
            return [(file, FORMATS[name].read) for file in found]
    pickles = [file for file in files if file.suffix in _PICKLES]
    if pickles:
        raise SourceError(f"{pickles[0]} is a pickle, which is never read: save the encoder as safetensors.")
    raise SourceError(
        f"{path} holds no encoder in a format that is known: give one in the layout of {', '.join(FORMATS)} (for a "
        "matrix of directions a npy, npz or safetensors)."
    )


# ------------------------------------------------------------------------------------------ readers
def _sae_lens(file: Path) -> Encoder:
    """SAELens; before its version 6, all settings stood side by side and top-k was an activation function."""
    config, tensors = _settings(file.parent / "cfg.json"), open_tensors(file)
    about = config.get("metadata") or config
    architecture = config.get("architecture", "standard")
    function = config.get("activation_fn") or config.get("activation_fn_str") or "relu"
    top = config.get("k") if architecture == "topk" else None
    if function == "topk":
        architecture, top = "topk", (config.get("activation_fn_kwargs") or {}).get("k")
    elif function != "relu":
        raise _not_read(file, f"the activation function '{function}'")
    if architecture not in _SAE_LENS:
        raise _not_read(file, f"the architecture '{architecture}'", f"one of {', '.join(_SAE_LENS)}")
    if about.get("hook_head_index", about.get("hook_point_head_index")) is not None:
        raise _not_read(file, "one attention head alone", "one that reads the whole hook")
    scaling = tensors.named.get("scaling_factor")
    if scaling is not None and not torch.allclose(scaling.float(), torch.ones(())):
        raise _not_read(file, "activations that were scaled in finetuning (scaling_factor)")
    transcodes = architecture.endswith("transcoder")
    matrix = tensors.take("W_enc", config.get("d_in"), None).t()
    n_latents, d_in = matrix.shape
    d_out = config.get("d_out") if transcodes else d_in
    decoder = tensors.take("W_dec", n_latents, d_out)
    decoder_bias = tensors.take("b_dec", decoder.shape[1])
    optional: dict[str, Any] = {}
    if architecture == "gated":
        optional = {"log_gain": tensors.take("r_mag", n_latents), "gate": tensors.take("b_gate", n_latents)}
    if "jumprelu" in architecture and "log_threshold" in tensors.named:
        optional["threshold"] = tensors.take("log_threshold", n_latents).float().exp()
    elif "jumprelu" in architecture:
        optional["threshold"] = tensors.take("threshold", n_latents)
    if "skip" in architecture:
        optional["skip"] = tensors.take("W_skip", decoder.shape[1], d_in)
    return Encoder(
        files=(file, file.parent / "cfg.json"), format="sae_lens", architecture=architecture,
        neuronpedia=str(shown) if (shown := about.get("neuronpedia_id")) else None,
        reads=places.of_hook(about.get("hook_name") or about.get("hook_point")),
        writes=places.of_hook(about.get("hook_name_out")) if transcodes else None,
        matrix=matrix, bias=tensors.take("b_mag" if architecture == "gated" else "b_enc", n_latents),
        rescales=architecture == "topk" and bool(config.get("rescale_acts_by_decoder_norm")),
        top=None if architecture != "topk" else _top(file, top, n_latents),
        normalisation=_normalisation(file, config.get("normalize_activations")),
        offset=decoder_bias if config.get("apply_b_dec_to_input", True) and not transcodes else None,
        decoder=decoder, decoder_bias=decoder_bias, **optional,
    )  # fmt: skip


_SAE_LENS = (
    *("standard", "gated", "jumprelu", "topk"),
    *("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"),
)
"""Architectures of SAELens that are read; what it trains with a batch top-k it saves as jumprelu."""


def _normalisation(file: Path, value: Any) -> Normalisation:
    if value in ("layer_norm", "constant_norm_rescale"):
        return value
    if value in (None, False, "none"):
        return "none"
    name = "expected_average_only_in" if value is True else value
    raise _not_read(
        file, f"inputs that were normalised by '{name}', whose numbers are not in the file", "one with them folded in"
    )


def _sparsify(file: Path) -> Encoder:
    """EleutherAI's sparsify, in a folder named after the module that it was trained on."""
    config, tensors = _settings(file.parent / "cfg.json"), open_tensors(file)
    if config.get("activation", "topk") != "topk" or config.get("signed"):
        kind = "signed" if config.get("signed") else config["activation"]
        raise _not_read(file, f"the activation '{kind}'", "one with topk")
    transcodes = bool(config.get("transcode"))
    matrix = tensors.take("encoder.weight", config.get("num_latents") or None, config.get("d_in"))
    n_latents, d_in = matrix.shape
    reads, writes = places.of_module(file.parent, transcodes=transcodes)
    decoder_bias = tensors.take("b_dec", d_in)
    return Encoder(
        files=(file, file.parent / "cfg.json"), format="sparsify",
        architecture="topk_transcoder" if transcodes else "topk", reads=reads, writes=writes,
        matrix=matrix, bias=tensors.take("encoder.bias", n_latents), top=_top(file, config.get("k"), n_latents),
        offset=None if transcodes else decoder_bias,
        decoder=tensors.take("W_dec", n_latents, d_in), decoder_bias=decoder_bias,
        skip=tensors.take("W_skip", d_in, d_in) if config.get("skip_connection") else None,
    )  # fmt: skip


def _gemma_scope(file: Path) -> Encoder:
    """Gemma Scope, autoencoders and transcoders; what they read stands in the path of the file."""
    tensors = open_tensors(file)
    matrix = tensors.take("W_enc", None, None).t()
    decoder = tensors.take("W_dec", matrix.shape[0], None)
    reads, writes = places.of_gemma_scope(file)
    return Encoder(
        files=(file,), format="gemma_scope", architecture="jumprelu_transcoder" if writes else "jumprelu",
        reads=reads, writes=writes, matrix=matrix, bias=tensors.take("b_enc", matrix.shape[0]),
        threshold=tensors.take("threshold", matrix.shape[0]),
        decoder=decoder, decoder_bias=tensors.take("b_dec", decoder.shape[1]),
    )  # fmt: skip


def _gemma_scope_2(file: Path) -> Encoder:
    """Gemma Scope 2, whose config.json names the modules it reads and predicts."""
    config, tensors = _settings(file.parent / "config.json"), open_tensors(file)
    if config.get("architecture") != "jump_relu":
        raise _not_read(file, f"the architecture '{config.get('architecture')}'", "one with jump_relu")
    matrix = tensors.take("w_enc", None, None).t()
    decoder = tensors.take("w_dec", matrix.shape[0], None)
    target = config.get("hf_hook_point_out")
    skips = "affine_skip_connection" in tensors.named
    return Encoder(
        files=(file, file.parent / "config.json"), format="gemma_scope_2",
        architecture="jump_relu_transcoder" if target else "jump_relu",
        reads=places.of_module_end(config.get("hf_hook_point_in")),
        writes=places.of_module_end(target) if target else None,
        matrix=matrix, bias=tensors.take("b_enc", matrix.shape[0]),
        threshold=tensors.take("threshold", matrix.shape[0]),
        decoder=decoder, decoder_bias=tensors.take("b_dec", decoder.shape[1]),
        skip=tensors.take("affine_skip_connection", matrix.shape[1], decoder.shape[1]).t() if skips else None,
    )  # fmt: skip


def _dictionary_learning(file: Path) -> Encoder:
    """dictionary_learning: a state dict of torch, whose class stands in config.json."""
    config = _settings(file.parent / "config.json").get("trainer", {})
    kind, tensors = config.get("dict_class"), open_tensors(file)
    if kind not in _DICTIONARIES:
        raise _not_read(file, f"the class '{kind}'", f"one of {', '.join(_DICTIONARIES)}")
    layout = _DICTIONARIES[kind]
    if layout.linear:
        matrix = tensors.take("encoder.weight", None, None)
        decoder = tensors.take("decoder.weight", matrix.shape[1], matrix.shape[0]).t()
    else:
        matrix = tensors.take("W_enc", None, None).t()
        decoder = tensors.take("W_dec", *matrix.shape)
    n_latents, d_in = matrix.shape
    decoder_bias = tensors.take(layout.decoder_bias, d_in)
    optional: dict[str, Any] = {}
    if kind == "GatedAutoEncoder":
        optional = {"log_gain": tensors.take("r_mag", n_latents), "gate": tensors.take("gate_bias", n_latents)}
    if layout.thresholds is not None:
        optional["threshold"] = tensors.take("threshold", *(n_latents,) * layout.thresholds)
    return Encoder(
        files=(file, file.parent / "config.json"), format="dictionary_learning", architecture=kind,
        reads=places.of_submodule(config.get("layer"), config.get("submodule_name")),
        matrix=matrix, bias=tensors.take(layout.bias, n_latents), rescales=kind == "AutoEncoder",
        top=_top(file, config.get("k"), n_latents) if kind == "AutoEncoderTopK" else None,
        offset=decoder_bias if layout.centred else None, decoder=decoder, decoder_bias=decoder_bias, **optional,
    )  # fmt: skip


@dataclass(frozen=True)
class _Dictionary:
    """What a class of dictionary_learning calls its tensors, and whether it subtracts the bias of its decoder."""

    bias: str
    decoder_bias: str
    linear: bool = True
    """Whether its matrices are ``encoder.weight`` and ``decoder.weight``, not ``W_enc`` and ``W_dec``."""
    centred: bool = True
    thresholds: int | None = None
    """Dimensions of its threshold: one for each latent (1) or for all (0)."""


_DICTIONARIES = {
    "AutoEncoder": _Dictionary("encoder.bias", "bias"),
    "AutoEncoderNew": _Dictionary("encoder.bias", "decoder.bias", centred=False),
    "GatedAutoEncoder": _Dictionary("mag_bias", "decoder_bias"),
    "JumpReluAutoEncoder": _Dictionary("b_enc", "b_dec", linear=False, centred=False, thresholds=1),
    "AutoEncoderTopK": _Dictionary("encoder.bias", "b_dec"),
    "BatchTopKSAE": _Dictionary("encoder.bias", "b_dec", thresholds=0),
    "MatryoshkaBatchTopKSAE": _Dictionary("b_enc", "b_dec", linear=False, thresholds=0),
}
"""Classes that are read. An AutoEncoder's decoder is brought to length 1 as it is loaded, as the library does."""


def _circuit_tracer(file: Path) -> Encoder:
    """A layer's transcoder in a set of circuit-tracer, whose config.yaml names the hooks."""
    config, tensors = _settings(file.parent / "config.yaml"), open_tensors(file)
    if config.get("model_kind") != "transcoder_set":
        raise _not_read(file, f"the model_kind '{config.get('model_kind')}'", "a transcoder_set")
    number = file.stem.removeprefix("layer_")
    layer = int(number) if number.isdecimal() else None
    matrix = tensors.take("W_enc", None, None)
    decoder = tensors.take("W_dec", matrix.shape[0], None)
    jumps = "activation_function.threshold" in tensors.named
    skips = "W_skip" in tensors.named
    return Encoder(
        files=(file, file.parent / "config.yaml"), format="circuit_tracer",
        architecture=("jumprelu" if jumps else "relu") + ("_skip_transcoder" if skips else "_transcoder"),
        reads=Place(layer, config.get("feature_input_hook")), writes=Place(layer, config.get("feature_output_hook")),
        matrix=matrix, bias=tensors.take("b_enc", matrix.shape[0]), rectifies=not jumps,
        threshold=tensors.take("activation_function.threshold", matrix.shape[0]) if jumps else None,
        decoder=decoder, decoder_bias=tensors.take("b_dec", decoder.shape[1]),
        skip=tensors.take("W_skip", decoder.shape[1], matrix.shape[1]) if skips else None,
    )  # fmt: skip


def _matrix(file: Path) -> Encoder:
    """Directions, a row each, such as linear probes or steering vectors; a vector beside them is their bias."""
    tensors = open_tensors(file)
    matrices = [name for name, tensor in tensors.named.items() if tensor.ndim == 2]
    vectors = [name for name, tensor in tensors.named.items() if tensor.ndim == 1]
    if len(matrices) != 1 or len(tensors.named) != 1 + len(vectors) or len(vectors) > 1:
        raise SourceError(
            f"{file} holds {tensors.listed}, where one matrix of directions belongs, a row each (of a single one 1 x "
            "its length), and at most one vector, their bias: save these alone, or set the encoder's format."
        )
    matrix = tensors.take(matrices[0], None, None)
    bias = tensors.take(vectors[0], matrix.shape[0]) if vectors else None
    return Encoder(
        files=(file,), format="matrix", architecture="directions", reads=Place(), matrix=matrix, bias=bias,
        rectifies=False,
    )  # fmt: skip


FORMATS = {
    "sae_lens": Format(("sae_weights.safetensors",), _sae_lens),
    "sparsify": Format(("sae.safetensors",), _sparsify),
    "dictionary_learning": Format(("ae.pt",), _dictionary_learning),
    "gemma_scope": Format(("params.npz",), _gemma_scope),
    "gemma_scope_2": Format(("params.safetensors",), _gemma_scope_2),
    "circuit_tracer": Format(("layer_*.safetensors",), _circuit_tracer),
    "matrix": Format(("*.npy", "*.npz", "*.safetensors"), _matrix),
}
"""By their names, in the order in which they are looked for."""


def _settings(file: Path) -> Mapping[str, Any]:
    """What a JSON or YAML file beside the weights says."""
    if not file.is_file():
        raise SourceError(f"The encoder's settings {file} do not exist: {ANEW}.")
    with loading(f"The encoder's settings {file}", ANEW):
        text = file.read_text(encoding="utf-8")
        found = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    if not isinstance(found, dict):
        raise SourceError(f"The encoder's settings {file} are no object of names and values: {ANEW}.")
    return found


def _top(file: Path, k: Any, n_latents: int) -> int:
    if type(k) is not int or not 1 <= k <= n_latents:
        raise SourceError(f"The encoder {file} keeps k = {k} of its {n_latents} latents: {ANEW}.")
    return k


def _not_read(file: Path, what: str, instead: str = "another") -> SourceError:
    return SourceError(f"The encoder {file} has {what}, which is not read: give {instead}.")
