"""Substitutes from the subject model's own infill: what would stand here, given the text around it?

1. One pass over the prompts gives p(token | left) at all asked positions; only their logits are computed. The first
   ``infill_candidates`` by it are candidates; special tokens and pieces of characters never are.
2. The best ``infill_rescored`` of them are rescored: log p(candidate | left) plus log p of up to
   ``infill_right_tokens`` tokens to the right, given the left text and the candidate. All of a position's candidates
   stand in one row behind the text left of it, each with its own copy of the text to the right, and a mask keeps them
   from seeing one another: the left text goes through the model once, not once a candidate.
3. Where nothing stands to the right, the order by p(token | left) stays. Candidates that were not rescored follow.

The paper takes substitutes from DistilBERT (section 3.2): see ``masked_lm``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64
from torch import Tensor

from n2g_assets.method.probing import Substitute, Vocabulary
from n2g_assets.settings import MethodSettings
from n2g_assets.subject.batching import batches, pad
from n2g_assets.subject.leaders import pack, unpack
from n2g_assets.subject.model import SubjectModel

_BATCH_TOKENS = 1024
"""Tokens of a pass: few, since each may need a row of logits as long as the vocabulary."""


class _Place(NamedTuple):
    """A position to fill: the token ids left of it (BOS included), and those right of it that are read."""

    left: Int32[np.ndarray, " left"]
    right: Int32[np.ndarray, " right"]


class InfillProposer:
    """Proposes the subject model's own infill (``method.probing.Proposer``)."""

    name = "infill"

    def __init__(self, model: SubjectModel, vocabulary: Vocabulary, settings: MethodSettings) -> None:
        """A proposer.

        Args:
            model: The subject model.
            vocabulary: Its tokens.
            settings: ``infill_candidates``, ``infill_rescored`` and ``infill_right_tokens`` are read.
        """
        self.model, self.vocabulary = model, vocabulary
        self.right_tokens = settings.infill_right_tokens
        self.allowed = _proposable(model, vocabulary)
        self.candidates = min(settings.infill_candidates, max(1, int(self.allowed.sum()) - 1))
        self.rescored = min(settings.infill_rescored, self.candidates)
        self.seconds = 0.0
        """Time spent so far."""
        self.tokens = 0
        """Tokens that went through the model so far, padding not counted."""
        self.shares_left = self._can_share_left()
        """Whether candidates share one reading of the text left of them; some architectures cannot."""

    def propose(
        self, prompts: Sequence[Int32[np.ndarray, " length"]], positions: Sequence[Sequence[int]]
    ) -> list[list[list[Substitute]]]:
        """Substitutes for each asked position of each prompt, best first; none for position 0."""
        began = time.perf_counter()
        places: list[tuple[int, int]] = [(i, p) for i, asked in enumerate(positions) for p in asked if p > 0]
        ids, scores = self._by_left(prompts, places)
        right = [
            (number, _Place(prompts[i][:p], prompts[i][p + 1 : p + 1 + self.right_tokens]))
            for number, (i, p) in enumerate(places)
            if self.right_tokens and p + 1 < len(prompts[i])
        ]
        if right:
            numbers = [number for number, _ in right]
            rescored = self._by_right([place for _, place in right], ids[numbers, : self.rescored])
            total = scores[numbers, : self.rescored] + rescored
            for number, row in zip(numbers, total, strict=True):
                order = np.lexsort((ids[number, : self.rescored], -row))
                ids[number, : self.rescored] = ids[number, order]
        answers = iter([self._substitutes(row, score) for row, score in zip(ids, scores, strict=True)])
        found = [[next(answers) if p > 0 else [] for p in asked] for asked in positions]
        self.seconds += time.perf_counter() - began
        return found

    def _substitutes(
        self, ids: Int64[np.ndarray, " candidates"], scores: Float32[np.ndarray, " candidates"]
    ) -> list[Substitute]:
        found = ids[: int(np.isfinite(scores).sum())].tolist()
        return [Substitute(self.vocabulary.tokens[token_id].decode(), (token_id,)) for token_id in found]

    def _by_left(
        self, prompts: Sequence[Int32[np.ndarray, " length"]], places: Sequence[tuple[int, int]]
    ) -> tuple[Int64[np.ndarray, "places candidates"], Float32[np.ndarray, "places candidates"]]:
        """Candidates of each place by log p(token | left), best first, ties by token id; then -inf."""
        ids = np.zeros((len(places), self.candidates), np.int64)
        scores = np.full((len(places), self.candidates), -np.inf, np.float32)
        numbers = sorted({i for i, _ in places})
        of_prompt: dict[int, list[int]] = {i: [] for i in numbers}
        for number, (i, _) in enumerate(places):
            of_prompt[i].append(number)
        read = [
            prompts[i][: max(places[n][1] for n in of_prompt[i])] for i in numbers
        ]  # nothing right of the last place
        for batch in batches(np.array([len(tokens) for tokens in read], np.int64), _BATCH_TOKENS):
            asked = [number for row in batch for number in of_prompt[numbers[row]]]
            rows = [row for row, prompt in enumerate(batch) for _ in of_prompt[numbers[prompt]]]
            logits = self.model.logits(
                pad([read[row] for row in batch], self.model.bos_id), at=(rows, [places[n][1] - 1 for n in asked])
            )
            self.tokens += sum(len(read[row]) for row in batch)
            chances = logits - logits.logsumexp(dim=1, keepdim=True)
            chances.masked_fill_(~self.allowed.to(logits.device), -torch.inf)
            originals = torch.tensor([int(prompts[places[n][0]][places[n][1]]) for n in asked], device=logits.device)
            chances.scatter_(1, originals[:, None], -torch.inf)
            entries = pack(chances, torch.arange(chances.shape[1], device=logits.device).expand_as(chances))
            best, found = unpack(entries.topk(self.candidates, dim=1).values)
            ids[asked], scores[asked] = found.cpu().numpy(), best.cpu().numpy()
        return ids, scores

    def _by_right(
        self, places: Sequence[_Place], ids: Int64[np.ndarray, "places rescored"]
    ) -> Float32[np.ndarray, "places rescored"]:
        """Log p of the tokens to the right of each place, after each candidate."""
        scores = np.zeros(ids.shape, np.float32)
        share = self.shares_left
        new = np.array([len(place.right) for place in places], np.int64) * ids.shape[1]
        left = np.array([len(place.left) for place in places], np.int64)
        for batch in batches(left + new if share else left * ids.shape[1] + new, _BATCH_TOKENS):
            score = self._in_one_row if share else self._one_by_one
            scores[batch] = score([places[number] for number in batch], ids[batch])
        return scores

    def _in_one_row(
        self, places: Sequence[_Place], ids: Int64[np.ndarray, "places rescored"]
    ) -> Float32[np.ndarray, "places rescored"]:
        """As :meth:`_by_right`, a row a place: left, then each candidate with the right but for its last token."""
        rows, blocks, positions, at_rows, at_positions = [], [], [], [], []
        for row, (place, candidates) in enumerate(zip(places, ids, strict=True)):
            left, right = len(place.left), len(place.right)
            copies = np.tile(place.right, (len(candidates), 1))
            tails = np.concatenate([candidates[:, None], copies[:, :-1]], axis=1)
            rows.append(np.concatenate([place.left, tails.ravel()]))
            blocks.append(np.concatenate([np.zeros(left, int), np.repeat(np.arange(1, len(candidates) + 1), right)]))
            positions.append(np.concatenate([np.arange(left), np.tile(np.arange(left, left + right), len(candidates))]))
            at_rows.append(np.full(tails.size, row))
            at_positions.append(np.arange(left, left + tails.size))
        self.tokens += sum(map(len, rows))
        logits = self.model.logits(
            pad(rows, self.model.bos_id),
            at=(np.concatenate(at_rows).tolist(), np.concatenate(at_positions).tolist()),
            attention_mask=_mask(pad(blocks, -1), self.model),
            position_ids=pad(positions, 0).to(self.model.device),
        )
        return _sums(logits, places, ids.shape[1])

    def _one_by_one(
        self, places: Sequence[_Place], ids: Int64[np.ndarray, "places rescored"]
    ) -> Float32[np.ndarray, "places rescored"]:
        """As :meth:`_by_right`, a row a candidate."""
        rows: list[np.ndarray] = []
        at_rows: list[int] = []
        at_positions: list[int] = []
        for place, candidates in zip(places, ids, strict=True):
            for candidate in candidates:
                left, right = len(place.left), len(place.right)
                at_rows += [len(rows)] * right
                at_positions += range(left, left + right)
                rows.append(np.concatenate([place.left, [candidate], place.right[:-1]]))
        self.tokens += sum(map(len, rows))
        return _sums(self.model.logits(pad(rows, self.model.bos_id), at=(at_rows, at_positions)), places, ids.shape[1])

    def _can_share_left(self) -> bool:
        """Whether both ways of rescoring agree, on one short place: they do where masks and positions are heeded."""
        tokens = self.allowed.nonzero().flatten().cpu().numpy()
        some = tokens[np.linspace(0, len(tokens) - 1, 8).astype(int)].astype(np.int32)
        place = _Place(np.concatenate([[self.model.bos_id], some[:3]]).astype(np.int32), some[3:6])
        try:
            shared = self._in_one_row([place], some[None, 5:8].astype(np.int64))
        except (TypeError, ValueError, RuntimeError, IndexError):
            return False
        finally:
            self.tokens = 0
        apart = self._one_by_one([place], some[None, 5:8].astype(np.int64))
        self.tokens = 0
        return bool(np.allclose(shared, apart, rtol=1e-3 if self.model.dtype == torch.float32 else 0.05, atol=1e-2))


def _proposable(model: SubjectModel, vocabulary: Vocabulary) -> Bool[Tensor, " d_vocab"]:
    """Token ids that may be proposed: text of its own, and not special."""
    backend = model.tokenizer.backend
    special = {number for number, token in backend.get_added_tokens_decoder().items() if token.special}
    special |= {*model.tokenizer.transformers.all_special_ids, vocabulary.bos_id, vocabulary.mask_id}
    allowed = [
        bool(token) and number not in special and _is_text(token) for number, token in enumerate(vocabulary.tokens)
    ]
    return torch.tensor(allowed)


def _is_text(token: bytes) -> bool:
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True


def _mask(blocks: Int64[Tensor, "batch pos"], model: SubjectModel) -> Tensor:
    """What is added to attention: a token sees what stands before it in its own block (from 1) and in block 0."""
    blocks = blocks.to(model.device)
    seen = (blocks[:, None, :] == 0) | (blocks[:, None, :] == blocks[:, :, None])
    seen &= torch.ones(blocks.shape[1], blocks.shape[1], dtype=torch.bool, device=model.device).tril()
    hidden = torch.finfo(model.dtype).min
    return torch.zeros(seen.shape, dtype=model.dtype, device=model.device).masked_fill_(~seen, hidden)[:, None]


def _sums(
    logits: Float32[Tensor, "n d_vocab"], places: Sequence[_Place], candidates: int
) -> Float32[np.ndarray, "places candidates"]:
    """Log p of the right tokens, summed for each candidate; ``logits`` go place by place, candidate by candidate."""
    targets = torch.from_numpy(np.concatenate([np.tile(place.right, candidates) for place in places]).astype(np.int64))
    chances = logits.gather(1, targets.to(logits.device)[:, None])[:, 0] - logits.logsumexp(dim=1)
    parts = chances.cpu().numpy().astype(np.float64)
    starts = np.cumsum([0, *(len(place.right) for place in places for _ in range(candidates))])
    return np.add.reduceat(parts, starts[:-1]).reshape(len(places), candidates).astype(np.float32)
