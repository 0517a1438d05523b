"""Substitutes from a masked language model, as in the paper (section 3.2, DistilBERT).

1. A prompt's text is written out with the varied token replaced by the mask token. White space at the token's start
   stays in front of the mask.
2. One batched pass gives p(word piece | text) at every mask. Special tokens and word pieces that continue a word are
   no substitutes.
3. A word piece becomes text with the original's leading white space, and that becomes token ids of the subject model:
   one or several.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int32, Int64
from torch import Tensor

from n2g_assets.core.errors import SourceError
from n2g_assets.method.probing import Substitute, Vocabulary
from n2g_assets.model.batching import Batch, TokenBudget, pad, run_batches
from n2g_assets.model.folder import loading
from n2g_assets.model.model import SubjectModel

CANDIDATES = 64
"""Word pieces proposed at a position."""
_BATCH_TOKENS = 1024


class MaskedLMProposer:
    """Proposes what a masked language model puts in place of a mask (``method.probing.Proposer``)."""

    name = "masked_lm"

    def __init__(self, folder: Path, model: SubjectModel, vocabulary: Vocabulary) -> None:
        """Load the masked language model of a folder; the subject model encodes the substitutes.

        Raises:
            SourceError: Its files are damaged, or are no masked language model.
        """
        self.subject, self.vocabulary = model, vocabulary
        self.tokenizer, self.masked = _load(folder)
        self.masked.to(model.device)
        self.allowed = _whole_words(self.tokenizer, int(self.masked.get_input_embeddings().weight.shape[0]))
        self.texts = [self.tokenizer.decode([piece]).strip() for piece in range(len(self.allowed))]
        self.allowed &= torch.tensor([bool(text) for text in self.texts])
        edges = self.tokenizer("")["input_ids"]
        self.head, self.tail = edges[: len(edges) // 2], edges[len(edges) // 2 :]
        self.budget = TokenBudget(_BATCH_TOKENS)

    def propose(
        self, prompts: Sequence[Int32[np.ndarray, " length"]], positions: Sequence[Sequence[int]]
    ) -> list[list[list[Substitute]]]:
        """Substitutes for each asked position of each prompt, best first; none for position 0."""
        masks = [(i, p) for i, asked in enumerate(positions) for p in asked if p > 0]
        pieces = self._fill([self._masked(prompts[i], p) for i, p in masks])
        answers = iter([self._substitutes(row, int(prompts[i][p])) for row, (i, p) in zip(pieces, masks, strict=True)])
        return [[next(answers) if p > 0 else [] for p in asked] for asked in positions]

    def _masked(self, prompt: Int32[np.ndarray, " length"], position: int) -> tuple[Int64[np.ndarray, " pieces"], int]:
        """Word pieces of the prompt without BOS, with the mask at ``position``, and the index of the mask in them."""
        texts = [
            b"".join(self.vocabulary.tokens[token_id] for token_id in part).decode(errors="replace")
            for part in (prompt[1:position], prompt[position + 1 :])
        ]
        texts[0] += self._leading_space(int(prompt[position]))
        left, right = (self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
        room = int(self.masked.config.max_position_embeddings) - len(self.head) - len(self.tail) - 1
        left = left[max(0, len(left) - room) :]
        pieces = [*self.head, *left, self.tokenizer.mask_token_id, *right[: room - len(left)], *self.tail]
        return np.array(pieces, np.int64), len(self.head) + len(left)

    def _leading_space(self, token_id: int) -> str:
        text = self.vocabulary.tokens[token_id].decode(errors="replace")
        return text[: len(text) - len(text.lstrip())]

    def _fill(self, masked: Sequence[tuple[Int64[np.ndarray, " pieces"], int]]) -> list[list[int]]:
        """The likeliest word pieces at each mask, best first, ties by id."""
        lengths = np.array([len(pieces) for pieces, _ in masked], np.int64)
        found: list[list[int]] = [[] for _ in masked]
        device = self.masked.device

        def run(batch: Batch) -> None:
            tokens = pad([masked[number][0] for number in batch], self.tokenizer.pad_token_id or 0)
            there = torch.arange(tokens.shape[1])[None, :] < torch.from_numpy(lengths[batch])[:, None]
            at = [masked[number][1] for number in batch]
            with self.subject.lock, torch.inference_mode():
                logits = self.masked(input_ids=tokens.to(device), attention_mask=there.long().to(device)).logits
            chosen = logits[range(len(at)), at].float().masked_fill(~self.allowed.to(device), -torch.inf)
            ranked = chosen.sort(dim=1, descending=True, stable=True)
            values, pieces = (each[:, :CANDIDATES].cpu() for each in ranked)
            for number, value, row in zip(batch, values, pieces, strict=True):
                found[number] = row[torch.isfinite(value)].tolist()

        for _ in run_batches(lengths, self.budget, run):
            pass
        return found

    def _substitutes(self, pieces: Sequence[int], original_id: int) -> list[Substitute]:
        """Word pieces as substitutes of a token, with its leading white space; never the token itself."""
        space = self._leading_space(original_id)
        texts = [space + self.texts[piece] for piece in pieces]
        substitutes = [
            Substitute(text, tuple(ids.tolist())) for text, ids in zip(texts, self.subject.encode(texts), strict=True)
        ]
        return [each for each in substitutes if each.token_ids and each.token_ids != (original_id,)]


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    cure = "give method.masked_lm the folder of one, or set method.proposer: infill"
    with loading(f"The masked language model in {folder}", cure):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        masked, info = AutoModelForMaskedLM.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    if info["missing_keys"]:
        raise SourceError(f"{folder} holds no masked language model (it lacks {min(info['missing_keys'])}): {cure}.")
    if tokenizer.mask_token is None:
        raise SourceError(f"The tokenizer of {folder} has no mask token: {cure}.")
    return tokenizer, masked.eval()


def _whole_words(tokenizer: Any, d_vocab: int) -> Bool[Tensor, " pieces"]:
    """Word pieces that are neither special nor the continuation of a word."""
    special = set(tokenizer.all_special_ids)
    pieces = tokenizer.convert_ids_to_tokens(list(range(min(len(tokenizer), d_vocab))))
    allowed = [
        number not in special and bool(piece) and not piece.startswith(("##", "[unused"))
        for number, piece in enumerate(pieces)
    ]
    return torch.tensor(allowed + [False] * (d_vocab - len(allowed)))
