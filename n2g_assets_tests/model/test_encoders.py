"""Encoders of every format compute what the equations of their library say, whole or in part, at once or in tiles."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from n2g_assets.core.errors import SourceError, SubjectError
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.model.encoders import encoder as arithmetic
from n2g_assets.model.encoders.encoder import Encoder
from n2g_assets.model.encoders.formats import FORMATS, read_encoder
from n2g_assets.model.encoders.places import Place, of_hook, of_module, of_submodule
from n2g_assets.model.load import load_subject
from n2g_assets_tests.model.encoder_files import CASES, D_IN, LATENTS, TOP, Case, inputs, keep_top
from n2g_assets_tests.tiny_models import SENTENCES, tiny_llama

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
ALL = torch.arange(LATENTS)


@pytest.fixture(params=CASES)
def written(request, tmp_path):
    """An encoder that was read, its case, and its weights in double precision."""
    case = CASES[request.param]
    weights = case.drawn()
    return read_encoder(case.write(tmp_path, weights)), case, case.double(weights), request.param.split("-")[0]


def test_activations_are_those_of_the_librarys_equations(written):
    encoder, case, weights, _ = written
    x = inputs()
    wanted = case.activations(x.double(), weights)
    assert float((wanted != 0).double().mean()) > 0.02
    torch.testing.assert_close(encoder.ask(ALL)(x), wanted.float(), **CLOSE)


def test_reconstruction_and_what_it_leaves_are_those_of_the_librarys_equations(written):
    encoder, case, weights, _ = written
    x = inputs()
    if case.reconstruction is None:
        with pytest.raises(SubjectError, match="directions, without a decoder"):
            encoder.reconstruct(x)
        return
    wanted = case.reconstruction(x.double(), case.activations(x.double(), weights), weights)
    torch.testing.assert_close(encoder.reconstruct(x), wanted.float(), **CLOSE)
    target = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(3)).double()
    left = ((target - wanted) ** 2).sum() / ((target - target.mean(0)) ** 2).sum()
    assert encoder.unexplained(x, target) == pytest.approx(float(left), rel=1e-5)
    if case.target is None:
        left = ((x.double() - wanted) ** 2).sum() / ((x.double() - x.double().mean(0)) ** 2).sum()
        assert encoder.unexplained(x) == pytest.approx(float(left), rel=1e-5)


def test_asked_latents_are_columns_of_all(written):
    encoder, _, _, _ = written
    x, asked = inputs(), torch.tensor([17, 3, LATENTS - 1, 0, 3])
    torch.testing.assert_close(encoder.ask(asked)(x), encoder.ask(ALL)(x)[:, asked], **CLOSE)


def test_tiles_are_the_whole(written, monkeypatch):
    encoder, case, _, _ = written
    x = inputs(7)
    whole = encoder.ask(ALL)(x)
    reconstructed = None if case.reconstruction is None else encoder.reconstruct(x)
    monkeypatch.setattr(arithmetic, "_TILE_ELEMENTS", 9 * D_IN)
    tiles = list(encoder.tiles(x))
    assert [tile.start for tile, _ in tiles] == [0, 9, 18, 27, 36]
    torch.testing.assert_close(torch.cat([values for _, values in tiles], dim=1), whole, **CLOSE)
    if reconstructed is not None:
        torch.testing.assert_close(encoder.reconstruct(x), reconstructed, **CLOSE)
    for loaded in (4 * LATENTS * D_IN, 4 * LATENTS * D_IN - 1):  # weights that stay on the device, and too many
        monkeypatch.setattr(arithmetic, "_LOADED_BYTES", loaded)
        torch.testing.assert_close(encoder.ask(ALL)(x), whole, **CLOSE)


def test_facts_are_what_the_files_say(written):
    encoder, case, _, name = written
    facts = encoder.facts()
    assert facts["format"] == name
    assert (facts["n_latents"], facts["d_in"], facts["dtype"]) == (LATENTS, D_IN, "float32")
    assert (facts["layer"], facts["hook"], facts["target_hook"]) == (case.layer, case.hook, case.target)
    assert facts["target_layer"] == (case.layer if case.target else None)
    assert facts["alone"] is case.alone
    assert facts["top"] == (None if case.alone else TOP)


def test_where_neuronpedia_shows_latents_is_what_the_files_say(tmp_path):
    for name, said in (("sae_lens-standard", "tiny/4-res"), ("sae_lens-topk_before_6", None)):
        folder = tmp_path / name
        folder.mkdir()
        assert read_encoder(CASES[name].write(folder, CASES[name].drawn())).neuronpedia == said


def test_the_format_can_be_named_for_a_file_of_any_name(written, tmp_path):
    encoder, _, _, name = written
    again = read_encoder(encoder.files[0], format=name)
    assert again.facts() == encoder.facts()


@given(
    tokens=st.integers(1, 9), latents=st.integers(1, 60), tile=st.integers(1, 70), data=st.data(),
)  # fmt: skip
def test_the_largest_of_tiles_are_the_largest_of_all(tokens, latents, tile, data):
    top, seed = data.draw(st.integers(1, latents)), data.draw(st.integers(0, 2**20))
    generator = torch.Generator().manual_seed(seed)
    matrix, x = torch.randn(latents, 4, generator=generator), torch.randn(tokens, 4, generator=generator)
    encoder = Encoder(
        files=(Path("none"),), format="sparsify", architecture="topk", reads=Place(), matrix=matrix, top=top
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arithmetic, "_TILE_ELEMENTS", tile * max(tokens, 4))
        found = encoder.ask(torch.arange(latents))(x)
    torch.testing.assert_close(found, keep_top(x @ matrix.t(), top), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_other_types_are_computed_with_in_float32(dtype, tmp_path):
    case = CASES["sparsify-sae"]
    weights = {name: each.to(dtype) for name, each in case.drawn().items()}
    encoder = read_encoder(case.write(tmp_path, weights))
    assert encoder.facts()["dtype"] == str(dtype).removeprefix("torch.")
    x = inputs().bfloat16()
    wanted = case.activations(x.double(), case.double(weights))
    torch.testing.assert_close(encoder.ask(ALL)(x), wanted.float(), **CLOSE)


@pytest.mark.parametrize("ending", ["safetensors", "npz", "pt"])
def test_asking_for_few_of_many_latents_loads_few(ending, tmp_path):
    """Of 64 MiB of weights, columns of 256 latents come into memory of this process that is no file's."""
    weights = {"W_enc": torch.zeros(128, 2**17), "b_enc": torch.zeros(2**17)}
    weights |= {"W_dec": torch.zeros(2**17, 1), "b_dec": torch.zeros(1), "threshold": torch.zeros(2**17)}
    if ending == "npz":
        np.savez(tmp_path / "params.npz", **{name: each.numpy() for name, each in weights.items()})
    elif ending == "pt":
        weights["W_dec"], weights["b_dec"] = torch.zeros(2**17, 128), torch.zeros(128)
        torch.save(weights, tmp_path / "ae.pt")
        (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "JumpReluAutoEncoder"}}))
    else:
        save_file(weights, tmp_path / "sae_weights.safetensors")
        (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "jumprelu_transcoder", "d_in": 128}))
    del weights
    before = _anonymous_mib()
    asked = read_encoder(tmp_path).ask(torch.arange(0, 2**17, 512))
    assert asked(torch.ones(3, 128)).shape == (3, 256)
    assert _anonymous_mib() - before < 16


def _anonymous_mib() -> float:
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("only Linux says what memory of a process is no file's")
    line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


# ------------------------------------------------------------------------------------------ many in a folder
def write_layers(folder: Path, *names: str) -> Path:
    case = CASES["sparsify-sae"]
    for seed, name in enumerate(names):
        case.write(folder, case.drawn(seed))
        (folder / "layers.7").rename(folder / name)
    return folder


def test_a_folder_may_hold_an_encoder_for_each_layer(tmp_path):
    folder = write_layers(tmp_path, "layers.1", "layers.2", "layers.2.mlp")
    second = read_encoder(folder, layer=2, hook="mlp.hook_out")
    torch.testing.assert_close(second.matrix, CASES["sparsify-sae"].drawn(2)["encoder.weight"])
    assert read_encoder(folder, layer=1).reads == Place(1, "hook_resid_post")
    with pytest.raises(SubjectError, match=r"holds 2 encoders for layer 2 at some hook, such as layers.2/sae"):
        read_encoder(folder, layer=2)
    with pytest.raises(SubjectError, match=r"no encoder for layer 5 at some hook, but for layer 1 at hook_resid_post"):
        read_encoder(folder, layer=5)


def test_the_hash_is_that_of_weights_and_settings(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        write_layers(folder, "layers.1")
    assert read_encoder(first).sha256 == read_encoder(second).sha256
    settings = second / "layers.1" / "cfg.json"
    settings.write_text(settings.read_text().replace('"k": 5', '"k": 6'))
    assert read_encoder(first).sha256 != read_encoder(second).sha256


@pytest.mark.parametrize(
    ("place", "wanted"),
    [
        (of_hook("blocks.12.hook_resid_pre"), Place(12, "hook_resid_pre")),
        (of_hook("blocks.0.ln2.hook_normalized"), Place(0, "ln2.hook_normalized")),
        (of_hook("hook_embed"), Place(None, "hook_embed")),
        (of_hook(None), Place()),
        (of_module(Path("x/gpt_neox.layers.3.attention"), transcodes=False)[0], Place(3, "attn.hook_out")),
        (of_module(Path("x/layers.3/seed1"), transcodes=False)[0], Place(3, "hook_resid_post")),
        (of_module(Path("x/layers.3.mlp.act_fn"), transcodes=False)[0], Place()),
        (of_submodule(5, "mlp_out_layer_5"), Place(5, "hook_mlp_out")),
        (of_submodule(5, None), Place(5, None)),
    ],
)
def test_names_of_files_are_hooks(place, wanted):
    assert place == wanted


# ------------------------------------------------------------------------------------------ a model
@pytest.fixture(scope="module")
def model(tmp_path_factory):
    files = tiny_llama(tmp_path_factory.mktemp("model"))
    return load_subject(files, "mlp.hook_in", HarvestSettings(device="cpu"), "auto")


def transcoder_for(folder: Path, d_in: int) -> Encoder:
    generator = torch.Generator().manual_seed(0)
    path = folder / "layers.1.mlp"
    path.mkdir(parents=True)
    matrix = torch.randn(64, d_in, generator=generator)
    tensors = {"encoder.weight": matrix, "encoder.bias": torch.zeros(64), "W_dec": matrix.clone()}
    save_file({**tensors, "b_dec": torch.zeros(d_in)}, path / "sae.safetensors")
    (path / "cfg.json").write_text(json.dumps({"d_in": d_in, "num_latents": 64, "k": 8, "transcode": True}))
    return read_encoder(folder)


def test_latents_of_text_are_the_encoder_applied_to_what_the_hook_carries(model, tmp_path):
    encoder = transcoder_for(tmp_path, 32)
    encoder.check(model, 1)
    ids = np.concatenate([[model.bos_id], model.encode([SENTENCES[0]])[0]]).astype(np.int64)
    carried = model.read_layers(torch.from_numpy(ids)[None], [1])[1][0]
    wanted = keep_top(carried.double() @ encoder.matrix.double().t(), 8)
    torch.testing.assert_close(encoder.ask(torch.arange(64))(carried), wanted.float(), rtol=1e-5, atol=1e-4)


def test_an_encoder_of_another_layer_hook_or_width_is_refused(model, tmp_path):
    fits, narrow = transcoder_for(tmp_path / "fits", 32), transcoder_for(tmp_path / "narrow", 16)
    with pytest.raises(SubjectError, match=r"reads layer 1 at mlp.hook_in, not layer 2: name the encoder of"):
        fits.check(model, 2)
    with pytest.raises(SubjectError, match=r"reads vectors of 16 numbers, but mlp.hook_in of .* carries 32"):
        narrow.check(model, 1)
    residual = CASES["sae_lens-standard"]
    with pytest.raises(SubjectError, match=r"not mlp.hook_in: set hook to hook_resid_pre"):
        read_encoder(residual.write(tmp_path, residual.drawn())).check(model, 4)


# ------------------------------------------------------------------------------------------ what is not read
def _settings(name: str, **other):
    """Changes the settings beside an encoder's weights."""

    def change(folder: Path, case: Case) -> None:
        case.write(folder, case.drawn())
        file = next(folder.rglob(name))
        given = json.loads(file.read_text()) if file.suffix == ".json" else yaml.safe_load(file.read_text())
        file.write_text(json.dumps({**given, **other}))

    return change


def _weights(**other):
    """Changes weights; None takes them out."""

    def change(folder: Path, case: Case) -> None:
        weights = {**case.drawn(), **{name: make and make() for name, make in other.items()}}
        case.write(folder, {name: each for name, each in weights.items() if each is not None})

    return change


def _file(name: str, content: bytes | None):
    """Changes a file, or takes it away."""

    def change(folder: Path, case: Case) -> None:
        case.write(folder, case.drawn())
        file = next(folder.rglob(name))
        file.unlink() if content is None else file.write_bytes(content)

    return change


def _object(folder: Path, case: Case) -> None:
    case.write(folder, case.drawn())
    torch.save({**case.drawn(), "when": Path()}, folder / "ae.pt")


def _array_of_objects(folder: Path, case: Case) -> None:
    path = case.write(folder, case.drawn())
    np.savez(next(path.rglob("params.npz")), W_enc=np.array([Path()], dtype=object))


def _pickle(folder: Path, _case: Case) -> None:
    (folder / "sae.pkl").write_bytes(pickle.dumps({"W_enc": [1.0]}))


def _notes(folder: Path, _case: Case) -> None:
    (folder / "README.md").write_text("An encoder will be here.")


def _not_a_number() -> torch.Tensor:
    return torch.full((D_IN,), float("nan"))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("sae_lens-standard", _notes, "no encoder in a format that is known: give one in the layout of sae_lens, "),
        ("sae_lens-standard", _pickle, "sae.pkl is a pickle, which is never read: save the encoder as safetensors"),
        ("dictionary_learning-AutoEncoder", _object, "a pickle that holds more than tensors, which is never read"),
        ("gemma_scope-res", _array_of_objects, "holds objects, a pickle, which is never read: save it as numbers"),
        ("sae_lens-standard", _weights(b_enc=None), r"has no tensor b_enc: it has W_dec \(40 x 12\), W_enc"),
        ("gemma_scope-res", _weights(threshold=None), "has no tensor threshold"),
        ("sparsify-transcoder", _weights(W_skip=None), "has no tensor W_skip"),
        ("circuit_tracer-relu", _weights(b_dec=None), "has no tensor b_dec"),
        ("sae_lens-gated", _weights(r_mag=lambda: torch.zeros(3)), "r_mag in .* is 3 of float32, where .* 40 belong"),
        ("sae_lens-standard", _settings("cfg.json", d_in=13), "W_enc in .* is 12 x 40 of float32, where .* 13 x any"),
        ("sparsify-sae", _settings("cfg.json", num_latents=41), "is 40 x 12 of float32, where .* of 41 x 12 belong"),
        ("sparsify-sae", _settings("cfg.json", k=41), "keeps k = 41 of its 40 latents"),
        ("sparsify-sae", _settings("cfg.json", activation="groupmax"), "'groupmax', which is not read: give one with"),
        ("sparsify-sae", _settings("cfg.json", signed=True), "'signed', which is not read"),
        ("sparsify-sae", _file("cfg.json", None), "cfg.json do not exist: put the whole encoder there anew"),
        ("sparsify-sae", _file("cfg.json", b"{"), "cfg.json cannot be loaded"),
        ("sparsify-sae", _file("cfg.json", b"[]"), "are no object of names and values"),
        ("sparsify-sae", _file("sae.safetensors", b"short"), "sae.safetensors cannot be loaded"),
        ("gemma_scope-res", _file("params.npz", b"short"), "params.npz cannot be loaded"),
        ("dictionary_learning-AutoEncoder", _file("ae.pt", b"short"), "ae.pt"),
        ("sae_lens-standard", _settings("cfg.json", architecture="temporal"), "'temporal', which is not read: give"),
        ("sae_lens-standard", _settings("cfg.json", activation_fn="tanh-relu"), "'tanh-relu', which is not read"),
        (
            "sae_lens-standard", _settings("cfg.json", normalize_activations="expected_average_only_in"),
            "normalised by 'expected_average_only_in', whose numbers are not in the file, which is not read",
        ),
        ("sae_lens-standard", _settings("cfg.json", metadata={"hook_head_index": 3}), "one attention head alone"),
        ("sae_lens-standard", _weights(scaling_factor=lambda: torch.ones(LATENTS) * 2), "scaled in finetuning"),
        ("dictionary_learning-AutoEncoder", _settings("config.json", trainer={"dict_class": "Other"}), "'Other'"),
        ("circuit_tracer-relu", _settings("config.yaml", model_kind="cross_layer_transcoder"), "give a transcoder_set"),
        ("matrix-npz", _weights(other=lambda: torch.zeros(2, 2)), "where one matrix of directions belongs"),
        ("sae_lens-standard", _weights(b_dec=_not_a_number), "Weights in .* are no finite numbers"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_in_one_sentence(name, change, said, tmp_path):
    change(tmp_path, CASES[name])
    with pytest.raises(SourceError, match=said) as caught:
        read_encoder(tmp_path).ask(ALL)(inputs())
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert ". " not in sentence


def test_a_model_is_no_encoder(tmp_path):
    files = tiny_llama(tmp_path)
    with pytest.raises(SourceError, match=r"holds .* and 21 more, where one matrix of directions belongs"):
        read_encoder(files.folder)


def test_a_path_a_format_or_a_latent_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"There is no encoder at .*: correct the encoder's path"):
        read_encoder(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=f"'gguf': set it to auto, or to one of {', '.join(FORMATS)}"):
        read_encoder(tmp_path, format="gguf")
    case = CASES["matrix-npy"]
    encoder = read_encoder(case.write(tmp_path, case.drawn()))
    for latent in (-1, LATENTS):
        with pytest.raises(SubjectError, match=f"no latent {latent}: choose from 0 to {LATENTS - 1}"):
            encoder.ask(torch.tensor([latent, 3]))
