"""Targeted contexts: those of further text in which a unit's graph expects most, to be measured on the model.

What the harvest hardly has is what a unit fires on. A graph that was grown on the harvest says where it expects the
unit to fire; what the model does there shows where the graph is right and where it is not.
"""

import itertools

import numpy as np

from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.derive import strongest_contexts
from n2g_assets.method.classes import FOREVER, ClassGraph

_TOGETHER = 2**19
"""Tokens, and the rest of their last context, that a graph reads at a time: some 30 bytes each."""
TARGETED_VERSION = 1
"""Raised when others would be chosen."""


def ask(graph: ClassGraph, corpus: TokenCorpus, number: int, per_document: int) -> list[int]:
    """The ``number`` contexts of a corpus in which a graph expects most at its strongest token, the strongest first.

    At most ``per_document`` are of one document. BOS expects nothing; of equals the earlier comes first.
    """
    firsts = np.unique(np.searchsorted(corpus.starts, np.arange(0, len(corpus.token_ids), _TOGETHER)))
    maxima = np.empty(len(corpus.lengths), np.float32)
    for first, last in itertools.pairwise([*firsts.tolist(), len(maxima)]):
        here = slice(corpus.starts[first], corpus.starts[last])
        expected = graph.predict_sizes(corpus.token_ids[here], corpus.positions[here], [FOREVER])[0]
        expected[corpus.positions[here] == 0] = -np.inf
        maxima[first:last] = np.maximum.reduceat(expected, corpus.starts[first:last] - here.start)
    return strongest_contexts(maxima, corpus.documents, number, per_document).tolist()
