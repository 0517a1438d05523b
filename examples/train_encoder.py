"""Trains a top-k autoencoder of what an MLP writes, and a transcoder of what it computes, on a study's harvested text.

    n2g run examples/latents/smollm2_neurons/defs.yaml
    python examples/train_encoder.py
    n2g run examples/latents/smollm2_latents/defs.yaml
    n2g run examples/latents/smollm2_transcoder/defs.yaml

Their controls are trained in the same way, on the model with random weights:

    n2g run examples/latents/smollm2_neurons_reinitialised/defs.yaml
    python examples/train_encoder.py --reinitialised
    n2g run examples/latents/smollm2_latents_reinitialised/defs.yaml
    n2g run examples/latents/smollm2_transcoder_reinitialised/defs.yaml

The study's contexts have to be there, so it is run first. Both encoders are written in the layout of EleutherAI's
sparsify. What they leave unexplained of the last tenth of the text, the seconds of their training and the sha256 of
their files stand in ``facts.json`` beside them.
"""

import argparse
import json
import logging
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import embedding_bag, linear

from n2g_assets.assets.session import Session
from n2g_assets.core.home import Home
from n2g_assets.model.batching import pad
from n2g_assets.model.encoders.formats import read_encoder
from n2g_assets.model.load import load_subject
from n2g_assets.study import read_study

LATENTS = Path(__file__).parent / "latents"
TRAINED_SHARE = 0.9
CONTEXTS, TOKENS = 32, 512  # of a forward pass, of a step


def read_mlp(study: Path, layer: int, n_tokens: int) -> tuple[Tensor, Tensor]:
    """What the MLP of a layer reads and writes at the first tokens of the harvest, [tokens, d_model] each."""
    session = Session(read_study(study), Home.from_environment(), logging.getLogger(__name__))
    settings, corpus = session.settings, session.corpus
    model = load_subject(session.subject_files, "mlp.hook_out", settings.harvest, settings.method.mask_token)
    read, inputs, outputs = [], [], []
    mlp = model.plain.get_submodule(model.hook.taps[layer].module)
    mlp.register_forward_pre_hook(lambda _module, args: read.append(args[0]))
    last = int((corpus.lengths.cumsum() <= n_tokens).sum())
    for first in range(0, last, CONTEXTS):
        contexts = [corpus.tokens(number) for number in range(first, min(first + CONTEXTS, last))]
        written = model.read_layers(pad(contexts, model.bos_id), [layer])[layer]
        for kept, values in ((inputs, read.pop()), (outputs, written)):
            kept.extend(row[1 : len(ids)].float().cpu() for row, ids in zip(values, contexts, strict=True))
    return torch.cat(inputs), torch.cat(outputs)


def train(x: Tensor, y: Tensor, *, transcode: bool, latents: int, k: int, steps: int, rate: float) -> dict[str, Tensor]:
    """The tensors of an encoder that reads ``x`` and reconstructs ``y``, under sparsify's names."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(latents, x.shape[1], generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    weights = {
        "encoder.weight": directions.clone(),
        "encoder.bias": -directions @ x.mean(0) if transcode else torch.zeros(latents),
        "W_dec": torch.zeros_like(directions) if transcode else directions.clone(),
        "b_dec": y.mean(0),
    }
    for each in weights.values():
        each.requires_grad_()
    optimizer = torch.optim.Adam(weights.values(), lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, 5 * (1 - step / steps)))
    variance = (y - y.mean(0)).square().sum(1).mean()
    for step in range(steps):
        chosen = torch.randint(len(x), (TOKENS,), generator=generator)
        centred = x[chosen] if transcode else x[chosen] - weights["b_dec"]
        values, owners = linear(centred, weights["encoder.weight"], weights["encoder.bias"]).relu().topk(k, dim=1)
        decoded = embedding_bag(owners, weights["W_dec"], per_sample_weights=values, mode="sum") + weights["b_dec"]
        loss = (y[chosen] - decoded).square().sum(1).mean() / variance
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if not transcode:
            weights["W_dec"].data /= weights["W_dec"].data.norm(dim=1, keepdim=True)
        if step % 100 == 0 or step == steps - 1:
            logging.info("Step %d leaves %.3f of the variance.", step, loss.item())
    return {name: each.detach() for name, each in weights.items()}


def write(folder: Path, weights: dict[str, Tensor], k: int, *, transcode: bool) -> None:
    """Writes an encoder as sparsify does."""
    latents, d_in = weights["encoder.weight"].shape
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "sae.safetensors")
    config = {"activation": "topk", "num_latents": latents, "k": k, "normalize_decoder": not transcode, "d_in": d_in}
    config |= {"transcode": transcode, "skip_connection": False, "multi_topk": False, "expansion_factor": 0}
    (folder / "cfg.json").write_text(json.dumps(config))


def main() -> None:
    """Reads the MLP once, trains both kinds and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reinitialised", action="store_true", help="the controls: a model with random weights")
    parser.add_argument("--study", type=Path, help="a study whose contexts are in N2G_HOME; smollm2_neurons")
    parser.add_argument("--layer", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder; encoders beside the studies")
    parser.add_argument("--tokens", type=int, default=250_000, help="of the harvest, held-out tenth included")
    parser.add_argument("--latents", type=int, default=4608, help="8 times the width of the default model")
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3000, help=f"of {TOKENS} tokens each")
    parser.add_argument("--rate", type=float, default=1e-3)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    control = "_reinitialised" if asked.reinitialised else ""
    study = asked.study or LATENTS / f"smollm2_neurons{control}" / "defs.yaml"
    out = asked.out or LATENTS / f"encoders{control}"
    read, written = read_mlp(study, asked.layer, asked.tokens)
    end = int(TRAINED_SHARE * len(read))
    for kind, x in (("autoencoder", written), ("transcoder", read)):
        transcode = kind == "transcoder"
        sizes = {"latents": asked.latents, "k": asked.k, "steps": asked.steps, "rate": asked.rate}
        folder, began = out / kind / f"layers.{asked.layer}.mlp", time.monotonic()
        write(folder, train(x[:end], written[:end], transcode=transcode, **sizes), asked.k, transcode=transcode)
        encoder = read_encoder(folder)
        facts = encoder.facts() | sizes | {"trained_tokens": end, "seconds": round(time.monotonic() - began)}
        facts["unexplained"] = encoder.unexplained(x[end:], written[end:])
        (folder / "facts.json").write_text(json.dumps(facts, indent=2))
        logging.info("%s leaves %.3f of held-out variance.", folder, facts["unexplained"])


if __name__ == "__main__":
    main()
