"""Where the tokenizer of a published study's model lies on this machine; nothing is fetched or converted for that."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from n2g_assets.core.home import Home
from n2g_assets.storage.cache import Cache

TOKENIZER = "tokenizer.json"


def tokenizer_file(facts: Mapping[str, Any], subject: Mapping[str, Any], folder: Path, home: Home) -> Path | None:
    """The ``tokenizer.json`` of a model, if it is here.

    Args:
        facts: its row of ``subject_models``.
        subject: the study's setting ``subject``.
        folder: the study's, from which a relative path counts.
        home: whose cache holds models that were converted or drawn anew.
    """
    return next((path for path in _places(facts, subject, folder, home) if path.is_file()), None)


def _places(facts: Mapping[str, Any], subject: Mapping[str, Any], folder: Path, home: Home) -> Iterator[Path]:
    models = Cache(home).folder("models")
    for provenance in sorted(models.glob("*/provenance.json")):
        with suppress(OSError, ValueError, AttributeError):
            if json.loads(provenance.read_text(encoding="utf-8")).get("file_sha256") == facts["file_sha256"]:
                yield provenance.with_name(TOKENIZER)
    if facts["source"] == "hub":
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(subject["name"], TOKENIZER, revision=facts["revision"])
        if isinstance(found, str):
            yield Path(found)
    if facts["source"] == "local":
        yield folder / Path(subject["path"]).expanduser() / TOKENIZER
