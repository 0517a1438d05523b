"""Statistics, strongest positions and top contexts of units, chosen from their activations at every token of a corpus.

Of each unit's row of tokens:

1. The moments are float64 sums. A fixed sample of positions, the same for all units, gives the quantiles, and what
   units are correlated by: the unit's deviations there from their mean, as a vector of length 1.
2. Position 0 of every context becomes -inf, so that nothing chooses it, and each context's maximum is taken.
3. The k-th largest maximum bounds the k-th strongest position from below: only what reaches it is looked at. The maxima
   of documents bound the top contexts alike. Of equals the earlier comes first.

Coarse activations, of a pass in bfloat16 or kept in int8, give a shortlist twice as long, and longer where contexts are
as strong as the last one that counts, within ``_SLACK``. The shortlisted contexts of all units are measured again in
float32. A unit's top contexts and a_max are chosen from its own shortlist. Its strongest positions in any context
measured again take the new value and are put in order anew; which positions are listed, all other activations, the
moments and the quantiles stay coarse.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float32, Int64, Num

from n2g_assets.core.mixing import STEP, mixed
from n2g_assets.core.units import Unit
from n2g_assets.evidence.corpus import TokenCorpus

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Those of ``neuron_stats.quantiles``."""
_BLOCK_BYTES = 2**28
"""Of float64, as in the buffer of a row: twice what a block takes."""
_SLACK = 1 / 16
"""Share of an activation by which coarse ones may differ where the exact ones are equal: int8 keeps an activation of a
sixteenth of the largest within half of it."""
SAMPLE = 1024
"""Sampled positions. A correlation r of two units on them has a standard error of about (1 - r^2) / 32: .03 where they
have nothing in common, .006 at r = .9, which is what one looks for. The vectors of a model of 46,080 units take 190 MB;
twice the sample would lower the error by a third, for twice the space and the time of every comparison."""
_LOWEST = np.finfo(np.float32).min
Read = Callable[[Sequence[int]], Float32[np.ndarray, "neurons tokens"]]
"""Activations of some neurons, of no sign, at every token of some contexts, BOS included."""
_Row = Float32[np.ndarray, " tokens"]
_Numbers = Int64[np.ndarray, " n"]


class _Contexts(NamedTuple):
    """Contexts whose tokens stand one behind another."""

    starts: Int64[np.ndarray, " contexts"]
    lengths: Int64[np.ndarray, " contexts"]
    documents: Int64[np.ndarray, " contexts"]

    def cut(self, row: _Row, numbers: _Numbers) -> list[Float32[np.ndarray, " pos"]]:
        """The parts of a row in some contexts."""
        return [row[at : at + n] for at, n in zip(self.starts[numbers], self.lengths[numbers], strict=True)]


class _Entries(NamedTuple):
    """Positions that were chosen of a unit, strongest first, and its activations there, times the sign."""

    contexts: Int64[np.ndarray, " n"]
    positions: Int64[np.ndarray, " n"]
    activations: Float32[np.ndarray, " n"]


def derive(
    read: Read,
    corpus: TokenCorpus,
    units: Sequence[Unit],
    *,
    strongest: int,
    top_contexts: int,
    contexts_per_document: int,
    remeasure: Callable[[pl.Series], Read] | None = None,
    block: int | None = None,
) -> dict[str, pl.DataFrame]:
    """The rows of the tables that the harvest gives, by their names, without study and layer, ordered by key.

    Args:
        read: Finite activations at the tokens of the corpus, in its order.
        corpus: At least one context has two tokens or more (``TokenCorpus.check_harvest``).
        units: At least one, each once. Both signs of a neuron share its row.
        strongest: Positions kept for every unit; all, where there are fewer.
        top_contexts: Strongest contexts kept for every unit; a context of BOS alone is none.
        contexts_per_document: At most this many of them come from one document.
        remeasure: For a coarse ``read``: gets the ids of contexts in the order of the corpus and answers a function
            that reads float32 activations at the tokens of exactly these contexts, in this order.
        block: Neurons whose rows are in memory at once; None: as many as fit into 128 MiB, at least one.
    """
    asked, contexts = sorted(units), _contexts(corpus, np.arange(len(corpus.lengths)))
    sampled, exact = sample_positions(corpus, SAMPLE), np.empty(len(corpus.token_ids))  # one buffer: new memory is slow
    block = block or max(1, _BLOCK_BYTES // exact.nbytes)
    choose = strongest_contexts if remeasure is None else _shortlist
    measured, strong, top, windows = [], [], [], []
    for unit, row in _rows(read, asked, block):
        signed, maxima = _sign(row, unit.sign, contexts)
        exact[:] = signed
        exact[contexts.starts] = 0
        measured.append((exact.sum(), np.square(exact, out=exact).sum(), np.count_nonzero(signed > 0), row[sampled]))
        strong.append(_strongest(signed, maxima, contexts, strongest))
        best = choose(maxima, contexts.documents, top_contexts, contexts_per_document)
        top.append(_peaks(signed, contexts, best))
        if remeasure is None:
            windows += [part * unit.sign for part in contexts.cut(row, best)]
    if remeasure is not None:
        listed = np.unique(np.concatenate([entries.contexts for entries in top]))
        again = _contexts(corpus, listed)
        for number, (unit, row) in enumerate(_rows(remeasure(corpus.context_ids.gather(listed)), asked, block)):
            signed, maxima = _sign(row, unit.sign, again)
            strong[number] = _exchange(strong[number], signed, again, listed)
            own = np.flatnonzero(np.isin(listed, top[number].contexts))
            best = own[strongest_contexts(maxima[own], again.documents[own], top_contexts, contexts_per_document)]
            top[number] = _peaks(signed, again, best)._replace(contexts=listed[best])
            windows += [part * unit.sign for part in again.cut(row, best)]
    return {
        "neuron_stats": _stats(asked, measured, top, len(corpus.token_ids) - len(corpus.lengths)),
        **_sample_frames(asked, np.array([each[-1] for each in measured]), corpus, sampled),
        "activations": _frame(asked, strong, corpus, "position"),
        "top_contexts": _frame(asked, top, corpus, "peak").with_columns(activations=pl.Series(windows)),
    }


def sample_positions(corpus: TokenCorpus, size: int, seed: int = 0) -> Int64[np.ndarray, " sample"]:
    """Where in ``token_ids`` the positions above 0 with the ``size`` smallest hashes of (context, position) stand.

    The smallest hash comes first; where there are fewer than ``size``, which is at least 1, all stand there.
    """
    salt = (seed % 2**128).to_bytes(hashlib.blake2b.SALT_SIZE)
    digests = b"".join(hashlib.blake2b(each.encode(), digest_size=8, salt=salt).digest() for each in corpus.context_ids)
    seeds = np.repeat(np.frombuffer(digests, ">u8").astype(np.uint64), corpus.lengths)
    hashes = (mixed(seeds + corpus.positions.astype(np.uint64) * STEP) >> 1).astype(np.int64)
    places = np.flatnonzero(corpus.positions)
    return places[_largest(-hashes[places], size)]


def _contexts(corpus: TokenCorpus, numbers: _Numbers) -> _Contexts:
    """These contexts of the corpus, as if there were no others."""
    lengths = corpus.lengths[numbers]
    return _Contexts(np.cumsum(lengths) - lengths, lengths, corpus.documents[numbers])


def _rows(read: Read, units: Sequence[Unit], block: int) -> Iterator[tuple[Unit, _Row]]:
    """Each unit, in order, with the row of its neuron."""
    neurons = sorted({unit.number for unit in units})
    for first in range(0, len(neurons), block):
        part = neurons[first : first + block]
        rows = dict(zip(part, read(part), strict=True))
        yield from ((unit, rows[unit.number]) for unit in units if unit.number in rows)


def _sign(row: _Row, sign: int, contexts: _Contexts) -> tuple[_Row, _Row]:
    """The row times the sign, with 0.0 for -0.0 and -inf at position 0; and its largest value in each context."""
    signed = row + 0 if sign > 0 else 0 - row
    signed[contexts.starts] = -np.inf
    return signed, np.maximum.reduceat(signed, contexts.starts)


def _floor(values: Num[np.ndarray, " n"], keep: int) -> np.number:
    """What the ``keep`` largest values reach; the lowest finite number where there are fewer."""
    return max(np.partition(values, -keep)[-keep], _LOWEST) if len(values) >= keep else _LOWEST


def _largest(values: Num[np.ndarray, " n"], keep: int) -> _Numbers:
    """Where the ``keep`` largest finite values stand, largest first, of equals the earlier first."""
    floor = _floor(values, keep)
    above = np.flatnonzero(values > floor)
    chosen = np.concatenate([above, np.flatnonzero(values == floor)[: keep - len(above)]])
    return chosen[np.argsort(-values[chosen], kind="stable")]  # equals stand in order already


def _strongest(signed: _Row, maxima: _Row, contexts: _Contexts, keep: int) -> _Entries:
    reach = np.flatnonzero(signed >= _floor(maxima, keep))
    places = reach[_largest(signed[reach], keep)]
    numbers = np.searchsorted(contexts.starts, places, side="right") - 1
    return _Entries(numbers, places - contexts.starts[numbers], signed[places])


def strongest_contexts(maxima: _Row, documents: _Numbers, keep: int, per_document: int) -> _Numbers:
    """The contexts with the largest maxima, largest first, at most ``per_document`` of one document."""
    by_document = np.full(documents.max() + 1, -np.inf, np.float32)
    np.maximum.at(by_document, documents, maxima)
    reach = np.flatnonzero(maxima >= _floor(by_document, keep))
    numbers = reach[np.argsort(-maxima[reach], kind="stable")]
    order = np.argsort(documents[numbers], kind="stable")
    ordered = documents[numbers][order]
    rank = np.empty_like(order)  # in the document
    rank[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return numbers[rank < per_document][:keep]


def _shortlist(maxima: _Row, documents: _Numbers, keep: int, per_document: int) -> _Numbers:
    """Of twice as many of each document twice as many contexts, and all that may belong to the first ``keep``."""
    last = maxima[strongest_contexts(maxima, documents, keep, per_document)[-1]]
    listed = strongest_contexts(maxima, documents, len(maxima), 2 * per_document)
    return listed[: max(2 * keep, np.count_nonzero(maxima[listed] >= last - _SLACK * abs(last)))]


def _peaks(signed: _Row, contexts: _Contexts, numbers: _Numbers) -> _Entries:
    """The strongest position of each of these contexts, of equals the earliest."""
    positions = np.array([part.argmax() for part in contexts.cut(signed, numbers)])
    return _Entries(numbers, positions, signed[contexts.starts[numbers] + positions])


def _exchange(entries: _Entries, signed: _Row, again: _Contexts, listed: _Numbers) -> _Entries:
    """The entries with what was measured again in the contexts ``listed``, strongest first."""
    numbers, positions, activations = entries
    held = np.isin(numbers, listed)
    activations[held] = signed[again.starts[np.searchsorted(listed, numbers[held])] + positions[held]]
    order = np.lexsort((positions, numbers, -activations))
    return _Entries(numbers[order], positions[order], activations[order])


def _frame(units: Sequence[Unit], entries: Sequence[_Entries], corpus: TokenCorpus, position: str) -> pl.DataFrame:
    """A row for each entry of each unit; ``position`` names the column of its position."""
    counts = [len(each.contexts) for each in entries]
    contexts, positions, activations = (np.concatenate(part) for part in zip(*entries, strict=True))
    return pl.DataFrame(
        {
            "unit": np.repeat(np.array([unit.number for unit in units], np.int32), counts),
            "sign": np.repeat(np.array([unit.sign for unit in units], np.int8), counts),
            "rank": np.concatenate([np.arange(count, dtype=np.int32) for count in counts]),
            "context_id": corpus.context_ids.gather(contexts),
            position: positions.astype(np.int32),
            "activation": activations,
        }
    )


def _sample_frames(
    units: Sequence[Unit], rows: Float32[np.ndarray, "units sample"], corpus: TokenCorpus, sampled: _Numbers
) -> dict[str, pl.DataFrame]:
    """``sampled_positions``, and ``sampled_activations`` given each unit's row there, of no sign."""
    numbers, signs = np.array(units, np.int32).T
    means = rows.mean(axis=1, dtype=np.float64)
    deviations = rows - means[:, None]
    lengths = np.where(np.ptp(rows, axis=1) > 0, np.linalg.norm(deviations, axis=1), 0)
    vectors = signs[:, None] * deviations / np.where(lengths > 0, lengths, 1)[:, None]
    contexts = np.searchsorted(corpus.starts, sampled, side="right") - 1
    context_ids, positions, digest = corpus.context_ids.gather(contexts), corpus.positions[sampled], hashlib.blake2b()
    for context_id, start, end in zip(context_ids, corpus.starts[contexts], sampled, strict=True):
        digest.update(f"{context_id} {end - start}\n".encode())
        digest.update(corpus.token_ids[start : end + 1].tobytes())
    name = digest.hexdigest()[:16]
    of_units = {"unit": numbers, "sign": signs.astype(np.int8), "mean": signs * means, "length": lengths}
    of_positions = {"context_id": context_ids, "position": positions}
    deviating = pl.Series(vectors.astype(np.float32)).cast(pl.List(pl.Float32))
    return {
        "sampled_positions": pl.DataFrame(of_positions).with_columns(
            place=pl.int_range(1, len(sampled) + 1, dtype=pl.Int32), sample=pl.lit(name)
        ),
        "sampled_activations": pl.DataFrame(of_units).with_columns(
            sample=pl.lit(name),
            deviations=pl.when(pl.col("length") > 0).then(deviating),
        ),
    }


def _stats(units: Sequence[Unit], measured: Sequence[tuple], top: Sequence[_Entries], tokens: int) -> pl.DataFrame:
    numbers, signs = np.array(units, np.int32).T
    total, squares, positive, samples = (np.array(part) for part in zip(*measured, strict=True))
    quantiles = np.quantile(samples, QUANTILES, axis=1).T.astype(np.float64)
    mirrored = np.where(signs[:, None] > 0, quantiles, -quantiles[:, ::-1])
    return pl.DataFrame(
        {
            "unit": numbers,
            "sign": signs.astype(np.int8),
            "n_tokens": np.full(len(units), tokens),
            "mean": total / tokens,
            "std": np.sqrt(np.maximum(squares / tokens - (total / tokens) ** 2, 0)),
            "max": np.array([entries.activations[0] for entries in top], np.float64),
            "share_positive": positive / tokens,
            "quantiles": pl.Series(mirrored).cast(pl.List(pl.Float64)),
        }
    )
