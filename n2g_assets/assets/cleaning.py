"""What can be removed from a home: what no run of its studies reads any more, or all that belongs to one study.

1. The studies of a home are those that have slices. Each says what its next run takes over: the evidence of its units
   on its texts, numbers of the runs of these, contexts that its graphs asked for, and its model.
2. Whatever else the cache holds of these kinds is superfluous, as is all of kinds that only earlier versions had,
   reports and checkpoints of studies that are gone, and what killed runs left behind.
3. Of a study that is to go, what the others leave out is superfluous too, and its slices and its report go with it.

Where a study cannot say what it needs, everything of the kinds in question stays. Nothing is removed while a run lives.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from n2g_assets.assets import learning
from n2g_assets.assets.instance import STARTING
from n2g_assets.assets.session import Session
from n2g_assets.assets.study import Study
from n2g_assets.core import registry
from n2g_assets.core.errors import MissingError, N2GError, StorageError
from n2g_assets.core.home import Home
from n2g_assets.core.settings import StudySettings
from n2g_assets.evidence.plan import plan_evidence
from n2g_assets.storage import files
from n2g_assets.storage.cache import Cache, leftovers
from n2g_assets.storage.slices import SliceKey, SliceStore
from n2g_assets.storage.warehouse import publish

DEPTHS = {
    "evidence": 4, "suffixes": 1, "targeted": 1, "models": 1, "blocks": 3, "wikipedia": 1, "hub_listings": 1,
    "checked": 1, "steps": 1,
}  # fmt: skip
"""Kinds of the cache that this version reads; how many folders below them an entry, or all blocks of a layer, stands.
Of all from ``wikipedia`` to ``checked``, which are small or serve any study, everything stays."""


@dataclass
class Removable:
    """Files of one kind that can be removed."""

    what: str
    again: str
    """What it takes to have them again."""
    paths: list[Path] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Their size."""
        return sum(map(size_of, self.paths))


@dataclass
class Needs:
    """What the next runs of some studies take over from the cache."""

    paths: set[Path] = field(default_factory=set)
    """Entries of evidence, targeted contexts and models."""
    tokens: set[int] = field(default_factory=set)
    """Sizes of the texts of which runs are numbered."""
    unknown: dict[str, str] = field(default_factory=dict)
    """By study that cannot say what it needs, why."""


def removable(home: Home, study: str | None = None) -> tuple[list[Removable], dict[str, str]]:
    """What can be removed; and by study that cannot say what it needs, why, so that most of the cache stays.

    Args:
        home: whose files.
        study: one that is to go; None for what no study reads.

    Raises:
        MissingError: there is no such study.
        StorageError: the store is in object storage.
    """
    if home.address is not None:
        raise StorageError(
            f"n2g clean works on a folder, and N2G_STORE is {home.address}: let a rule of its bucket remove what is "
            "below cache/ from an age on; it is made again where it is needed."
        )
    store = SliceStore(home)
    studies = store.studies()
    if study is None:
        needs = needed(home, studies)
        return _present(_superfluous(home, studies, needs)), needs.unknown
    if study not in studies:
        raise MissingError(f"There is no study '{study}' in {home.root}: choose one of {', '.join(studies) or 'none'}.")
    rest = [other for other in studies if other != study]
    needs = needed(home, rest)
    already = {path for group in _superfluous(home, studies, needed(home, studies)) for path in group.paths}
    own = _superfluous(home, rest, needs, "no other study")
    for group in own:
        group.paths = [path for path in group.paths if path not in already]
    slices = sorted(home.slices.glob(f"*/study={study}"))
    return _present([Removable(f"rows of {study}", "a run of it, from its first pass on", slices), *own]), needs.unknown


def remove(home: Home, groups: Iterable[Removable], study: str | None = None) -> None:
    """Remove them, and publish the rest where a study goes.

    No run begins meanwhile by a command of ``n2g``.

    Raises:
        StorageError: a run lives, or a file cannot be removed.
    """
    with files.hold_lock(home.locks, STARTING):
        for group in groups:
            check_unused(home)
            for path in group.paths:
                files.discard(path)
        if study is not None:
            publish(SliceStore(home))


def check_unused(home: Home) -> None:
    """Raise a StorageError if a run, or anything else that holds a lock, works in the home."""
    for lock in (*home.dagster.glob("alive/*.lock"), *home.locks.glob("*.lock")):
        if lock.stem == STARTING:
            continue
        try:
            with FileLock(lock, timeout=0):
                pass
        except Timeout:
            run = f"run {lock.stem}" if lock.parent.name == "alive" else f"the holder of {lock.name}"
            raise StorageError(
                f"{home.root} is in use by {run}: nothing is removed before it ends, so wait for it or stop it."
            ) from None


def needed(home: Home, studies: Iterable[str]) -> Needs:
    """What the next runs of these studies take over."""
    found, provenances = Needs(), _provenances(home)
    for name in studies:
        try:
            session = _session(home, name)
            _add_needs(session, found)
            found.paths |= _models_of(session.model_row["file_sha256"], provenances)
        except (N2GError, ValueError) as error:  # pydantic's errors are ValueErrors
            found.unknown[name] = " ".join(str(error).split())
    return found


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    sizes = 0
    for each in [path] if path.is_file() else path.rglob("*"):
        with suppress(OSError):  # it went meanwhile
            sizes += each.lstat().st_size if each.is_file() else 0
    return sizes


def _session(home: Home, name: str) -> Session:
    rows = SliceStore(home).read(SliceKey("studies", name), columns=["settings"])
    settings = StudySettings(**json.loads(rows.item()))
    return Session(Study(name, home.root, settings), home, logging.getLogger(__name__))


def _add_needs(session: Session, found: Needs) -> None:
    cache, store = Cache(session.home), session.store
    for layer in session.settings.layer_numbers:
        if session.learning.asked and store.manifest(SliceKey("top_examples", session.study.name, layer)):
            found.paths.add(cache.folder(learning.KIND, session.learning.targeted_key(layer)))
        beside = [len(corpus.token_ids) for corpus in session.learning.beside(layer).values()]
        for chosen in (some for count in range(len(beside) + 1) for some in combinations(beside, count)):
            found.tokens.add(len(session.corpus.token_ids) + sum(chosen))
        for corpus, settings in session.corpora(layer):
            plan = plan_evidence(session.model_row, corpus, session.neurons([layer]), settings, cache, trusting=True)
            found.paths |= {each.path.parent for held in plan.files.values() for each in held}


def _provenances(home: Home) -> dict[Path, dict[str, str]]:
    """What each model in the cache is."""
    found = {}
    for path in Cache(home).folder("models").glob("*/provenance.json"):
        with suppress(OSError, ValueError):
            found[path.parent] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _models_of(file_sha256: str, provenances: dict[Path, dict[str, str]]) -> set[Path]:
    """The model of this hash, and the one that it was made from."""
    own = {path for path, about in provenances.items() if about.get("file_sha256") == file_sha256}
    origins = {provenances[path].get("trained_sha256") for path in own} - {None}
    return own | {path for path, about in provenances.items() if about.get("file_sha256") in origins}


def _superfluous(home: Home, studies: Collection[str], needs: Needs, none: str = "no study") -> list[Removable]:
    """What studies of these needs do not read; ``none`` of them, for reading."""
    entries = defaultdict[str, list[Path]](list)
    for kind, path in _entries(home):
        entries[kind].append(path)
    stages = {stage.name for stage in registry.STAGES}
    left = leftovers(home)
    groups = [
        Removable("what killed runs left", "nothing, it is of no use", left),
        Removable("values that steps of ended runs handed on", "nothing, unless steps are repeated", entries["steps"]),
        Removable("of kinds that earlier versions kept", "nothing, it is of no use", entries["old"]),
        Removable("reports of studies that are gone", "a run of the study", [
            path for path in sorted(home.reports.glob("*.html")) if path.stem not in studies
        ]),
        Removable("checkpoints of studies that are gone", "the same work of a run", [
            path for path in entries["blocks"] if path.parts[-2] not in studies or path.parts[-3] not in stages
        ]),
    ]  # fmt: skip
    if needs.unknown:
        return groups
    return [
        *groups,
        Removable(f"evidence that {none} reads", "a pass of the model", _not_in(entries["evidence"], needs.paths)),
        Removable(f"contexts that {none} asks for", "a growth of graphs", _not_in(entries["targeted"], needs.paths)),
        Removable(f"numbers of runs of texts that {none} has", "minutes of a run", [
            path for path in entries["suffixes"] if _tokens_of(path) not in needs.tokens
        ]),
        Removable(f"models that {none} explains", "a conversion", _not_in(entries["models"], needs.paths)),
    ]  # fmt: skip


def _not_in(paths: list[Path], needed_paths: Collection[Path]) -> list[Path]:
    return [path for path in paths if path not in needed_paths]


def _tokens_of(entry: Path) -> int | None:
    """Of how many tokens an entry numbers the runs; None where it is damaged."""
    try:
        return int(np.load(entry / "numbers.npy", "r").shape[1])
    except (OSError, ValueError):
        return None


def _entries(home: Home) -> Iterator[tuple[str, Path]]:
    """Every entry of the cache with its kind, or ``old`` for one that no version of today reads."""
    for top in sorted(home.cache.glob("[!.]*")):
        depth = DEPTHS.get(top.name)
        if depth is None:
            yield "old", top
            continue
        for path in _below(top, depth):
            yield ("old" if path.is_file() else top.name), path


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """What stands so many folders below one; and before that, files and entries of another layout."""
    for path in sorted(folder.glob("[!.]*")):
        if depth == 1 or path.is_file() or (path / "entry.json").is_file():
            yield path
        else:
            yield from _below(path, depth - 1)


def _present(groups: Iterable[Removable]) -> list[Removable]:
    return [group for group in groups if group.bytes]
