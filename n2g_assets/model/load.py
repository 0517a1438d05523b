"""Loads a subject model and checks it.

The model that runs is the plain transformers one (sdpa attention). A TransformerBridge is booted beside it on the same
parameters, to find where a TransformerLens hook reads (``hooks``) and to check the plain model against it
(``verify``). Then the bridge is dropped, unless the hook can only be read through it.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

from n2g_assets.core.errors import SettingsError, SubjectError
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.model.hooks import boot_bridge, resolve_hook
from n2g_assets.model.lock import forward_pass_lock
from n2g_assets.model.model import Callback, SubjectModel
from n2g_assets.model.sources import SubjectFiles
from n2g_assets.model.tokens import SubjectTokenizer
from n2g_assets.model.verify import verify_subject
from n2g_assets.model.weights import load_plain


def load_subject(
    files: SubjectFiles,
    hook: str,
    harvest: HarvestSettings,
    mask_token: str,
    dtype: Literal["float32", "bfloat16"] = "float32",
    lock_file: Path | None = None,
) -> SubjectModel:
    """Load a subject model and check it.

    ``hook`` is a TransformerLens hook inside a block, such as ``mlp.hook_post``; of ``harvest`` the device is read;
    ``mask_token`` is ``auto`` or the text of one token; ``lock_file`` is held during each forward pass (see ``lock``).

    Raises:
        SourceError: Files are damaged, or weights are missing in them.
        SubjectError: The model lacks the hook, TransformerLens cannot wrap it, or the two disagree.
        SettingsError: The device is not there, or the mask token is not one token.
    """
    device = _choose_device(harvest.device)
    tokenizer = SubjectTokenizer.load(files.folder)
    plain = load_plain(files.folder, getattr(torch, dtype), device)
    bridge = boot_bridge(plain.module, files.folder, tokenizer.transformers)
    config: Any = bridge.cfg
    n_layers = int(config.n_layers)
    resolved = resolve_hook(bridge, hook, plain.module, n_layers)
    model = SubjectModel(
        name=files.name, hook=resolved, n_layers=n_layers, d_mlp=0, d_model=int(config.d_model), d_vocab=plain.d_vocab,
        max_context=int(plain.max_context or config.n_ctx), activation=plain.activation or str(config.act_fn),
        gated=bool(getattr(config, "gated_mlp", False)), device=device, dtype=getattr(torch, dtype),
        bos_id=tokenizer.bos_id(plain.d_vocab), mask_id=tokenizer.mask_id(mask_token, plain.d_vocab),
        tokenizer=tokenizer, plain=plain.module, unembedding=plain.unembedding, lock=forward_pass_lock(lock_file),
        bridge=bridge if resolved.taps is None else None,
    )  # fmt: skip
    model.d_mlp = _measure_width(model)
    with model.lock:
        model.facts = verify_subject(model, bridge, files)
    return model


loaded_subject = lru_cache(maxsize=2)(load_subject)
"""``load_subject``, once a process."""


def _choose_device(device: str) -> torch.device:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, available in there.items() if available))
    if not there[device]:
        raise SettingsError(f"harvest.device is {device}, which this machine does not offer: set it to auto or cpu.")
    return torch.device(device)


def _measure_width(model: SubjectModel) -> int:
    """Neurons of a layer at the hook, measured in one short pass through all layers that have it."""
    shapes: dict[int, tuple[int, ...]] = {}
    tokens = torch.full((2, 5), model.bos_id)

    def note(layer: int) -> Callback:
        return lambda activations: shapes.__setitem__(layer, tuple(activations.shape))

    try:
        model.run(tokens, {layer: note(layer) for layer in model.hook.layers})
    except (ValueError, IndexError, KeyError) as error:
        raise SubjectError(
            f"The hook '{model.hook.name}' of {model.name} cannot be read ({error}): choose another, such as "
            "mlp.hook_post."
        ) from error
    widths = {shape[2] for shape in shapes.values() if len(shape) == 3 and shape[:2] == tokens.shape}
    if set(shapes) != set(model.hook.layers) or len(widths) != 1:
        raise SubjectError(
            f"The hook '{model.hook.name}' of {model.name} does not give one vector of the same width a position in "
            "every layer: choose another, such as mlp.hook_post."
        )
    return widths.pop()
