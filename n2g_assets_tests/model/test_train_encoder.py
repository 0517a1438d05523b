"""The example that trains encoders learns directions that are there, and writes what it learnt in sparsify's layout."""

import runpy
from pathlib import Path

import pytest
import torch

from n2g_assets.model.encoders.formats import read_encoder
from n2g_assets.model.encoders.places import Place
from n2g_assets_tests.model.test_encoders_of_libraries import library

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_encoder.py"
D, SOURCES, ON = 16, 24, 3


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


def sparse_sums(tokens: int, seed: int) -> torch.Tensor:
    """Sums of a few of the same directions each, which no plane of so few dimensions holds."""
    directions = torch.randn(SOURCES, D, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(tokens, SOURCES, generator=generator).topk(ON, dim=1).indices
    amounts = torch.zeros(tokens, SOURCES).scatter_(1, on, 1 + torch.rand(tokens, ON, generator=generator))
    return amounts @ directions


@pytest.mark.parametrize("transcode", [False, True])
def test_what_it_trains_reconstructs_text_that_it_has_not_seen(example, transcode, tmp_path):
    turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(9))).Q
    x, held_out = sparse_sums(4000, 1), sparse_sums(500, 2)
    y, target = (x @ turn, held_out @ turn) if transcode else (x, held_out)
    sizes = {"latents": 4 * SOURCES, "k": 2 * ON, "rate": 1e-2}
    left = {}
    for steps in (1, 300):
        folder = tmp_path / str(steps) / "layers.7.mlp"
        weights = example["train"](x, y, transcode=transcode, steps=steps, **sizes)
        example["write"](folder, weights, sizes["k"], transcode=transcode)
        encoder = read_encoder(folder)
        assert encoder.reads == Place(7, "mlp.hook_in" if transcode else "mlp.hook_out")
        assert encoder.top == sizes["k"]
        left[steps] = encoder.unexplained(held_out, target)
    assert left[300] < 0.1 < left[1]


def test_sparsify_reads_what_it_writes(example, tmp_path):
    sparsify = library("sparsify")
    x = sparse_sums(200, 3)
    weights = example["train"](x, x, transcode=False, latents=40, k=4, steps=3, rate=1e-2)
    example["write"](tmp_path, weights, 4, transcode=False)
    with torch.no_grad():
        theirs = sparsify.SparseCoder.load_from_disk(tmp_path)(x)
    torch.testing.assert_close(read_encoder(tmp_path).reconstruct(x), theirs.sae_out, rtol=1e-5, atol=1e-5)
