"""Every error that a user can cause or cure; each message names the cause and the cure in one sentence.

A stage that meets one of these stops, leaves what was there, and the next run goes on from it. Whatever
concerns a single unit is no error: it becomes that unit's row in the ledger.
"""

_LONGEST = 300
"""Characters of what another library says, at the most."""


class N2GError(Exception):
    """Base of the errors that name their cause and their cure."""


class SettingsError(N2GError):
    """A setting is unknown, out of range, or does not fit the subject model."""


class SourceError(N2GError):
    """A model or corpus source cannot be had, is damaged, or has the wrong sha256."""


class SubjectError(N2GError):
    """The subject model does not fit the study: a layer, neuron or hook it lacks, or logits that differ."""


class RowsError(N2GError):
    """Rows that a computation is given do not belong together: other tokens, a missing parent or context."""


class CorpusError(N2GError):
    """The corpus is missing, empty, not UTF-8, or too small."""


class StorageError(N2GError):
    """N2G_HOME cannot be written, a slice or the database is damaged, or another run holds a lock."""


class MissingError(N2GError):
    """A study, a layer, a unit or a page that is asked for is not in the published database."""


class LimitError(N2GError):
    """A question to the published database takes too long, too much memory, or asks for too much at once."""


class QueryError(N2GError):
    """A statement in SQL or what a search asks for is mistaken, or does something else than read."""


def short_reason(error: BaseException) -> str:
    """What another library says, in one line; of a long text the sentences, else the words, that fit."""
    said = " ".join(str(error).split()) or type(error).__name__
    if len(said) > _LONGEST:
        said = said[:_LONGEST]
        said = said[: said.rindex(". ")] if ". " in said else (said.rpartition(" ")[0] or said) + " ..."
    return said if said.endswith("...") else said.rstrip(" .")
