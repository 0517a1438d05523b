"""Stage ``rule_tests``: each rule tried on the model, on texts that match it and on texts that nearly do."""

from __future__ import annotations

from n2g_assets.assets.session import Session
from n2g_assets.assets.stage import LayerStage, fill_layer
from n2g_assets.core.progress import Progress
from n2g_assets.core.settings import PredictionSettings, RuleTestSettings
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.rule_tests import FreshText, try_rules
from n2g_assets.method.results import BlockResult
from n2g_assets.storage.hashing import hash_json
from n2g_assets.storage.stages import StageReport


def _work(session: Session, layer: int, show: Progress) -> StageReport:
    contexts = session.fresh_contexts
    fresh: list[FreshText] = []  # made once, and only where something is computed

    def compute(
        units: list[Unit], a_max: dict[Unit, float], method: PredictionSettings, tests: RuleTestSettings
    ) -> BlockResult:
        if not fresh:
            fresh.append(FreshText.of(contexts, session.vocabulary))
        return try_rules(
            units, session.read("rules", layer, units=units), session.read("graph_nodes", layer, units=units), fresh[0],
            a_max, session.prober(layer), method, tests,
        )  # fmt: skip

    return fill_layer(
        session, STAGE, layer,
        inputs=("rules", "graph_nodes"),
        settings=[
            session.settings.method.part(PredictionSettings), session.settings.evaluation.part(RuleTestSettings),
        ],
        compute=compute,
        show=show,
        also={"contexts": hash_json(contexts["context_id"].to_list())},
    )  # fmt: skip


STAGE = LayerStage(
    name="rule_tests",
    description="Each rule tried on the model: its tokens in fresh contexts should make the unit fire, and with one "
    "required token exchanged, moved or removed it should stay silent.",
    code_version="2",
    work=_work,
    preview_columns=["unit", "sign", "rule_id", "n_matches", "fired", "n_near_misses", "silent"],
    kinds={"torch", "polars", "parquet"},
)
