"""What a run of very many shards and layers costs besides the model: files, planning, merging, Dagster's steps.

1. Evidence of one unit a layer on shards of 16 tokens is written as workers write it, shard by shard, from made-up
   activations: seconds a shard of what is not the model, for the first and the last tenth.
2. The first step of the stage looks for what is missing (``plan_evidence``, all layers); then one layer is planned and
   its unit read from all shards (the merge), with the memory that this takes.
3. A run of Dagster whose stage has as many pieces and layers, and does nothing in them: its steps, the events in its
   database, seconds a step.

The ratio is the seconds of the last tenth's shards over those of the first.

    python benchmarks/machines.py                                   # 1,000 shards, 80 layers
    python benchmarks/machines.py --shards 10000 --folder /large    # about 10 GB, half an hour
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
from rows import row

from n2g_assets.assets import activation_cache, sizes, steps
from n2g_assets.assets.stage import Ahead, LayerStage
from n2g_assets.assets.study import RANGE_END, RANGE_START, Study
from n2g_assets.assets.values import VALUES, StepValues
from n2g_assets.core.home import Home
from n2g_assets.core.settings import HarvestSettings, StudySettings
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.kept import FILE, Numbers
from n2g_assets.evidence.plan import entry_kind, plan_evidence
from n2g_assets.evidence.store import Evidence
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.hashing import hash_json

TOKENS = 16
GOAL = 0.5
FACTS = {"file_sha256": "made up", "hook": "mlp.hook_post"}
SETTINGS = HarvestSettings(shard_tokens=TOKENS, evidence_dtype="float32")


def shards_of_a_run(shards: int, layers: int, folder: Path) -> dict[str, Any]:
    """Write, plan and merge the evidence; returns the benchmark's row."""
    cache, neurons = Cache(Home(folder)), {layer: [0] for layer in range(layers)}
    contexts = pl.DataFrame(
        {
            "context_id": [f"{number:08d}" for number in range(shards)],
            "document_id": [f"{number:08d}" for number in range(shards)],
            "token_ids": [[number % 1000] * TOKENS for number in range(shards)],
        }
    )
    plan = plan_evidence(FACTS, TokenCorpus.from_frame(contexts), neurons, SETTINGS, cache, trusting=True)
    seconds = []
    for shard, _ in plan.work:
        began = time.perf_counter()
        corpus = TokenCorpus.from_frame(contexts.filter(pl.col("document_id").is_in(shard.document_ids)))
        mine = plan_evidence(FACTS, corpus, neurons, SETTINGS, cache, shard_id=shard.shard_id)
        for layer, lacks in mine.work[0][1].items():
            write(cache, layer, shard.shard_id, shard.document_ids, lacks)
        seconds.append(time.perf_counter() - began)
    tenth = max(1, shards // 10)
    first, last = np.mean(seconds[:tenth]), np.mean(seconds[-tenth:])
    print(
        f"Written: {shards:,} shards of {layers} layers, {1000 * first:.0f} ms a shard at first, "
        f"{1000 * last:.0f} at last"
    )
    corpus = TokenCorpus.from_frame(contexts)
    began = time.perf_counter()
    left = plan_evidence(FACTS, corpus, neurons, SETTINGS, cache, trusting=True).tokens
    print(f"Planned: all layers in {time.perf_counter() - began:.1f} s ({left} tokens left)")
    began = time.perf_counter()
    merged = plan_evidence(FACTS, corpus, {layers - 1: [0]}, SETTINGS, cache)
    whole = time.perf_counter() - began
    rows = Evidence(corpus, 0, 0, 0, 0, np.dtype(np.float32), merged, {}).rows(layers - 1, [0])
    assert rows.shape == (1, shards * TOKENS)
    print(
        f"Merged:  a layer in {time.perf_counter() - began:.1f} s, of which {whole:.1f} s look at its files; "
        f"{peak() / 2**30:.2f} GiB of memory at the most"
    )
    return row("a shard beside 10 times as many (seconds)", last, first, GOAL, less_is_better=True)


def write(cache: Cache, layer: int, shard: str, documents: tuple[str, ...], held: Numbers) -> None:
    """The entry that a pass writes."""
    values = np.zeros((len(held), TOKENS), np.float32)
    about = {"layer": layer, "shard": shard, "neurons": held.tolist(), "documents": documents, "scales": [1.0]}
    kind, key = f"{entry_kind(FACTS, SETTINGS, layer)}/{shard}", hash_json(held.tolist())
    cache.write(kind, key, lambda to: np.save(to / FILE, values), about)


class Idle(steps._Steps):
    """Steps that record what steps record, and do nothing else."""

    def session(self, context: steps.Context, config: steps.StageConfig) -> Any:
        return None

    def do_layers(self, context: steps.Context, session: Any, keys: Any) -> Iterator[Any]:
        for key in keys:
            yield dg.AssetMaterialization(self.study.key(self.stage.name), partition=key)
        return {}

    def do_end(self, context: dg.AssetExecutionContext, session: Any, done: Any) -> dg.MaterializeResult:
        return dg.MaterializeResult()


def steps_of_a_run(shards: int, layers: int, folder: Path) -> None:
    """A run whose stage has as many pieces and layers."""
    pieces = list(range(min(shards, sizes.MOST_PIECES)))
    settings = StudySettings(
        subject={"source": "hub", "name": "any"},
        corpus=[{"source": "files", "path": "any"}],
        layers=layers,
        executor="multiprocess",
    )
    study, real = Study("idle", folder, settings), activation_cache.STAGE
    stage = LayerStage(
        name=real.name, description="", code_version="1", work=real.work, preview_columns=[],
        ahead=Ahead(lambda session, asked: pieces, lambda session, piece, show: None),
    )  # fmt: skip
    about = {"key": study.key(stage.name), "partitions_def": study.partitions, "check_specs": []}
    asset = steps._graph_asset(Idle(study, stage), about)
    resources = {"n2g": None, VALUES: StepValues(home=str(folder))}
    job = dg.Definitions(assets=[asset], jobs=[dg.define_asset_job("run", [asset])], resources=resources)
    keys = list(study.partition_layers)
    folder.mkdir()
    with dg.instance_for_test(temp_dir=str(folder)) as instance:
        began = time.perf_counter()
        result = job.resolve_job_def("run").execute_in_process(
            instance=instance,
            tags={RANGE_START: keys[0], RANGE_END: keys[-1]},
            run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
        )
        seconds = time.perf_counter() - began
        done = sum(event.is_step_success for event in result.all_events)
        events = len(instance.all_logs(result.run_id))
    print(f"Dagster: {done} steps, {events:,} events, {1000 * seconds / done:.0f} ms a step in one process on SQLite")


def peak() -> int:
    """Bytes of memory at the most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform != "darwin" else 1)


def main() -> None:
    """Print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--folder", type=Path, help="where the evidence is written for a while")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        steps_of_a_run(given.shards, given.layers, Path(folder, "dagster"))
        print(shards_of_a_run(given.shards, given.layers, Path(folder, "home")))


if __name__ == "__main__":
    main()
