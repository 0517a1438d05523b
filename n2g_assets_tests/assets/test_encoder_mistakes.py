"""Encoders that do not fit, and mistakes in a study of latents: a sentence each, and nothing is lost."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from n2g_assets.assets import subject_model
from n2g_assets.core.errors import SettingsError, SourceError, SubjectError
from n2g_assets.study import read_study
from n2g_assets_tests.assets.studies import session_of
from n2g_assets_tests.assets.test_encoders import LATENTS, WIDTH, folder, latents_of

__all__ = ["folder"]


def _narrow(folder: Path) -> None:
    save_file({"directions": torch.ones(3, WIDTH - 1)}, folder / "wrong.safetensors")


def _turned(folder: Path) -> None:
    np.save(folder / "wrong.npy", np.ones((WIDTH, 3), np.float32))


def _vector(folder: Path) -> None:
    np.save(folder / "wrong.npy", np.ones(WIDTH, np.float32))


def _objects(folder: Path) -> None:
    np.save(folder / "wrong.npy", np.array([{}]), allow_pickle=True)


def _text(folder: Path) -> None:
    (folder / "wrong.npy").write_text("an encoder")


def _pickled(folder: Path) -> None:
    (folder / "wrong.pkl").write_bytes(pickle.dumps({}))


def _unknown(folder: Path) -> None:
    (folder / "wrong.txt").write_text("an encoder")


def _incomplete(folder: Path) -> None:
    (folder / "wrong").mkdir()
    save_file({"encoder.weight": torch.ones(3, WIDTH)}, folder / "wrong" / "sae.safetensors")
    (folder / "wrong" / "cfg.json").write_text("{}")


@pytest.mark.parametrize(
    ("write", "path", "changes", "says"),
    [
        (_narrow, "wrong.safetensors", {"hook": "hook_resid_post"}, "reads vectors of 31 numbers, but .* carries 32"),
        (_narrow, "wrong.safetensors", {}, "do not say which hook it reads: set hook to one"),
        (_turned, "wrong.npy", {"hook": "hook_resid_post"}, "carries 32: transpose it, name the hook"),
        (_vector, "wrong.npy", {}, r"holds matrix \(32\), where one matrix of directions belongs, a row each"),
        (_objects, "wrong.npy", {}, "is no array of numbers: save it anew with numpy.save"),
        (_text, "wrong.npy", {}, "is no array of numbers: save it anew with numpy.save"),
        (_pickled, "wrong.pkl", {}, "is a pickle, which is never read"),
        (_unknown, "wrong.txt", {}, "holds no encoder in a format that is known"),
        (_incomplete, "wrong", {}, r"has no tensor b_dec: it has encoder.weight \(3 x 32\)"),
        (None, "topk", {"signs": ["negative"]}, "signs names negative, but latents are never below 0"),
        (None, "topk", {"neurons": {"sample": 25}}, "lower neurons.sample, or write neurons: all"),
        (None, "nowhere", {}, "There is no encoder at"),
        (None, "topk", {"hook": "mlp.hook_post"}, "holds no encoder for layer 1 at mlp.hook_post, but for layer 1"),
        (None, "topk", {"layers": [0]}, "holds no encoder for layer 0"),
        (None, "topk", {"neurons": [3, LATENTS]}, "does not have latent 24: it has 24 latents a layer"),
    ],
)
def test_an_encoder_that_does_not_fit_is_said_in_one_sentence(write, path, changes, says, folder, tmp_path):
    shutil.copytree(folder / "topk", tmp_path / "topk")
    if write is not None:
        write(tmp_path)
    study = replace(latents_of(folder, path, **changes), folder=tmp_path)
    with pytest.raises((SettingsError, SourceError, SubjectError), match=says):
        subject_model.materialize(session_of(study, tmp_path / "home"))
    assert not (tmp_path / "home" / "slices").exists()


def test_a_mistake_in_a_studys_file_is_said_with_its_line(folder, tmp_path):
    text = """\
type: n2g_assets.N2GStudy
attributes:
  subject: {source: local, path: model}
  corpus: [{source: files, path: corpus}]
  layers: [1]
  units:
    encoder: {source: local, path: nowhere}
"""
    for name in ("model", "corpus"):
        (tmp_path / name).symlink_to(folder / name)
    for line, says in (
        (text, "defs.yaml:7: There is no encoder at"),
        (text.replace("path: nowhere", "path: nowhere, formt: auto"), "no setting 'formt' here: did you mean 'format'"),
        (text.replace("source: local, path: nowhere", "path: nowhere"), "units.encoder lacks 'source': add it"),
        (text.replace("path: nowhere", "path: corpus, format: sae"), "No encoder has the format 'sae'"),
    ):
        (tmp_path / "defs.yaml").write_text(line)
        with pytest.raises(SettingsError, match=says) as caught:
            read_study(tmp_path / "defs.yaml")
        assert "\n" not in str(caught.value)
