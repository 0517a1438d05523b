"""Models that TransformerLens' authors published before the hub's layout: SoLU and GELU models of one to twelve layers.

Such a repository holds a config.json with TransformerLens' names, a pickled state dict, and the name of its tokenizer.
Of the pickle tensors are read and nothing else. It is converted once to a folder with safetensors, which ``weights``
reads.
"""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

from n2g_assets.core.errors import SourceError
from n2g_assets.model.folder import TEXT_FILES
from n2g_assets.storage.hashing import file_sha256

LEGACY_VERSION = 1
"""Raised when the same files would be converted to others."""
LEGACY_FILES = ("config.json", "*final.pth")
"""What is fetched of such a repository."""


def may_be_legacy(name: str) -> bool:
    """Whether a hub's name is of one of the authors' repositories."""
    from transformer_lens.model_bridge.sources.tl_legacy import TL_LEGACY_PREFIXES

    return name.startswith(TL_LEGACY_PREFIXES)


def is_legacy(folder: Path) -> bool:
    """Whether a repository of theirs has this layout."""
    return any(folder.glob(LEGACY_FILES[1]))


def tokenizer_of(folder: Path, what: str) -> str:
    """The name of the tokenizer's repository.

    Raises:
        SourceError: config.json names none, or is damaged.
    """
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["tokenizer_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{what} has no config.json that names its tokenizer: choose another model.") from error


def convert_legacy(folder: Path, tokenizer: Path, what: str, target: Path) -> dict[str, Any]:
    """Write config.json, model.safetensors and the tokenizer to ``target``; what its provenance records.

    Raises:
        SourceError: There is no state dict, or it holds more than tensors.
    """
    import torch
    from safetensors.torch import save_file
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources.tl_legacy import _convert_neel_solu_old_weights

    pickles = sorted(folder.glob(LEGACY_FILES[1]))
    if not pickles:
        raise SourceError(f"{what} has no {LEGACY_FILES[1]}: choose another model.")
    try:
        weights = torch.load(pickles[0], map_location="cpu", weights_only=True)
        weights = {str(name): tensor.float().clone() for name, tensor in weights.items()}
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, ValueError) as error:
        raise SourceError(
            f"The {pickles[0].name} of {what} is damaged or holds more than tensors, and nothing else is read of a "
            "pickle: choose another model, or give its weights as safetensors in a local folder."
        ) from error
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if any("norm" in name for name in weights):  # the first layout: other names, and matrices that are transposed
        try:
            shape = {key: config[key] for key in ("d_model", "n_layers", "n_heads", "d_head", "n_ctx", "act_fn")}
            weights = _convert_neel_solu_old_weights(weights, TransformerBridgeConfig(**shape))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise SourceError(
                f"The config.json of {what} does not describe its weights ({type(error).__name__}: {error}): choose "
                "another model."
            ) from error
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, target / "model.safetensors")
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in TEXT_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, target / name)
    return {"pickle_sha256": file_sha256(pickles[0])}
