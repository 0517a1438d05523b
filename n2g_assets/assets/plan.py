"""What a run of a study takes: passes, tokens, disk, memory and time, said before it is begun (``n2g plan``).

Tokens and bytes are exact, as far as what is on disk is whole; of what is measured again after a coarse harvest, and of
the contexts that graphs will ask for, the most is said. The time is extrapolated from a forward pass on this machine: a
unit takes as long as a pass of ``UNIT_TOKENS`` tokens to its layer, and ``HOST_SECONDS`` at least. Units that the study
has scored already count as done; whether a changed setting makes them stale is not looked at.
"""

import resource
import shutil
import sys
from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from n2g_assets.assets import activation_cache
from n2g_assets.assets.progress import clock
from n2g_assets.assets.session import Session
from n2g_assets.core.home import MINIMUM_FREE_BYTES
from n2g_assets.evidence.plan import DTYPES, plan_evidence
from n2g_assets.evidence.suffixes import BYTES as SUFFIX_BYTES
from n2g_assets.report.text import counted, human_bytes, layers_listed, table_text
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.slices import SliceKey

UNIT_TOKENS = 3_500
"""In the study ``demo`` 1,700 at layer 0, 2,000 at layer 7 and 4,200 at layer 15, which needs longer contexts."""
HOST_SECONDS = 1.2
"""Of a unit's graph and its scores, which a faster device does not shorten: measured on 16 cores beside a GPU."""
_BUFFER_BYTES = 2**30
"""About what a run holds at once beside the model: rows of a batch, logits of proposals, rows of a block of units."""


class _Run(NamedTuple):
    """What one run has to do, of layers that go through the pipeline together."""

    layers: Sequence[int]
    units: int
    passes: int
    tokens: int
    kept_bytes: int
    in_work_bytes: int
    """Disk that it needs for a while besides."""
    seconds: float


def plan_text(session: Session, runs: Sequence[Sequence[int]]) -> str:
    """The plan of some runs of a study whose model and corpus are there; a forward pass is timed.

    ``runs`` gives the layers of each, ascending.
    """
    from n2g_assets.evidence.store import tokens_a_second

    session.learning.check()
    settings, deepest = session.settings, max(map(max, runs))
    model = session.subject(settings.harvest.dtype)
    speed = tokens_a_second(model, deepest, settings.harvest)
    harvested = set[int]()
    parts = [_plan(session, layers, harvested, speed * (deepest + 1)) for layers in runs]
    shown = pl.DataFrame(
        {
            "run": [layers_listed(each.layers) for each in parts],
            "units": [each.units for each in parts],
            "passes": [each.passes for each in parts],
            "tokens": [f"{each.tokens:,}" for each in parts],
            "evidence": [human_bytes(each.kept_bytes) for each in parts],
            "time": [clock(each.seconds) for each in parts],
        }
    )
    dropped = settings.layers_at_once != "all" and not settings.keep_evidence
    disk = (max if dropped else sum)(each.kept_bytes for each in parts) + max(each.in_work_bytes for each in parts)
    free = shutil.disk_usage(session.home.store).free - MINIMUM_FREE_BYTES
    advice = ": TOO LITTLE; set layers_at_once to a smaller count, or harvest.evidence_dtype to int8"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform != "darwin" else 1)
    tokens = {"harvest": session.corpus, **session.scored_corpora}
    if any(session.learning.is_scanned(layer) for layers in runs for layer in layers):
        tokens["the scan"] = session.learning.scan_corpus
    what = f"{model.name} in {settings.harvest.dtype} on {model.device.type}"
    head = f"Study '{session.study.name}': {what}, {counted(sum(map(len, runs)), 'layer')}"
    return "\n".join(
        [
            f"{head}; what is done already is not counted.\n",
            table_text(shown),
            "",
            "Text:   " + ", ".join(f"{len(corpus.token_ids):,} tokens of {name}" for name, corpus in tokens.items()),
            f"Disk:   {human_bytes(disk)} for new evidence at once, {'dropped' if dropped else 'kept'} afterwards; "
            f"{human_bytes(free)} may be taken{'' if disk <= free else advice}",
            f"Memory: about {human_bytes(peak + _BUFFER_BYTES)}",
            f"Time:   about {clock(sum(each.seconds for each in parts))} if nothing else runs; a pass to layer "
            f"{deepest} reads {speed:,.0f} tokens a second here",
        ]
    )


def _plan(session: Session, layers: Sequence[int], harvested: set[int], speed: float) -> _Run:
    """The plan of one run; a pass reads ``speed / (layer + 1)`` tokens a second up to a layer.

    ``harvested`` is what earlier runs harvest, to which this one's layers are added.
    """
    units = {layer: _units_without(session, "evaluation", layer) for layer in layers}
    earlier = set(harvested)
    to_harvest = [layer for layer in activation_cache.to_harvest(session, layers) if layer not in earlier]
    harvested.update(to_harvest)
    to_score = list(layers) if any(units.values()) else []
    to_read = to_score if session.settings.preset != "paper" else []  # what baselines learn from, if it was dropped
    to_learn = sorted({*to_harvest, *to_read} - earlier)
    corpora = [(session.corpus, session.settings.harvest, to_learn)]
    scanned = [layer for layer in to_learn if session.learning.is_scanned(layer)]
    if scanned:
        corpora.append((session.learning.scan_corpus, session.text_settings, scanned))
    windows = session.scored_corpora.get("windows")
    if windows is not None:
        to_measure = list(layers) if any(_units_without(session, "reach", layer) for layer in layers) else []
        corpora.append((windows, session.text_settings, to_measure))
        to_score = to_score or to_measure  # the windows are compared with the texts
    corpora += [(corpus, session.text_settings, to_score) for corpus in session.text_corpora.values()]
    passes = tokens = kept_bytes = in_work = 0
    seconds = sum(units[layer] * max(UNIT_TOKENS * (layer + 1) / speed, HOST_SECONDS) for layer in layers)
    for corpus, settings, stale in corpora:
        plan = plan_evidence(
            session.model_row, corpus, session.neurons(stale), settings, Cache(session.home), trusting=True
        )
        passes += plan.tokens > 0
        tokens += plan.tokens
        kept, besides = plan.new_bytes(settings.evidence_dtype)
        kept_bytes, in_work = kept_bytes + kept, max(in_work, besides)
        seconds += plan.tokens * (max(stale, default=0) + 1) / speed
    for layer in to_learn if session.learning.asked else []:  # each in a pass of its own
        read, neurons = session.learning.most_tokens(layer), len(session.neurons([layer])[layer])
        passes, tokens, seconds = passes + 1, tokens + read, seconds + read * (layer + 1) / speed
        kept_bytes += DTYPES[session.settings.harvest.evidence_dtype].itemsize * read * neurons
        kept_bytes += SUFFIX_BYTES * (len(session.corpus.token_ids) + read)  # its text is no other layer's
    if session.settings.harvest != session.settings.harvest.exact:  # strongest contexts are measured again
        shortlist = 2 * session.settings.method.top_contexts * session.settings.harvest.context_length
        for layer in to_harvest:
            read = min(len(session.corpus.token_ids), shortlist * len(session.units(layer)))
            in_work = max(in_work, 4 * read * len(session.neurons([layer])[layer]))
            tokens += read
            seconds += read * (layer + 1) / speed
    return _Run(layers, sum(units.values()), passes, tokens, kept_bytes, in_work, seconds)


def _units_without(session: Session, table: str, layer: int) -> int:
    """How many units of a layer are still to get their rows of a table."""
    manifest = session.store.manifest(SliceKey(table, session.study.name, layer))
    done = manifest.unit_hashes if manifest else {}
    return sum(str(unit) not in done for unit in session.units(layer))
