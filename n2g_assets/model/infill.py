"""Substitutes from the subject model's own infill: what would stand here, given the text around it?

1. One pass over the text left of all asked positions of all prompts gives p(token | left) at each; only the logits
   there are computed. The first ``infill_candidates`` by it are candidates; special tokens and pieces of characters
   never are.
2. The best ``infill_rescored`` of them are rescored: log p(candidate | left) plus log p of up to
   ``infill_right_tokens`` tokens to the right, given the left text and the candidate; in one more pass for all.
3. Where nothing stands to the right, the order by p(token | left) stays. Candidates that were not rescored follow.
   Where nothing stands to the left either that the model reads, the mask does.

Texts that begin alike are packed into rows that share their beginning (``packing``), so a prompt is read once for all
candidates of all its positions.

The paper takes substitutes from DistilBERT (section 3.2): see ``masked_lm``.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64
from torch import Tensor

from n2g_assets.core.settings import AugmentSettings
from n2g_assets.method.probing import Substitute, Vocabulary
from n2g_assets.model.batching import TokenBudget, ranges, to_device
from n2g_assets.model.model import SubjectModel
from n2g_assets.model.packing import PackedBatch, run_packed

_BATCH_TOKENS = 1024
"""Tokens of a forward pass: few, since each may need a row of logits as long as the vocabulary."""
_TIES = 16
"""So many more candidates than are kept are compared: of equally likely ones the lower token ids are kept."""

Reduce = Callable[[np.ndarray, Tensor, Tensor], tuple[Tensor, ...]]
"""Gets the numbers of tokens, log p of every token after different nodes [node, token id], and each token's node."""


class InfillProposer:
    """Proposes the subject model's own infill (``method.probing.Proposer``)."""

    name = "infill"

    def __init__(self, model: SubjectModel, vocabulary: Vocabulary, settings: AugmentSettings) -> None:
        self.model, self.vocabulary = model, vocabulary
        self.right_tokens = settings.infill_right_tokens
        self.allowed = _proposable(model, vocabulary).to(model.device)
        self.candidates = min(settings.infill_candidates, max(1, int(self.allowed.sum()) - 1))
        self.rescored = min(settings.infill_rescored, self.candidates)
        self.budget = TokenBudget(_BATCH_TOKENS)
        self.tokens = 0
        """Tokens that went through the model so far, padding not counted."""

    def propose(
        self, prompts: Sequence[Int32[np.ndarray, " length"]], positions: Sequence[Sequence[int]]
    ) -> list[list[list[Substitute]]]:
        """Substitutes for each asked position of each prompt, best first; none for position 0."""
        gaps = [(prompt, p) for prompt, asked in zip(prompts, positions, strict=True) for p in asked if p > 0]
        begun = np.array([self.model.mask_id], np.int32)
        lefts = [prompt[:p] if p > self.model.unread else np.append(prompt[:p], begun) for prompt, p in gaps]
        rights = [prompt[p + 1 : p + 1 + self.right_tokens] for prompt, p in gaps]
        ids, scores = self._by_left(lefts, np.array([prompt[p] for prompt, p in gaps], np.int64))
        rescored = [number for number, right in enumerate(rights) if len(right)]
        best = ids[rescored, : self.rescored]
        total = scores[rescored, : self.rescored] + self._by_right(
            [lefts[number] for number in rescored], best, [rights[number] for number in rescored]
        )
        ids[rescored, : self.rescored] = np.take_along_axis(best, np.lexsort((best, -total)), axis=1)
        usable, tokens = np.isfinite(scores), self.vocabulary.tokens
        made = {i: Substitute(tokens[i].decode(), (i,)) for i in np.unique(ids[usable]).tolist()}
        answers = iter([[made[i] for i in row[able].tolist()] for row, able in zip(ids, usable, strict=True)])
        return [[next(answers) if p > 0 else [] for p in asked] for asked in positions]

    def _by_left(
        self, lefts: Sequence[Int32[np.ndarray, " left"]], originals: Int64[np.ndarray, " gaps"]
    ) -> tuple[Int64[np.ndarray, "gaps candidates"], Float32[np.ndarray, "gaps candidates"]]:
        """Candidates of each gap and their log p(token | left), best first, ties by token id; unused ones have -inf."""
        ids = np.zeros((len(lefts), self.candidates), np.int64)
        scores = np.full((len(lefts), self.candidates), -np.inf, np.float32)

        def best(gaps: Int64[np.ndarray, " asked"], chances: Tensor, which: Tensor) -> tuple[Tensor, ...]:
            chances.masked_fill_(~self.allowed, -torch.inf)
            values, found = chances.topk(min(self.candidates + 1 + _TIES, chances.shape[1]), dim=1, sorted=False)
            values, found = values[which], found[which]
            values.masked_fill_(found == to_device(originals[gaps], found.device)[:, None], -torch.inf)
            found, by_id = found.sort(dim=1)
            values, by_value = values.gather(1, by_id).sort(dim=1, descending=True, stable=True)
            return found.gather(1, by_value)[:, : self.candidates], values[:, : self.candidates]

        for gaps, (found, values) in self._read(lefts, np.ones(len(lefts), np.int64), best):
            ids[gaps], scores[gaps] = found, values
        return ids, scores

    def _by_right(
        self,
        lefts: Sequence[Int32[np.ndarray, " left"]],
        ids: Int64[np.ndarray, "gaps rescored"],
        rights: Sequence[Int32[np.ndarray, " right"]],
    ) -> Float32[np.ndarray, "gaps rescored"]:
        """Log p of the tokens to the right of each gap, given each candidate."""
        texts: list[Int32[np.ndarray, " length"]] = []
        for left, candidates, right in zip(lefts, ids, rights, strict=True):
            variants = np.tile(np.concatenate([left, right[:1], right[:-1]]), (len(candidates), 1))
            variants[:, len(left)] = candidates
            texts += [*variants]
        sizes = np.repeat(np.array([*map(len, rights)], np.int64), self.rescored)
        text_of = np.repeat(np.arange(len(texts)), sizes)
        targets = np.concatenate([np.zeros(0, np.int64), *(np.tile(right, self.rescored) for right in rights)])
        scores = np.zeros(len(texts), np.float64)

        def take(asked: Int64[np.ndarray, " asked"], chances: Tensor, which: Tensor) -> tuple[Tensor]:
            return (chances[which, to_device(targets[asked], chances.device)],)

        for asked, (taken,) in self._read(texts, sizes, take):
            np.add.at(scores, text_of[asked], taken)
        return scores.reshape(ids.shape).astype(np.float32)

    def _read(
        self, texts: Sequence[Int32[np.ndarray, " length"]], sizes: Int64[np.ndarray, " texts"], reduce: Reduce
    ) -> Iterator[tuple[Int64[np.ndarray, " asked"], list[np.ndarray]]]:
        """Reads log p of every token after each of the last ``sizes[i]`` tokens of text i; these are numbered through.

        Yields:
            Of each batch the numbers of these tokens, and what ``reduce`` makes of log p after them, on the host.
        """
        lengths = np.array([*map(len, texts)], np.int64)
        numbers = np.full(lengths.sum(), -1)
        numbers[ranges(np.cumsum(lengths) - sizes, sizes)] = np.arange(sizes.sum())

        def run(batch: PackedBatch) -> tuple[Tensor, ...]:
            asked = numbers[batch.places]
            cells, which = np.unique(batch.cells[asked >= 0], return_inverse=True)
            with torch.inference_mode():
                logits = self.model.logits(batch.tokens, divmod(cells, batch.tokens.shape[1]), **batch.inputs)
                chances = logits.sub_(logits.logsumexp(dim=1, keepdim=True))
                return reduce(asked[asked >= 0], chances, to_device(which, chances.device))

        for batch, found in run_packed(texts, self.model, self.budget, run):
            self.tokens += batch.n_tokens
            asked = numbers[batch.places]
            yield asked[asked >= 0], found


def _proposable(model: SubjectModel, vocabulary: Vocabulary) -> Bool[Tensor, " d_vocab"]:
    """Whether a token id may be proposed: it is text by itself and not special."""
    backend = model.tokenizer.backend
    special = {number for number, token in backend.get_added_tokens_decoder().items() if token.special}
    special |= {*model.tokenizer.transformers.all_special_ids, vocabulary.bos_id, vocabulary.mask_id}
    tokens = vocabulary.tokens[: model.d_vocab]
    return torch.tensor([_is_text(token) and number not in special for number, token in enumerate(tokens)])


def _is_text(token: bytes) -> bool:
    try:
        return token.decode() != ""
    except UnicodeDecodeError:
        return False
