"""Substitutes from the subject model's own infill: what would stand here, given the text around it?

1. One pass over the text left of all asked positions of all prompts gives p(token | left) at each; only the logits
   there are computed. The first ``infill_candidates`` by it are candidates; special tokens and pieces of characters
   never are.
2. The best ``infill_rescored`` of them are rescored: log p(candidate | left) plus log p of up to
   ``infill_right_tokens`` tokens to the right, given the left text and the candidate; in one more pass for all.
3. Where nothing stands to the right, the order by p(token | left) stays. Candidates that were not rescored follow.

Texts that begin alike are packed into rows that share their beginning (``packing``), so a prompt is read once for all
candidates of all its positions.

The paper takes substitutes from DistilBERT (section 3.2): see ``masked_lm``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64
from torch import Tensor

from n2g_assets.core.settings import AugmentSettings
from n2g_assets.method.probing import Substitute, Vocabulary
from n2g_assets.model.batching import TokenBudget
from n2g_assets.model.model import SubjectModel
from n2g_assets.model.packing import Places, run_packed

_BATCH_TOKENS = 1024
"""Tokens of a forward pass: few, since each may need a row of logits as long as the vocabulary."""
_TIES = 16
"""So many more candidates than are kept are compared: of equally likely ones the lower token ids are kept."""

Take = Callable[[list[int], Float32[Tensor, "nodes d_vocab"], Int64[Tensor, " asked"]], None]
"""Gets the numbers of texts, log p of every token after different nodes, and which of these each asked token is."""


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
        self.tokens = 0
        """Tokens that went through the model so far, padding not counted."""

    def propose(
        self, prompts: Sequence[Int32[np.ndarray, " length"]], positions: Sequence[Sequence[int]]
    ) -> list[list[list[Substitute]]]:
        """Substitutes for each asked position of each prompt, best first; none for position 0."""
        gaps = [(prompt, p) for prompt, asked in zip(prompts, positions, strict=True) for p in asked if p > 0]
        lefts = [prompt[:p] for prompt, p in gaps]
        rights = [prompt[p + 1 : p + 1 + self.right_tokens] for prompt, p in gaps]
        ids, scores = self._by_left(lefts, np.array([prompt[p] for prompt, p in gaps], np.int64))
        rescored = [number for number, right in enumerate(rights) if len(right)]
        best = ids[rescored, : self.rescored]
        total = scores[rescored, : self.rescored] + self._by_right(
            [lefts[number] for number in rescored], best, [rights[number] for number in rescored]
        )
        for number, old, row in zip(rescored, best, total, strict=True):
            ids[number, : self.rescored] = old[np.lexsort((old, -row))]
        found = [row[np.isfinite(score)].tolist() for row, score in zip(ids, scores, strict=True)]
        answers = iter([[Substitute(self.vocabulary.tokens[i].decode(), (i,)) for i in row] for row in found])
        return [[next(answers) if p > 0 else [] for p in asked] for asked in positions]

    def _by_left(
        self, lefts: Sequence[Int32[np.ndarray, " left"]], originals: Int64[np.ndarray, " gaps"]
    ) -> tuple[Int64[np.ndarray, "gaps candidates"], Float32[np.ndarray, "gaps candidates"]]:
        """Candidates of each gap and their log p(token | left), best first, ties by token id; unused ones have -inf."""
        ids = np.zeros((len(lefts), self.candidates), np.int64)
        scores = np.full((len(lefts), self.candidates), -np.inf, np.float32)

        def take(gaps: list[int], chances: Tensor, which: Tensor) -> None:
            chances.masked_fill_(~self.allowed.to(chances.device), -torch.inf)
            values, found = chances.topk(min(self.candidates + 1 + _TIES, chances.shape[1]), dim=1, sorted=False)
            values, found = values[which], found[which]
            values.masked_fill_(found == torch.from_numpy(originals[gaps]).to(found.device)[:, None], -torch.inf)
            found, by_id = found.sort(dim=1)
            values, by_value = values.gather(1, by_id).sort(dim=1, descending=True, stable=True)
            ids[gaps] = found.gather(1, by_value)[:, : self.candidates].cpu().numpy()
            scores[gaps] = values[:, : self.candidates].cpu().numpy()

        self._read(lefts, [len(left) - 1 for left in lefts], take)
        return ids, scores

    def _by_right(
        self,
        lefts: Sequence[Int32[np.ndarray, " left"]],
        ids: Int64[np.ndarray, "gaps rescored"],
        rights: Sequence[Int32[np.ndarray, " right"]],
    ) -> Float32[np.ndarray, "gaps rescored"]:
        """Log p of the tokens to the right of each gap, given each candidate."""
        variants = [
            (left, candidate, right)
            for left, candidates, right in zip(lefts, ids, rights, strict=True)
            for candidate in candidates
        ]
        texts = [np.array([*left, candidate, *right[:-1]], np.int32) for left, candidate, right in variants]
        scores = np.zeros(len(texts), np.float64)

        def take(numbers: list[int], chances: Tensor, which: Tensor) -> None:
            targets = [variants[number][2] for number in numbers]
            taken = chances[which, torch.from_numpy(np.concatenate(targets)).to(chances.device, torch.long)]
            text_of = np.repeat(np.arange(len(numbers)), [len(right) for right in targets])
            scores[numbers] = np.bincount(text_of, taken.cpu().numpy())

        self._read(texts, [len(left) for left, _, _ in variants], take)
        return scores.reshape(ids.shape).astype(np.float32)

    def _read(self, texts: Sequence[Int32[np.ndarray, " length"]], first: Sequence[int], take: Take) -> None:
        """Reads log p of every token after each text's tokens from number ``first[i]`` on, those of a batch at once."""

        def run(places: Places, tokens: Tensor, inputs: dict[str, Tensor]) -> None:
            nodes: dict[tuple[int, int], int] = {}
            which = [
                nodes.setdefault((row, node), len(nodes)) for text, row, path in places for node in path[first[text] :]
            ]
            logits = self.model.logits(tokens, at=([row for row, _ in nodes], [node for _, node in nodes]), **inputs)
            chances = logits.sub_(logits.logsumexp(dim=1, keepdim=True))
            take([text for text, _, _ in places], chances, torch.tensor(which, device=chances.device))

        with torch.inference_mode():
            self.tokens += sum(run_packed(texts, self.model, self.budget, run))


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
