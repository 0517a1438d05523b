"""Documents from a data set on the Hugging Face hub, by its Parquet files: no code of the data set is run.

The files of one split are taken in order, each fetched when the one before it is used up. The commit and its files
are kept in the cache, so that what was fetched once can be read again without the hub.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import huggingface_hub as hub
from huggingface_hub.errors import HFValidationError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import validate_repo_id

from n2g_assets.core.errors import SourceError, short_reason
from n2g_assets.core.home import Home
from n2g_assets.core.sources import HubSource
from n2g_assets.corpus.rows import RawDocument, read_parquet
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.hashing import hash_json

_CONVERTED = "refs/convert/parquet"
"""Branch where the hub keeps a Parquet version of data sets that have none of their own."""


class Listing(NamedTuple):
    """The Parquet files of one split at one commit."""

    commit: str
    files: list[str]
    """Paths inside the data set, sorted."""


def read_hub(source: HubSource, home: Home) -> Iterator[RawDocument]:
    """The documents of a data set's split, in the order of its files and rows; ``home`` keeps what is fetched.

    Raises:
        SourceError: The hub cannot be reached, does not know the data set, or it has no such split or field.
    """
    listing = find_listing(source, home)
    for name in listing.files:
        try:
            path = hub.hf_hub_download(
                source.name, name, repo_type="dataset", revision=listing.commit, cache_dir=home.downloads / "hub"
            )
        except (OSError, HTTPError, ValueError) as error:
            raise _cannot_be_had(source, error) from error
        yield from read_parquet(Path(path), name, source.text_field)


def check_hub_name(name: str) -> None:
    """Raises SourceError where no data set can have this name."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise SourceError(
            f"The hub can have no data set '{name}': write its name as there, such as NeelNanda/pile-10k."
        ) from error


def find_listing(source: HubSource, home: Home) -> Listing:
    """The split's files at the latest commit of its revision; where the hub is out of reach, those of last time.

    Raises:
        SourceError: The hub cannot be reached and was not before, or does not know the data set or split.
    """
    cache, key = Cache(home), hash_json([source.name, source.split, source.revision])
    try:
        listing = _ask_hub(source)
    except (OSError, HTTPError, ValueError) as error:
        unknown = isinstance(error, (RepositoryNotFoundError, RevisionNotFoundError))
        kept = None if unknown else cache.find("hub_listings", key)
        if kept is None:
            raise _cannot_be_had(source, error) from error
        return Listing(**kept.about)
    cache.write("hub_listings", key, lambda _: None, listing._asdict())
    return listing


def _ask_hub(source: HubSource) -> Listing:
    parquet: list[str] = []
    for revision in [source.revision] if source.revision else [None, _CONVERTED]:
        try:
            info = hub.HfApi().dataset_info(source.name, revision=revision)
        except RevisionNotFoundError:
            if revision != _CONVERTED:
                raise
            break  # the hub has made no Parquet version of it
        names = (sibling.rfilename for sibling in info.siblings or ())
        parquet = sorted(name for name in names if name.endswith(".parquet"))
        files = choose_split(parquet, source.split)
        if files and info.sha:
            return Listing(info.sha, files)
        if parquet:
            break
    raise SourceError(
        f"The data set '{source.name}' has no single set of Parquet files for the split '{source.split}' "
        f"(it has {', '.join(map(ascii, parquet[:6])) or 'no Parquet files'}): name another split, or fetch the files "
        "and use them as a source of files."
    )


def choose_split(files: list[str], split: str) -> list[str]:
    """The files of the split, found by a folder or a part of the file's name; none if that is ambiguous.

    Where several configurations hold the split, each in a folder of its own, the one named ``default`` is taken.
    """
    word = re.compile(rf"(?:^|[/._-]){re.escape(split)}(?=[/._-])")
    starts = {name: match.start() for name in files if (match := word.search(name))}
    chosen = list(starts)
    if len({name[:start] for name, start in starts.items()}) > 1:
        chosen = [name for name in chosen if name.startswith("default/")]
    return chosen


def _cannot_be_had(source: HubSource, error: Exception) -> SourceError:
    revision = f" at revision '{source.revision}'" if source.revision else ""
    return SourceError(
        f"The data set '{source.name}'{revision} cannot be had from the hub ({type(error).__name__}: "
        f"{short_reason(error)}): check its name and the network, or use a named corpus or files."
    )
