"""Loads a subject model and checks it.

The model that runs is the plain transformers one (sdpa attention). A TransformerBridge is booted beside it on the same
parameters, to find where a TransformerLens hook reads (``hooks``) and to check the plain model against it:

1. The logits of the plain model and of the bridge on a fixed text agree.
2. What the model's taps read equals the bridge's hook, at the first, the middle and the last layer.
3. The cross-entropy on that text is recorded: a model that was converted wrongly shows there.

Then the bridge is dropped, unless the hook can only be read through it.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from n2g_assets.core.errors import SettingsError, SubjectError
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.model.config import NEURONS, WIDTHS
from n2g_assets.model.encoders.encoder import Encoder
from n2g_assets.model.hooks import ResolvedHook, another, boot_bridge, resolve_hook
from n2g_assets.model.lock import forward_pass_lock
from n2g_assets.model.model import SubjectModel, by_position, stated, text_config
from n2g_assets.model.sources import SubjectFiles
from n2g_assets.model.tokens import SubjectTokenizer
from n2g_assets.model.weights import load_plain

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from n2g_assets.model.encoders.heads import HeadsOfLayers
    from n2g_assets.model.encoders.resolve import Encoders

VERIFICATION_TEXT = (
    "The market square was empty when the two sisters came out of the bakery. It had rained all night, and the water "
    "still ran along the gutters and under the wooden carts that stood in front of the town hall. The older one "
    "carried a loaf of bread under her coat, because she did not want it to get wet, and the younger one walked a few "
    'steps behind her and counted the puddles. "We should have taken the bus," she said, but the last bus had left '
    "an hour ago, and both of them knew that the way home was not long. At the bridge they stopped for a while to look "
    "at the river. It was higher than usual, brown and fast, and a branch of a tree turned slowly in the middle of it "
    "before it went out of sight."
)
"""The fixed text that both models read."""

_RECORDED = ("n_layers", "d_mlp", "d_vocab", "max_context", "bos_id", "mask_id")
"""Attributes of the model that its row takes over."""
_ACTIVATIONS = ("hidden_activation", "hidden_act", "activation_function", "afn", "activation")
"""What models call, in their config, the activation function of the MLP."""
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}
"""Largest difference at a position, as a share of the vector there: rounding in another order of additions."""


def load_subject(
    files: SubjectFiles,
    hook: str,
    harvest: HarvestSettings,
    mask_token: str,
    dtype: Literal["float32", "bfloat16"] = "float32",
    lock_file: Path | None = None,
    bos: str = "auto",
    encoders: Encoders | HeadsOfLayers | None = None,
) -> SubjectModel:
    """Load a subject model and check it.

    ``hook`` is a TransformerLens hook inside a block, such as ``mlp.hook_post``; of ``harvest`` the device is read;
    ``mask_token`` and ``bos`` are ``auto`` or the text of one token, ``bos`` may be ``none``; ``lock_file`` is held in
    each forward pass (``lock``). With ``encoders`` its units are their latents, or heads.

    Raises:
        SourceError: Files are damaged, or weights are missing in them.
        SubjectError: The model lacks the hook, TransformerLens cannot wrap it, the two disagree, or an encoder does not
            fit it.
        SettingsError: The device is not there, or the mask token or BOS is not one token.
    """
    device = _choose_device(harvest.device)
    plain, unembedding = load_plain(files.folder, getattr(torch, dtype), device)
    tokenizer = SubjectTokenizer.load(files.folder, int(unembedding.weight.shape[0]), bos)
    bridge = boot_bridge(plain, files.folder, tokenizer.transformers)
    config: Any = bridge.cfg
    resolved = resolve_hook(bridge, hook, plain, int(config.n_layers))
    max_context = next(iter(stated(plain, "max_position_embeddings")), config.n_ctx)
    model = SubjectModel(
        name=files.name, hook=resolved, n_layers=int(config.n_layers), d_mlp=0, d_vocab=tokenizer.d_vocab,
        max_context=int(max_context), device=device, dtype=getattr(torch, dtype), bos_id=tokenizer.bos.token_id,
        mask_id=tokenizer.mask_id(mask_token), tokenizer=tokenizer, plain=plain, unembedding=unembedding,
        lock=forward_pass_lock(lock_file), bridge=bridge if resolved.taps is None else None,
    )  # fmt: skip
    model.d_mlp = _measure_width(model)
    with model.lock:
        model.facts = verify_subject(model, bridge, files, _finite_logits(model))
    if encoders is not None:
        model.encoders, model.facts["encoders"] = encoders.of(model, bridge)
        model.targets = _targets(model, bridge)
    return model


loaded_subject = lru_cache(maxsize=2)(load_subject)
"""``load_subject``, once a process."""


def _targets(model: SubjectModel, bridge: TransformerBridge) -> dict[str, ResolvedHook]:
    """The hooks that its transcoders predict, as far as it has them and they can be read without the bridge."""
    found: dict[str, ResolvedHook] = {}
    for name in {encoder.writes.hook for encoder in model.encoders.values() if encoder.writes is not None}:
        with suppress(SubjectError):
            hook = resolve_hook(bridge, str(name), model.plain, model.n_layers)
            found |= {hook.name: hook} if hook.taps is not None else {}
    return found


def encoder_facts(model: SubjectModel) -> list[dict[str, Any]]:
    """Its encoders, or heads, and what they make of the fixed text: rows of ``encoders`` without the study.

    Raises:
        SubjectError: An encoder does not fit the model.
    """
    tokens, found = _verification_tokens(model), []
    for layer, encoder in model.encoders.items():
        encoder.check(model, layer)
        with torch.inference_mode():
            carried = model.read_layers(tokens, [layer])[layer][0, 1:]
            left = _unexplained(model, tokens, layer, encoder, carried) if isinstance(encoder, Encoder) else None
            active = encoder.active(carried)
        found.append({**model.facts["encoders"][layer], "layer": layer, "active": active, "unexplained": left})
    return found


def _unexplained(
    model: SubjectModel, tokens: Tensor, layer: int, encoder: Encoder, carried: Float[Tensor, "tokens width"]
) -> float | None:
    """The share of the variance that an encoder leaves; None for directions, and where its target cannot be read.

    Raises:
        SubjectError: It predicts vectors of another width, or its reconstruction is no finite number.
    """
    target = carried if encoder.writes is None else _target(model, tokens, layer, encoder)
    if encoder.decoder is None or target is None:
        return None
    left = encoder.unexplained(carried, target)
    if not math.isfinite(left):
        raise SubjectError(
            f"The encoder {encoder.files[0]} makes no finite numbers of what {model.hook.name} of {model.name} "
            f"carries in layer {layer}: it was trained on another model, or it is damaged."
        )
    return left


def _target(model: SubjectModel, tokens: Tensor, layer: int, encoder: Encoder) -> Float[Tensor, "tokens width"] | None:
    """What stands where the transcoder of a layer writes; None where that is not known, or cannot be read.

    Raises:
        SubjectError: It predicts vectors of another width.
    """
    assert encoder.writes is not None
    hook, at = model.targets.get(str(encoder.writes.hook)), encoder.writes.layer
    at = layer if at is None else at
    if hook is None or at not in hook.layers:
        return None
    found = replace(model, hook=hook).read_layers(tokens, [at])[at][0, 1:]
    if encoder.decoder is not None and encoder.decoder.shape[1] != found.shape[1]:
        raise SubjectError(
            f"The encoder {encoder.files[0]} predicts vectors of {encoder.decoder.shape[1]} numbers, but {hook.name} "
            f"of {model.name} carries {found.shape[1]}: name an encoder of this model."
        )
    return found


def _choose_device(device: str) -> torch.device:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, available in there.items() if available))
    if not there[device]:
        raise SettingsError(f"harvest.device is {device}, which this machine does not offer: set it to auto or cpu.")
    return torch.device(device)


def _measure_width(model: SubjectModel) -> int:
    """Neurons of a layer at the hook, measured in one short pass through all layers that have it.

    Raises:
        SubjectError: The hook has no vector a position, it depends on later tokens, or config.json says another width.
    """
    what, cure = f"The hook '{model.hook.name}' of {model.name}", another(model.hook.name)
    tokens = torch.arange(5).repeat(2, 1) * (model.d_vocab - 1) // 4
    tokens[1, 4] = 1  # what stands before it must not change
    try:
        read = model.read_layers(tokens, model.hook.layers)
    except (ValueError, IndexError, KeyError) as error:
        raise SubjectError(f"{what} cannot be read ({error}): {cure}.") from error
    shapes = {tuple(read[layer].shape) if layer in read else None for layer in model.hook.layers}
    shape = shapes.pop()
    if shapes or shape is None or shape[:2] != (2, 5):
        raise SubjectError(f"{what} does not give one vector of the same width a position in every layer: {cure}.")
    widths = stated(model.plain, *WIDTHS)
    if model.hook.name in NEURONS and widths and shape[2] not in widths:
        raise SubjectError(
            f"{what} has {shape[2]} values a position, but config.json says that a layer has {widths[0]} neurons: "
            f"{cure}."
        )
    for layer, values in read.items():
        first, second = values[:, :4].float().nan_to_num()
        if not torch.allclose(first, second, atol=_TOLERANCE[model.dtype] * float(first.abs().max())):
            raise SubjectError(f"{what} depends, in layer {layer}, on tokens that stand behind it: {cure}.")
    return shape[2]


def _finite_logits(model: SubjectModel) -> Float32[Tensor, "1 pos d_vocab"]:
    """The logits of the fixed text.

    Raises:
        SubjectError: The model computes values that are no finite numbers; the message says where it first does.
    """
    found: list[str] = []

    def look(name: str, output: Any) -> None:
        value = output[0] if isinstance(output, tuple) else output
        if not found and isinstance(value, Tensor) and not torch.isfinite(value).all():
            found.append(name)

    with ExitStack() as hooks:
        for name, module in model.plain.named_modules():
            if any(True for _ in module.parameters(recurse=False)):
                hooks.enter_context(
                    module.register_forward_hook(lambda _module, _args, output, name=name: look(name, output))
                )
        logits = model.logits(_verification_tokens(model))
    if found or not torch.isfinite(logits).all():
        raise SubjectError(
            f"{model.name} computes values that are no finite numbers, the first behind the matrix "
            f"{found[0] if found else 'of the unembedding'}: its weights are damaged, or too large for "
            f"{str(model.dtype).removeprefix('torch.')}, so put the whole model there anew"
            + (" or set harvest.dtype to float32." if model.dtype != torch.float32 else ".")
        )
    return logits


def _verification_tokens(model: SubjectModel) -> Tensor:
    ids = model.encode([VERIFICATION_TEXT])[0][: model.max_context - 1]
    return torch.from_numpy(np.concatenate([[model.bos_id], ids]).astype(np.int64))[None].to(model.device)


def verify_subject(
    model: SubjectModel,
    bridge: TransformerBridge,
    files: SubjectFiles,
    logits: Float32[Tensor, "1 pos d_vocab"] | None = None,
) -> dict[str, Any]:
    """Check a model against the bridge, and describe it: its row of ``subject_models`` without the study.

    ``logits`` are the model's on the fixed text, which it reads here where they are not known.

    Raises:
        SubjectError: Logits or activations differ by more than rounding.
    """
    tokens = _verification_tokens(model)
    logits = model.logits(tokens) if logits is None else logits
    nats = float(torch.nn.functional.cross_entropy(logits[0, model.unread : -1], tokens[0, model.unread + 1 :]))

    layers = sorted({model.hook.layers[i] for i in (0, len(model.hook.layers) // 2, -1)})
    names = [f"blocks.{layer}.{model.hook.name}" for layer in layers]
    with torch.inference_mode():
        bare, _ = model.as_read(tokens)
        bridge_logits, cache = bridge.run_with_cache(bare, names_filter=names)
        bridge_logits = model.by_context(bridge_logits)
    difference = float((logits - bridge_logits.float()).abs().max())
    _agree(model, "logits", logits, bridge_logits)
    read = model.read_layers(tokens, layers)
    for layer, name in zip(layers, names, strict=True):
        _agree(model, f"activations at {name}", read[layer], model.by_context(by_position(cache[name], bare)))
    theirs: Any = bridge.cfg
    ours = [getattr(text_config(model.plain), name, None) for name in _ACTIVATIONS]
    return {
        "model": model.name,
        **{name: getattr(files, name) for name in ("source", "file_sha256", "revision", "quantisation")},
        "architecture": type(model.plain).__name__,
        **{name: getattr(model, name) for name in _RECORDED},
        "bos_token": model.tokenizer.bos.token,
        "bos_reason": model.tokenizer.bos.reason,
        "d_model": int(theirs.d_model),
        "activation": next((name for name in ours if isinstance(name, str)), str(theirs.act_fn)),
        "attention": str(getattr(text_config(model.plain), "_attn_implementation", None) or "eager"),
        "gated": bool(getattr(theirs, "gated_mlp", False)),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "hook": model.hook.name,
        "nats_per_token": nats,
        "logit_difference": difference,
    }


def _agree(model: SubjectModel, what: str, ours: Tensor, theirs: Tensor) -> None:
    """Refuse a model where ||ours - theirs|| / ||theirs|| is too large at a position of [batch, pos, width].

    Short vectors count as 1 % of the longest.
    """
    if ours.shape != theirs.shape:
        raise SubjectError(
            f"The {what} of {model.name} have the shape {tuple(ours.shape)} in transformers but "
            f"{tuple(theirs.shape)} in TransformerLens: {another(model.hook.name)}."
        )
    # Position 0 is left out: the vectors of BOS can be hundreds of times longer, and nobody asks for them.
    apart = (ours.float() - theirs.float())[:, 1:].norm(dim=-1)
    length = theirs.float()[:, 1:].norm(dim=-1)
    difference = float((apart / length.clamp(min=max(float(length.max()) * 0.01, 1e-12))).max())
    if not difference <= _TOLERANCE[model.dtype]:
        raise SubjectError(
            f"The {what} of {model.name} differ between transformers and TransformerLens by {difference:.1%}: choose "
            "another hook or model, or another version of transformer-lens."
        )
