"""Substitutes from the subject model's own infill: what would stand here, given the text around it?

1. One pass over the text left of all asked positions of all prompts gives p(token | left) at each; only the logits
   there are computed. The first ``infill_candidates`` by it are candidates; special tokens and pieces of characters
   never are.
2. The best ``infill_rescored`` of them are rescored: log p(candidate | left) plus log p of up to
   ``infill_right_tokens`` tokens to the right, given the left text and the candidate; in one more pass for all.
3. Where nothing stands to the right, the order by p(token | left) stays. Candidates that were not rescored follow.

Positions with the same text on both sides are filled once. Texts that begin alike are packed into rows that share
their beginning (``packing``), so a prompt is read once for all candidates of all its positions.

The paper takes substitutes from DistilBERT (section 3.2): see ``masked_lm``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64
from torch import Tensor

from n2g_assets.core.settings import AugmentSettings
from n2g_assets.method.probing import Substitute, Vocabulary
from n2g_assets.model.batching import Batch, TokenBudget, run_batches
from n2g_assets.model.model import SubjectModel
from n2g_assets.model.packing import Row, inputs_of, rows_of

_BATCH_TOKENS = 1024
"""Tokens of a forward pass: few, since each may need a row of logits as long as the vocabulary."""
_TIES = 16
"""So many more candidates than are kept are compared: of equally likely ones the lower token ids are kept."""

Gap = tuple[bytes, bytes]
"""A position to fill, as bytes of token ids: those left of it, BOS included; its own and those to its right."""


class InfillProposer:
    """Proposes the subject model's own infill (``method.probing.Proposer``)."""

    name = "infill"

    def __init__(self, model: SubjectModel, vocabulary: Vocabulary, settings: AugmentSettings) -> None:
        self.model, self.vocabulary = model, vocabulary
        self.right_tokens = settings.infill_right_tokens
        self.allowed = _proposable(model, vocabulary)
        self.candidates = min(settings.infill_candidates, max(1, int(self.allowed.sum()) - 1))
        self.rescored = min(settings.infill_rescored, self.candidates)
        self.budget = TokenBudget(_BATCH_TOKENS)
        self.seconds = 0.0
        """Seconds spent so far."""
        self.tokens = 0
        """Tokens that went through the model so far, padding not counted."""

    def propose(
        self, prompts: Sequence[Int32[np.ndarray, " length"]], positions: Sequence[Sequence[int]]
    ) -> list[list[list[Substitute]]]:
        """Substitutes for each asked position of each prompt, best first; none for position 0."""
        began = time.perf_counter()
        numbers: dict[Gap, int] = {}
        asked = [
            [numbers.setdefault(self._gap(prompt, p), len(numbers)) if p > 0 else None for p in wanted]
            for prompt, wanted in zip(prompts, positions, strict=True)
        ]
        lefts = [np.frombuffer(left, np.int32) for left, _ in numbers]
        rights = [np.frombuffer(right, np.int32) for _, right in numbers]
        ids, scores = self._by_left(lefts, np.array([right[0] for right in rights], np.int64))
        rescored = [number for number, right in enumerate(rights) if len(right) > 1]
        if rescored:
            best = ids[rescored, : self.rescored]
            total = scores[rescored, : self.rescored] + self._by_right(
                [lefts[number] for number in rescored], best, [rights[number][1:] for number in rescored]
            )
            for number, old, row in zip(rescored, best, total, strict=True):
                ids[number, : self.rescored] = old[np.lexsort((old, -row))]
        found = [row[np.isfinite(score)].tolist() for row, score in zip(ids, scores, strict=True)]
        answers = [[Substitute(self.vocabulary.tokens[i].decode(), (i,)) for i in row] for row in found]
        self.seconds += time.perf_counter() - began
        return [[[] if number is None else answers[number] for number in row] for row in asked]

    def _gap(self, prompt: Int32[np.ndarray, " length"], position: int) -> Gap:
        prompt = np.asarray(prompt, np.int32)
        return prompt[:position].tobytes(), prompt[position : position + 1 + self.right_tokens].tobytes()

    def _by_left(
        self, lefts: Sequence[Int32[np.ndarray, " left"]], originals: Int64[np.ndarray, " gaps"]
    ) -> tuple[Int64[np.ndarray, "gaps candidates"], Float32[np.ndarray, "gaps candidates"]]:
        """Candidates of each gap and their log p(token | left), best first, ties by token id; unused ones have -inf."""
        ids = np.zeros((len(lefts), self.candidates), np.int64)
        scores = np.full((len(lefts), self.candidates), -np.inf, np.float32)
        gaps_after: dict[bytes, list[int]] = {}
        for gap, left in enumerate(lefts):
            gaps_after.setdefault(left.tobytes(), []).append(gap)
        gaps = list(gaps_after.values())
        rows = rows_of([np.frombuffer(left, np.int32) for left in gaps_after], self.model.packs)

        def run(batch: Batch) -> None:
            ends = [((index, path[-1]), gap) for index, number in enumerate(batch)
                    for text, path in rows[number].paths.items() for gap in gaps[text]]  # fmt: skip
            chances, which = self._chances([rows[number] for number in batch], [end for end, _ in ends])
            filled = [gap for _, gap in ends]
            chances.masked_fill_(~self.allowed.to(chances.device), -torch.inf)
            values, found = chances.topk(min(self.candidates + 1 + _TIES, chances.shape[1]), dim=1, sorted=False)
            values, found = values[which], found[which]
            values.masked_fill_(found == torch.from_numpy(originals[filled]).to(found.device)[:, None], -torch.inf)
            found, by_id = found.sort(dim=1)
            values, by_value = values.gather(1, by_id).sort(dim=1, descending=True, stable=True)
            ids[filled] = found.gather(1, by_value)[:, : self.candidates].cpu().numpy()
            scores[filled] = values[:, : self.candidates].cpu().numpy()

        self._run(rows, run)
        return ids, scores

    def _by_right(
        self,
        lefts: Sequence[Int32[np.ndarray, " left"]],
        ids: Int64[np.ndarray, "gaps rescored"],
        rights: Sequence[Int32[np.ndarray, " right"]],
    ) -> Float32[np.ndarray, "gaps rescored"]:
        """Log p of the tokens to the right of each gap, given each candidate."""
        texts = [
            np.concatenate([left, [candidate], right[:-1]]).astype(np.int32)
            for left, candidates, right in zip(lefts, ids, rights, strict=True)
            for candidate in candidates
        ]
        scores = np.zeros(len(texts), np.float64)
        rows = rows_of(texts, self.model.packs)

        def run(batch: Batch) -> None:
            read = [
                ((index, node), text, int(token))
                for index, number in enumerate(batch)
                for text, path in rows[number].paths.items()
                for node, token in zip(
                    path[len(lefts[text // ids.shape[1]]) :], rights[text // ids.shape[1]], strict=True
                )
            ]
            chances, which = self._chances([rows[number] for number in batch], [node for node, _, _ in read])
            targets = torch.tensor([token for _, _, token in read], device=chances.device)
            taken = chances[which, targets].cpu().numpy().astype(np.float64)
            texts_read = [text for _, text, _ in read]
            scores[texts_read] = 0.0  # a batch may be run again
            np.add.at(scores, texts_read, taken)

        self._run(rows, run)
        return scores.reshape(ids.shape).astype(np.float32)

    def _chances(
        self, rows: Sequence[Row], at: Sequence[tuple[int, int]]
    ) -> tuple[Float32[Tensor, "nodes d_vocab"], Int64[Tensor, " at"]]:
        """Log p of every token after each different node, a (row, node), and which of them each of ``at`` is."""
        tokens, inputs = inputs_of(rows, self.model.bos_id, self.model.dtype)
        numbers: dict[tuple[int, int], int] = {}
        which = [numbers.setdefault(node, len(numbers)) for node in at]
        logits = self.model.logits(tokens, at=([row for row, _ in numbers], [node for _, node in numbers]), **inputs)
        return logits.sub_(logits.logsumexp(dim=1, keepdim=True)), torch.tensor(which, device=logits.device)

    def _run(self, rows: Sequence[Row], run: Callable[[Batch], None]) -> None:
        lengths = np.array([len(row.tokens) for row in rows], np.int64)
        with torch.inference_mode():
            for batch, _ in run_batches(lengths, self.budget, run):
                self.tokens += int(lengths[batch].sum())


def _proposable(model: SubjectModel, vocabulary: Vocabulary) -> Bool[Tensor, " d_vocab"]:
    """Whether a token id may be proposed: it is text by itself and not special."""
    backend = model.tokenizer.backend
    special = {number for number, token in backend.get_added_tokens_decoder().items() if token.special}
    special |= {*model.tokenizer.transformers.all_special_ids, vocabulary.bos_id, vocabulary.mask_id}
    return torch.tensor([_is_text(token) and number not in special for number, token in enumerate(vocabulary.tokens)])


def _is_text(token: bytes) -> bool:
    try:
        return token.decode() != ""
    except UnicodeDecodeError:
        return False
