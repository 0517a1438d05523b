"""The check at load: the plain model that runs gives the same numbers as TransformerLens' bridge.

1. The logits of the plain model and of the bridge on a fixed text agree.
2. What the model's taps read equals the bridge's hook, at the first, the middle and the last layer.
3. The cross-entropy on that text is recorded: a model that was converted wrongly shows there.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from n2g_assets.core.errors import SubjectError
from n2g_assets.model.model import SubjectModel
from n2g_assets.model.sources import SubjectFiles

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

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

_RECORDED = ("n_layers", "d_mlp", "d_model", "d_vocab", "max_context", "activation", "gated", "bos_id", "mask_id")
"""Attributes of the model that its row takes over."""
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}
"""Largest difference at a position, as a share of the vector there: rounding in another order of additions."""


def verify_subject(model: SubjectModel, bridge: TransformerBridge, files: SubjectFiles) -> dict[str, Any]:
    """Check a model against the bridge, and describe it: its row of ``subject_models`` without the study.

    Raises:
        SubjectError: Logits or activations differ by more than rounding.
    """
    ids = model.encode([VERIFICATION_TEXT])[0][: model.max_context - 1]
    tokens = torch.from_numpy(np.concatenate([[model.bos_id], ids]).astype(np.int64))[None].to(model.device)
    logits = model.logits(tokens)
    nats = float(torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:]))

    layers = sorted({model.hook.layers[i] for i in (0, len(model.hook.layers) // 2, -1)})
    names = [model.hook.full_name(layer) for layer in layers]
    with torch.inference_mode():
        bridge_logits, cache = bridge.run_with_cache(tokens, names_filter=names)
    difference = float((logits - bridge_logits.float()).abs().max())
    _agree(model, "logits", logits, bridge_logits)
    read: dict[int, Tensor] = {}
    model.run(tokens, {layer: partial(read.__setitem__, layer) for layer in layers})
    for layer, name in zip(layers, names, strict=True):
        _agree(model, f"activations at {name}", read[layer], cache[name].flatten(2))
    return {
        "model": model.name,
        **{name: getattr(files, name) for name in ("source", "file_sha256", "revision", "quantisation")},
        "architecture": type(model.plain).__name__,
        **{name: getattr(model, name) for name in _RECORDED},
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
            f"{tuple(theirs.shape)} in TransformerLens: choose another hook, such as mlp.hook_post."
        )
    # BOS is left out: its vectors can be hundreds of times longer, and they are never read.
    apart = (ours.float() - theirs.float())[:, 1:].norm(dim=-1)
    length = theirs.float()[:, 1:].norm(dim=-1)
    difference = float((apart / length.clamp(min=max(float(length.max()) * 0.01, 1e-12))).max())
    if not difference <= _TOLERANCE[model.dtype]:
        raise SubjectError(
            f"The {what} of {model.name} differ between transformers and TransformerLens by {difference:.1%}: choose "
            "another hook or model, or another version of transformer-lens."
        )
