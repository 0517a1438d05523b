"""Batches of prompts of similar length, padded on the right, as large as memory allows.

A batch holds at most a budget of tokens. Where the device runs out of memory, the budget is halved for this batch and
all later ones, and the work goes on: no prompt is left out.

On cuda the host goes on while the device computes: what is copied passes through pinned memory, and a batch is waited
for once the next has been launched.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from n2g_assets.core.errors import SubjectError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Batch = Int64[np.ndarray, " batch"]
"""Numbers of prompts that go through the model together."""

_SIMILAR_LENGTH = 0.8
"""A prompt shorter than this share of the longest of its batch waits for the next one, if the batch is efficient."""
_EFFICIENT_SHARE = 0.25
"""Share of the budget from which a batch is efficient."""
_NO_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED", "bad_alloc")
"""Parts of the messages of devices that have no memory left."""


@dataclass
class TokenBudget:
    """The largest number of tokens of one forward pass, padding included; shared by all callers on one device."""

    tokens: int

    def halve(self, batch_tokens: int) -> None:
        """Allow at most half of the tokens of a batch that ran out of memory, or of the budget, from now on."""
        self.tokens = max(1, min(self.tokens, batch_tokens) // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning("The device ran out of memory: going on with batches of at most %d tokens.", self.tokens)


def run_batches(
    lengths: Int64[np.ndarray, " prompts"], budget: TokenBudget, run: Callable[[Batch], Result]
) -> Iterator[tuple[Batch, Result]]:
    """Runs prompts batch by batch, the longest first; where memory runs out, the same prompts again in smaller batches.

    Yields:
        Each batch and what ``run`` gave for it; ``run`` may be called again for a part of the same prompts.

    Raises:
        SubjectError: A single prompt does not fit into memory.
    """
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        rows, fits = _next_batch(lengths, order, budget.tokens), True
        try:
            result = run(rows)
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(rows) == 1:
                raise SubjectError(
                    f"The device has no memory left for a single text of {int(lengths[rows[0]])} tokens: close other "
                    "programs, lower harvest.context_length, or set harvest.device to cpu."
                ) from error
            fits = False
        if not fits:  # outside the except block, where the exception no longer holds the batch's memory
            budget.halve(len(rows) * int(lengths[rows[0]]))
            continue
        yield rows, result
        order = order[len(rows) :]


def on_host(launched: Iterable[tuple[Result, tuple[Tensor, ...]]]) -> Iterator[tuple[Result, list[np.ndarray]]]:
    """Each item with its tensors on the host, once the next item is there: the host prepares one while another runs."""
    under_way = deque[tuple[Result, list[Tensor], list[torch.cuda.Event]]]()
    for item, tensors in launched:
        copies = [tensor.to("cpu", non_blocking=tensor.is_cuda) for tensor in tensors]  # from cuda into pinned memory
        events = [torch.cuda.current_stream(tensor.device).record_event() for tensor in tensors if tensor.is_cuda]
        under_way.append((item, copies, events))
        if len(under_way) > 1:
            yield _arrived(*under_way.popleft())
    yield from starmap(_arrived, under_way)


def _arrived(item: Result, copies: list[Tensor], events: list[torch.cuda.Event]) -> tuple[Result, list[np.ndarray]]:
    for event in events:
        event.synchronize()
    return item, [copy.numpy() for copy in copies]


def to_device(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Values on a device; those that come to cuda from the host are not waited for."""
    tensor = torch.as_tensor(values)
    pins = device.type == "cuda" and not tensor.is_cuda
    return (tensor.pin_memory() if pins else tensor).to(device, non_blocking=pins)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or the machine, has no memory left."""
    said = str(error) if isinstance(error, RuntimeError) else ""  # of other devices than cuda there is only the text
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in said for words in _NO_MEMORY)


def pad(prompts: Sequence[np.ndarray], pad_id: int) -> Int64[Tensor, "batch pos"]:
    """Prompts as one tensor, padded on the right."""
    tokens = np.full((len(prompts), max(map(len, prompts))), pad_id, dtype=np.int64)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    return torch.from_numpy(tokens)


def ranges(starts: Int64[np.ndarray, " ranges"], sizes: Int64[np.ndarray, " ranges"]) -> Int64[np.ndarray, " numbers"]:
    """The numbers of ranges, one range behind another; each has its first number and its size."""
    return np.arange(sizes.sum()) + np.repeat(starts - np.cumsum(sizes) + sizes, sizes)


def _next_batch(
    lengths: Int64[np.ndarray, " prompts"], order: Int64[np.ndarray, " waiting"], batch_tokens: int
) -> Batch:
    """The prompts of the next batch, taken from the waiting ones, of which the longest is first."""
    longest = max(1, int(lengths[order[0]]))
    rows = order[: max(1, batch_tokens // longest)]
    similar = int((lengths[rows] >= _SIMILAR_LENGTH * longest).sum())
    return rows[: max(similar, int(np.ceil(_EFFICIENT_SHARE * batch_tokens / longest)))]
