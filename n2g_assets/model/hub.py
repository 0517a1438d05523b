"""Model files from a Hugging Face hub, or from its local cache where the hub cannot be reached."""

from __future__ import annotations

import os
from pathlib import Path

from n2g_assets.core.errors import N2GError, SourceError
from n2g_assets.model.folder import TEXT_FILES, check_names

_FILES = ["config.json", "model.safetensors", "model-*.safetensors", *TEXT_FILES]
"""What is fetched of a model: no pickles, no code, no other folders."""
_SECONDS = 10.0
"""Time to wait for a hub's first answer."""


def fetch_model(name: str, revision: str | None, *, what: str, setting: str, cure: str) -> Path:
    """The folder of a model's files at one commit, whose name is the commit.

    ``revision`` is a branch, tag or commit; None takes the default branch. Messages say ``what`` the model is, the
    ``setting`` that names it, and as ``cure`` what else a user can do.

    Raises:
        SourceError: The hub does not know it, it is gated or has no safetensors, or it is neither in the local cache
            nor can the hub be reached.
    """
    import huggingface_hub as hub
    from huggingface_hub import errors

    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        info = hub.HfApi(endpoint=endpoint).model_info(name, revision=revision, timeout=_SECONDS)
        check_names((sibling.rfilename for sibling in info.siblings or []), what, cure)
        return Path(
            hub.snapshot_download(
                name, revision=revision, endpoint=endpoint, etag_timeout=_SECONDS, allow_patterns=_FILES
            )
        )
    except errors.GatedRepoError as error:
        raise SourceError(f"{what} is gated: accept its terms and set HF_TOKEN, or {cure}.") from error
    except errors.RevisionNotFoundError as error:
        raise SourceError(f"{what} has no revision '{revision}': name another, or {cure}.") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise SourceError(f"{what} is not known to the hub: correct {setting}, or {cure}.") from error
    except N2GError:
        raise
    except Exception as error:  # no network shows in the exceptions of whichever client the hub library uses
        return _from_local_cache(name, revision, what, cure, error)


def _from_local_cache(name: str, revision: str | None, what: str, cure: str, cause: Exception) -> Path:
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        return Path(hub.snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=_FILES))
    except (errors.LocalEntryNotFoundError, errors.IncompleteSnapshotError, errors.HFValidationError) as error:
        reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:200]
        raise SourceError(
            f"{what} is not in the local cache and the hub cannot be reached ({reason}): {cure}, set HF_HOME to a "
            "cache that has it, or go online once."
        ) from error


def hub_name(name: str) -> str:
    """The hub's name for a TransformerLens name such as ``pythia-70m``; other names as they are."""
    if "/" in name:
        return name
    from transformer_lens.supported_models import MODEL_ALIASES

    return next((found for found, aliases in MODEL_ALIASES.items() if name in aliases), name)
