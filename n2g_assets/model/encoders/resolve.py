"""A study's encoders, one for each of its layers: fetched where they are on a hub, read, and told from all others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from n2g_assets.core.errors import SubjectError
from n2g_assets.core.sources import portable_path
from n2g_assets.core.unit_settings import AnyUnits, EncoderSettings, HubEncoder, UnitSettings
from n2g_assets.model.config import Shape
from n2g_assets.model.encoders.encoder import Encoder
from n2g_assets.model.encoders.formats import read_encoder, weights_at
from n2g_assets.model.encoders.heads import HeadsOfLayers
from n2g_assets.model.sources import check_hub_name, fetch, named_folder

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from n2g_assets.model.model import SubjectModel

AUTO = "auto"
"""As the hook of a study: the encoder's own."""
_DATA = ("*.safetensors", "*.npz", "*.npy", "*.pt", "*.json", "*.yaml")
"""What is fetched of a hub's folder: no code, and of pickles state dicts of torch alone, whose tensors are read."""


@dataclass(frozen=True)
class Encoders:
    """The encoders of a study; two are equal where the hook and all files are."""

    hook: str
    """Inside a block, such as ``hook_resid_post``."""
    sha256: str
    """Of all of them and their layers (hex)."""
    by_layer: Mapping[int, Encoder] = field(compare=False, repr=False)
    provenance: Mapping[str, str | None] = field(compare=False, repr=False)
    """Columns ``source``, ``name`` and ``revision`` of ``encoders``, and ``neuronpedia`` as the settings have it."""

    @property
    def facts(self) -> dict[int, dict[str, Any]]:
        """By layer, what the files say, and where they came from."""
        shown = self.provenance["neuronpedia"]
        return {
            layer: {
                **self.provenance, **encoder.facts(),
                "neuronpedia": shown.replace("{layer}", str(layer)) if shown else encoder.neuronpedia,
            }
            for layer, encoder in self.by_layer.items()
        }  # fmt: skip

    @property
    def identity(self) -> Sequence[Any]:
        """What tells them from all others, and where they came from."""
        return [self.sha256, dict(self.provenance)]

    def of(
        self, _model: SubjectModel, _bridge: TransformerBridge
    ) -> tuple[Mapping[int, Encoder], dict[int, dict[str, Any]]]:
        """By layer, the encoder, whatever the model, and its facts; whether it fits is checked when a study is."""
        return self.by_layer, self.facts

    def width(self, _shape: Shape) -> int:
        """The fewest latents of a layer."""
        return min(encoder.n_latents for encoder in self.by_layer.values())

    @property
    def densities(self) -> dict[int, float]:
        """By layer, the share of its latents that is kept at a position, where its files say it."""
        return {layer: each.top / each.n_latents for layer, each in self.by_layer.items() if each.top is not None}


def resolve_units(
    units: AnyUnits, layers: Sequence[int], hook: str, *, study_folder: Path
) -> Encoders | HeadsOfLayers | None:
    """What makes units of what the hook carries, by the setting ``units``; fails as ``resolve_encoders``."""
    if isinstance(units, UnitSettings):
        return resolve_encoders(units.encoder, layers, hook, study_folder=study_folder)
    return None if units is None else HeadsOfLayers(tuple(layers))


def resolve_encoders(settings: EncoderSettings, layers: Sequence[int], hook: str, *, study_folder: Path) -> Encoders:
    """The encoder of each layer; where ``hook`` is ``auto``, the one that their files name.

    Relative paths count from ``study_folder``.

    Raises:
        SourceError: It cannot be had, is damaged, or of a kind that is not read.
        SubjectError: There is none for a layer or the hook, or its files do not say which hook it reads.
    """
    path, provenance = _located(settings, study_folder)
    asked = None if hook == AUTO else hook
    found = {layer: read_encoder(path, layer, asked, settings.format) for layer in layers}
    hooks = {asked} if asked else {encoder.reads.hook for encoder in found.values()}
    if None in hooks or len(hooks) > 1:
        said = "do not say which hook it reads" if None in hooks else f"read {', '.join(sorted(map(str, hooks)))}"
        raise SubjectError(f"The files of the encoder {path} {said}: set hook to one.")
    listed = "".join(f"{layer} {encoder.sha256}\n" for layer, encoder in sorted(found.items()))
    provenance["neuronpedia"] = settings.neuronpedia
    return Encoders(str(hooks.pop()), hashlib.sha256(listed.encode()).hexdigest(), found, provenance)


def check_encoder(settings: EncoderSettings, study_folder: Path) -> None:
    """Check that what is named is there, as far as that can be seen without a network or reading weights.

    Raises:
        SourceError: The hub can have no such name, or the path holds no encoder in a format that is known.
    """
    if isinstance(settings, HubEncoder):
        cure = "give a folder or file as {source: local, path: ...}"
        check_hub_name(settings.name, cure, "encoder", "google/gemma-scope-2b-pt-res")
    else:
        weights_at(named_folder(settings.path, study_folder), settings.format)


def _located(settings: EncoderSettings, study_folder: Path) -> tuple[Path, dict[str, str | None]]:
    """Where the files of an encoder are, and where they came from."""
    if not isinstance(settings, HubEncoder):
        name = portable_path(settings.path, study_folder)
        return named_folder(settings.path, study_folder), {"source": settings.source, "name": name, "revision": None}
    name = settings.name
    inside = PurePosixPath(settings.path or ".")
    wanted = [pattern if settings.path is None else f"{inside}/{pattern}" for pattern in _DATA]
    if settings.path is not None:  # of a file, the settings that stand beside it
        wanted += [str(inside), *(str(inside.parent / each) for each in ("cfg.json", "config.json", "config.yaml"))]
    folder = fetch(
        name, settings.revision, what=f"The encoder {name}", setting="units.encoder.name",
        cure="give its folder or file as {source: local, path: ...}", wanted=wanted,
    )  # fmt: skip
    return folder / inside, {"source": settings.source, "name": name, "revision": folder.name}
