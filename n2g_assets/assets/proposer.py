"""What proposes substitutes of tokens, as a study's settings name it: the subject model or a masked language model."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from n2g_assets.assets.session import Session
from n2g_assets.core.settings import AugmentSettings
from n2g_assets.method.probing import Proposer

if TYPE_CHECKING:
    from n2g_assets.model.sources import SubjectFiles


@lru_cache(maxsize=1)
def masked_lm(session: Session) -> SubjectFiles:
    """The masked language model on disk, fetched if it is not there yet."""
    from n2g_assets.model.sources import resolve_masked_lm

    return resolve_masked_lm(session.settings.method.masked_lm, study_folder=session.study.folder)


def proposer_identity(session: Session) -> str | None:
    """The content hash of the model that proposes substitutes; None where it is the subject model itself."""
    return masked_lm(session).file_sha256 if session.settings.method.proposer == "masked_lm" else None


@lru_cache(maxsize=1)
def proposer_of(session: Session) -> Proposer:
    """The proposer of substitutes that the settings name, loaded once for a session."""
    if session.settings.method.proposer == "masked_lm":
        from n2g_assets.model.masked_lm import MaskedLMProposer

        return MaskedLMProposer(masked_lm(session).folder, session.subject(), session.vocabulary)
    from n2g_assets.model.infill import InfillProposer

    return InfillProposer(session.subject(), session.vocabulary, session.settings.method.part(AugmentSettings))
