"""Models from a hub: what is fetched, what is refused, and what happens where the hub cannot be reached."""

import fractions
import hashlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import yaml
from safetensors.torch import load_file

from n2g_assets.core.errors import SourceError
from n2g_assets.core.home import Home
from n2g_assets.core.sources import HubSubject
from n2g_assets.core.unit_settings import HubEncoder
from n2g_assets.model.encoders.resolve import check_encoder, resolve_encoders
from n2g_assets.model.sources import resolve_masked_lm, resolve_subject
from n2g_assets_tests.assets.studies import rows_of, run_stages, tiny_study
from n2g_assets_tests.model.encoder_files import CASES
from n2g_assets_tests.tiny_models import load_tiny, tiny_llama, tiny_solu


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def legacy_repositories(folder):
    """The paper's six-layer model as it was published, and in the first layout, as tiny models; and their tokenizer."""
    solu = tiny_solu(folder / "solu").folder
    weights, files = load_file(solu / "model.safetensors"), {path.name: path.read_bytes() for path in solu.iterdir()}
    config = json.loads(files["config.json"]) | {"tokenizer_name": "someone/digits"}
    del config["normalization"]  # the first layout has none, which is LayerNorm
    old = {name.replace("ln_final", "norm").replace("ln", "norm"): tensor for name, tensor in weights.items()}
    old |= {name: tensor.transpose(-2, -1).contiguous() for name, tensor in old.items() if "W_" in name}

    def published(state, **changes):
        file = io.BytesIO()
        torch.save(state, file)
        return {"config.json": json.dumps(config | changes).encode(), "model_final.pth": file.getvalue()}

    return {
        "NeelNanda/SoLU_6L768W_C4_Code": published(weights, normalization="LN"),
        "NeelNanda/SoLU_6L_v13_old": published(old),
        "NeelNanda/SoLU_1L512W_C4_Code": published({"embed.W_E": fractions.Fraction(1, 2)}),
        "someone/digits": {name: files[name] for name in ("tokenizer.json", "tokenizer_config.json")},
    }


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, llama, monkeypatch):
    """A hub on this machine with one sound model, one of pickles, and a list of what was asked."""
    repositories = {
        "someone/tiny": {path.name: path.read_bytes() for path in llama.folder.iterdir()}
        | {"pytorch_model.bin": b"pickle", "modeling.py": b"code", "onnx/model.safetensors": b"other"},
        "someone/pickled": {"config.json": b"{}", "pytorch_model.bin": b"pickle", "tokenizer.json": b"{}"},
        "someone/gated": {},
        **legacy_repositories(tmp_path),
    }
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            parts = self.path.split("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"] and "tree" in parts:
                files = repositories["/".join(parts[2:4])]
                tree = [{"type": "file", "path": p, "size": len(b), "oid": p} for p, b in files.items()]
                self.reply(200, json.dumps(tree).encode(), {})
            elif parts[:2] == ["api", "models"]:
                self.answer_info("/".join(parts[2:4]), parts[5] if "revision" in parts else "main")
            else:
                self.answer_file("/".join(parts[:2]), "/".join(parts[4:]))

        do_HEAD = do_GET  # noqa: N815  (the base class names it)

        def answer_info(self, name, revision):
            if name not in repositories:
                self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif name == "someone/gated":
                self.reply(403, b"{}", {"X-Error-Code": "GatedRepo"})
            elif revision not in ("main", COMMIT):
                self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            else:
                siblings = [{"rfilename": file} for file in repositories[name]]
                self.reply(200, json.dumps({"id": name, "sha": server.commit, "siblings": siblings}).encode(), {})

        def answer_file(self, name, file):
            body = repositories[name][file]
            self.reply(200, body, {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": server.commit})

        def reply(self, status, body, headers):
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    server.asked, server.repositories, server.commit = asked, repositories, COMMIT
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def from_hub(home, name, revision=None):
    return resolve_subject(HubSubject(source="hub", name=name, revision=revision), study_folder=home.root, home=home)


def test_a_hub_model_is_fetched_without_pickles_and_code(hub, home, llama):
    files = from_hub(home, "someone/tiny")
    assert (files.name, files.source, files.revision) == ("someone/tiny", "hub", COMMIT)
    assert files.file_sha256 == llama.file_sha256
    expected = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in files.folder.rglob("*")} == expected
    assert load_tiny(files).d_mlp == 48


def test_a_fetched_hub_model_is_there_when_the_hub_is_not(hub, home):
    files = from_hub(home, "someone/tiny")
    hub.shutdown()
    hub.server_close()
    assert from_hub(home, "someone/tiny") == files


def test_a_snapshot_that_lacks_a_file_is_not_taken_when_the_hub_is_away(hub, home):
    (from_hub(home, "someone/tiny").folder / "model.safetensors").unlink()
    hub.shutdown()
    hub.server_close()
    with pytest.raises(SourceError, match="someone/tiny is not in the local cache and the hub cannot be reached"):
        from_hub(home, "someone/tiny")


def test_the_masked_language_model_is_known_by_its_content_whether_hub_or_folder(hub, tmp_path, llama):
    fetched = resolve_masked_lm("someone/tiny", study_folder=tmp_path)
    assert (fetched.source, fetched.revision, fetched.file_sha256) == ("hub", COMMIT, llama.file_sha256)
    hub.repositories["someone/tiny"]["config.json"] += b" "
    hub.commit = "f" * 40
    assert resolve_masked_lm("someone/tiny", study_folder=tmp_path).file_sha256 != llama.file_sha256
    with pytest.raises(SourceError, match=r"not known to the hub: correct method\.masked_lm, .*proposer to infill"):
        resolve_masked_lm("someone/unknown", study_folder=tmp_path)


@pytest.mark.parametrize(
    ("name", "revision", "says"),
    [
        ("someone/pickled", None, r"someone/pickled has no model\.safetensors but pytorch_model\.bin, a pickle"),
        ("someone/unknown", None, r"someone/unknown is not known to the hub: correct subject\.name"),
        ("someone/tiny", "v9", r"no revision 'v9'"),
        ("not a name/", None, r"is not known to the hub"),
        ("someone/gated", None, r"someone/gated is gated: accept its terms and set HF_TOKEN"),
    ],
)
def test_what_the_hub_does_not_have_is_one_sentence(name, revision, says, hub, home):
    with pytest.raises(SourceError, match=says):
        from_hub(home, name, revision)
    assert not any("resolve" in path for path in hub.asked), "nothing was fetched"


def test_a_hub_that_cannot_be_reached_is_one_sentence_with_a_cure(tmp_path, home, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        SourceError, match=r"someone/tiny is not in the local cache and the hub cannot be reached .*HF_HOME"
    ):
        from_hub(home, "someone/tiny")


def test_of_an_encoder_the_folder_that_is_named_is_fetched(hub, tmp_path):
    case = CASES["sparsify-mlp"]
    written = case.write(tmp_path, case.drawn()) / "layers.7.mlp"
    files = {path.name: path.read_bytes() for path in written.iterdir()}
    hub.repositories["someone/saes"] = {
        **{f"{layer}/{name}": body for layer in ("layers.7.mlp", "layers.8.mlp") for name, body in files.items()},
        **{"train.py": b"code", "layers.7.mlp/optimizer.bin": b"pickle"},
    }
    asked = HubEncoder(source="hub", name="someone/saes", path="layers.7.mlp")
    found = resolve_encoders(asked, [7], "auto", study_folder=tmp_path)
    fetched = {path.partition(COMMIT + "/")[2] for path in hub.asked if "/resolve/" in path}
    assert fetched == {"layers.7.mlp/sae.safetensors", "layers.7.mlp/cfg.json"}
    assert found.hook == "mlp.hook_out"
    assert found.facts[7]["revision"] == COMMIT
    both = resolve_encoders(asked.model_copy(update={"path": None}), [7, 8], "auto", study_folder=tmp_path)
    assert sorted(both.by_layer) == [7, 8]
    assert both != found == resolve_encoders(asked, [7], "auto", study_folder=tmp_path)
    with pytest.raises(SourceError, match=r"none is not known to the hub: correct units\.encoder\.name"):
        resolve_encoders(HubEncoder(source="hub", name="someone/none"), [7], "auto", study_folder=tmp_path)
    with pytest.raises(SourceError, match="The hub can have no encoder 'a/b/c'"):
        check_encoder(HubEncoder(source="hub", name="a/b/c"), tmp_path)


def test_transformer_lens_names_lead_to_hub_names(tmp_path, home, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SourceError, match="EleutherAI/pythia-70m is not in the local cache"):
        from_hub(home, "pythia-70m")


@pytest.mark.parametrize("name", ["solu-6l", "solu-6l-old"])
def test_the_papers_models_are_converted_once_from_their_pickles_to_the_same_weights(name, hub, home, tmp_path):
    files = from_hub(home, name)
    expected = load_file(tmp_path / "solu" / "model.safetensors")
    found = load_file(files.folder / "model.safetensors")
    assert found.keys() == expected.keys()
    for each, tensor in found.items():
        torch.testing.assert_close(tensor, expected[each], msg=each)
    assert (files.source, files.revision) == ("hub", COMMIT)
    pickled = hub.repositories[files.name]["model_final.pth"]
    provenance = json.loads((files.folder / "provenance.json").read_text())
    assert provenance["pickle_sha256"] == hashlib.sha256(pickled).hexdigest()
    model = load_tiny(files)
    assert (model.facts["activation"], model.d_mlp, model.facts["bos_id"]) == ("solu_ln", 48, 1)
    hub.shutdown()
    hub.server_close()
    assert from_hub(home, name) == files, "without the hub it is there"


def test_a_pickle_that_holds_more_than_tensors_is_refused_unread(hub, home):
    with pytest.raises(SourceError, match=r"model_final\.pth of .* holds more than tensors, and nothing else is read"):
        from_hub(home, "solu-1l")


def test_the_papers_model_goes_from_two_lines_of_yaml_to_graphs(hub, tmp_path):
    given = yaml.safe_load("subject: {source: hub, name: solu-6l}\npreset: paper")
    method = {"min_contexts_per_side": 2, "infill_candidates": 8, "infill_rescored": 4}
    study = tiny_study(tmp_path, **given, layers=[1], neurons=[0, 3], method=method)
    run_stages(study, tmp_path / "home")
    graphs, model = (rows_of(tmp_path / "home", table) for table in ("graph_nodes", "subject_models"))
    assert set(graphs["unit"]) <= {0, 3}
    assert graphs.filter(kind="activating").height > 0
    assert model.select("model", "activation").row(0) == ("NeelNanda/SoLU_6L768W_C4_Code", "solu_ln")
