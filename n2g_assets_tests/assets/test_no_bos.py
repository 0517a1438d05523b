"""A study whose model reads nothing before the text, from the corpus to the scores."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from n2g_assets_tests.assets.studies import of_evidence, rows_of, run_stages, tiny_study, write_corpus
from n2g_assets_tests.tiny_models import VOCABULARY


def test_every_number_of_a_study_with_bos_none_is_that_of_the_bare_text(tmp_path):
    from transformers import AutoModelForCausalLM

    write_corpus(tmp_path / "corpus", stories=24)
    write_corpus(tmp_path / "other", stories=2, first=1000)
    home = tmp_path / "home"
    run_stages(of_evidence(tiny_study(tmp_path, bos="none", layers=1, neurons=[4])), home)
    contexts = rows_of(home, "contexts")["token_ids"].to_list()
    assert {ids[0] for ids in contexts} == {VOCABULARY}
    assert max(max(ids[1:]) for ids in contexts) < VOCABULARY
    plain, found = AutoModelForCausalLM.from_pretrained(tmp_path / "model"), list[torch.Tensor]()
    plain.model.layers[0].mlp.down_proj.register_forward_pre_hook(lambda _module, args: found.append(args[0][0, :, 4]))

    def alone(token_ids: list[int]) -> np.ndarray:
        assert token_ids[0] == VOCABULARY
        with torch.inference_mode():
            plain(torch.tensor([token_ids[1:]]))
        return found.pop().numpy()

    harvested = np.concatenate(
        [alone(ids) for ids in rows_of(home, "contexts", split="harvest")["token_ids"].to_list()]
    )
    (stats,) = rows_of(home, "neuron_stats").to_dicts()
    assert stats["n_tokens"] == len(harvested)
    np.testing.assert_allclose([stats["max"], stats["mean"]], [harvested.max(), harvested.mean()], rtol=1e-4)
    for text, activation in rows_of(home, "rule_tests").select(
        pl.col("match_ids").list.explode(), pl.col("match_activations").list.explode()
    ).iter_rows():  # fmt: skip
        np.testing.assert_allclose(alone(text)[-1] / stats["max"], activation, atol=1e-4)
    r_of = dict(rows_of(home, "evaluation", text="random").select("predictor", "pearson_r").iter_rows())
    assert r_of["graph"] > 0.2
    reach = rows_of(home, "reach", text="random").sort("last_tokens")["pearson_r"]
    assert reach[-1] == pytest.approx(1)  # the whole context, as it was read
