"""What a pass has to read: shards of the corpus that the store has are taken over, and the rest is planned.

A shard is taken over if all of its documents are in the corpus still, in the same order and with the same tokens;
documents that no shard covers become new shards. So a new document costs only its own forward pass, and a document
that went costs that of the documents it shared a shard with.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from n2g_assets.core.settings import HarvestSettings
from n2g_assets.evidence.corpus import Shard, TokenCorpus, make_shard
from n2g_assets.evidence.kept import FILE, PAIR, Held, Numbers
from n2g_assets.evidence.precision import DTYPES
from n2g_assets.model.folder import encoder_identity
from n2g_assets.storage.cache import Cache, Entry
from n2g_assets.storage.hashing import hash_json

_CODE_VERSION = "3"
_SPARE = 2
"""Times as many latents may be active at a position as are on the verification text."""
Files = dict[tuple[int, str], list[Held]]
"""By layer and shard, the files that were found whole or written now."""


@dataclass(frozen=True)
class Plan:
    """What the store has of asked neurons on a corpus, and what is left for a pass."""

    shards: Sequence[Shard]
    files: Files
    work: Sequence[tuple[Shard, dict[int, Numbers]]]
    """Every shard with the units of each layer that no file holds."""
    active: Mapping[int, int]
    """By layer whose units are latents that are mostly 0, about the most of them that are not at a position."""

    @property
    def tokens(self) -> int:
        """Tokens, BOS included, that the pass reads."""
        return sum(shard.n_tokens for shard, lacks in self.work if lacks)

    def new_bytes(self, dtype: str) -> tuple[int, int]:
        """Disk that the new files take, and what coarse ones need besides: their largest shard in float32."""
        rows, pairs = [], 0
        for shard, lacks in self.work:
            rows.append(shard.n_tokens * sum(len(new) for layer, new in lacks.items() if layer not in self.active))
            most = (min(len(new), self.active[layer]) for layer, new in lacks.items() if layer in self.active)
            pairs += shard.n_tokens * sum(most)
        in_work = 0 if dtype == "float32" else 4 * max(rows, default=0)
        return DTYPES[dtype].itemsize * sum(rows) + PAIR.itemsize * pairs, in_work


def plan_evidence(
    facts: Mapping[str, Any],
    corpus: TokenCorpus,
    neurons: Mapping[int, Sequence[int]],
    settings: HarvestSettings,
    cache: Cache,
    *,
    trusting: bool = False,
    shard_id: str = "",
) -> Plan:
    """What ``read_evidence`` takes over and what it runs; ``trusting`` looks at no file, which can take long.

    ``facts`` is the model's row of ``subject_models``. Where the corpus is one shard, its id saves looking at others.
    """
    wanted = {layer: np.unique(np.asarray(asked, np.int32)) for layer, asked in neurons.items()}
    kinds = [entry_kind(facts, settings, layer) for layer in wanted]
    listing = {entry: about for kind in kinds for entry, about in _listing(cache, kind, shard_id).items()}
    shards = plan_shards(corpus, listing.values(), wanted, settings.shard_tokens)
    files: Files = defaultdict(list)
    left = {(layer, shard.shard_id): asked for shard in shards for layer, asked in wanted.items()}
    for (kind, key), about in listing.items():
        place, held = (about["layer"], about["shard"]), np.array(about["neurons"], np.int32)
        if np.isin(left.get(place, ()), held).any():
            found = Entry(cache.folder(kind, key), about) if trusting else cache.find(kind, key)
            if found is not None:
                files[place].append(Held.of(found.path(FILE), found.about))
                left[place] = np.setdiff1d(left[place], held)
    work = [(shard, {layer: rest for layer in wanted if len(rest := left[layer, shard.shard_id])}) for shard in shards]
    return Plan(shards, files, work, _active(facts, wanted))


def _active(facts: Mapping[str, Any], layers: Collection[int]) -> dict[int, int]:
    encoders = {layer: each for layer, each in facts.get("encoders", {}).items() if layer in layers and each["sparse"]}
    return {
        layer: each["top"] or math.ceil(_SPARE * each["active"]) if "active" in each else each["n_latents"]
        for layer, each in encoders.items()
    }


def drop_evidence(
    facts: Mapping[str, Any],
    corpus: TokenCorpus,
    neurons: Mapping[int, Sequence[int]],
    settings: HarvestSettings,
    cache: Cache,
) -> None:
    """Remove the entries that hold these neurons on documents of this corpus as it has them, and nothing else.

    Another study of the same units and text has to read them anew.
    """
    number_of = {document_id: number for number, document_id in enumerate(corpus.document_ids)}
    for layer, asked in neurons.items():
        for (kind, key), about in _listing(cache, entry_kind(facts, settings, layer)).items():
            if set(about["neurons"]) <= set(asked) and number_of.keys() >= set(about["documents"]):
                shard = make_shard(corpus, [number_of[name] for name in about["documents"]])
                if shard.shard_id == about["shard"]:
                    cache.remove(kind, key)


def _listing(cache: Cache, kind: str, shard_id: str = "") -> dict[tuple[str, str], dict[str, Any]]:
    """By kind and key, what is known of the entries of a layer, or of those of one shard alone."""
    if shard_id:
        below = f"{kind}/{shard_id}"
        return {(below, key): about for key, about in cache.listing(below).items()}
    found = {f"{kind}/{path}".rpartition("/"): about for path, about in cache.listing(kind, 2).items()}
    return {(below, key): about for (below, _, key), about in found.items()}


def entry_kind(facts: Mapping[str, Any], settings: HarvestSettings, layer: int) -> str:
    """The kind below which each shard has one, of a layer of a model at a hook, in one arithmetic and precision."""
    read = [_CODE_VERSION, facts["file_sha256"], facts["hook"], settings.dtype, settings.evidence_dtype]
    encoder = encoder_identity(facts, layer)
    read += [] if encoder is None else [encoder]
    return f"evidence/{hash_json(read)}/{layer}"


def plan_shards(
    corpus: TokenCorpus,
    entries: Iterable[Mapping[str, Any]],
    wanted: Mapping[int, Numbers],
    shard_tokens: int,
) -> list[Shard]:
    """Shards that cover the corpus: those of entries, where they can be taken over, and new ones for the rest.

    ``entries`` gives the ``about`` of the store's entries. Where their shards overlap, those win that hold most
    activations of the wanted neurons of each layer, then the larger ones.
    """
    known, held = dict[str, list[str]](), Counter[str]()
    for about in entries:
        known[about["shard"]] = about["documents"]
        held[about["shard"]] += int(np.isin(about["neurons"], wanted.get(about["layer"], ())).sum())
    number_of = {document_id: number for number, document_id in enumerate(corpus.document_ids)}
    there = [[number_of[name] for name in names] for names in known.values() if number_of.keys() >= set(names)]
    fitting = [shard for numbers in there if (shard := make_shard(corpus, numbers)).shard_id in known]
    shards, covered = [], set[str]()
    for shard in sorted(fitting, key=lambda one: (-held[one.shard_id] * one.n_tokens, -one.n_tokens, one.shard_id)):
        if covered.isdisjoint(shard.document_ids):
            covered.update(shard.document_ids)
            shards.append(shard)
    rest = [number for name, number in number_of.items() if name not in covered]
    return sorted(shards + cut(corpus, rest, shard_tokens), key=lambda shard: int(shard.contexts[0]))


def cut(corpus: TokenCorpus, documents: Iterable[int], shard_tokens: int) -> list[Shard]:
    """Shards of these documents; each is full before the document with which it would hold more tokens.

    A document that is longer stands alone. A shard depends on what stands before it alone.
    """
    sizes = np.bincount(corpus.documents, weights=corpus.lengths)
    groups: list[list[int]] = []
    held = np.inf
    for number in documents:
        if held + sizes[number] > shard_tokens:
            groups.append([])
            held = 0
        groups[-1].append(number)
        held += sizes[number]
    return [make_shard(corpus, group) for group in groups]
