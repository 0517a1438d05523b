"""Sources of kind ``python``: a function of the user that yields documents."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from n2g_assets.core.errors import CorpusError, SourceError
from n2g_assets.core.home import Home
from n2g_assets.core.sources import PythonSource
from n2g_assets.corpus.functions import call
from n2g_assets.corpus.sources import check_source, open_source, source_fingerprints
from n2g_assets_tests.corpus.helpers import read as read_corpus
from n2g_assets_tests.corpus.helpers import words


def source(function="texts:give", **settings):
    return PythonSource(source="python", function=function, **settings)


def called(folder, **settings):
    return list(call(source(**settings), folder))


def write(folder, code, name="texts.py"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(code)


def test_texts_ids_mappings_and_named_tuples_are_documents(tmp_path):
    write(
        tmp_path,
        "from collections import namedtuple\nimport numpy as np\n"
        "Row = namedtuple('Row', ['name', 'text'])\nIds = namedtuple('Ids', ['token_ids', 'kind', 'name'])\n"
        "def give():\n"
        "    yield 'one'\n    yield [3, 4]\n    yield (5,)\n    yield np.array([6, 7], np.uint16)\n    yield []\n"
        "    yield {'text': 'two', 'name': 'second', 'kind': 'code'}\n    yield {'token_ids': [8], 'text': None}\n"
        "    yield Row('third', 'three')\n    yield Ids(np.array([9]), 'code', None)\n",
    )
    found = [(each.name, each.text, each.token_ids, each.kind) for each in called(tmp_path)]
    ids = [None if each[2] is None else each[2].tolist() for each in found]
    assert [(name, text, kind) for name, text, _, kind in found] == [
        ("0", "one", None), ("1", "", None), ("2", "", None), ("3", "", None), ("4", "", None),
        ("second", "two", "code"), ("6", "", None), ("third", "three", None), ("8", "", "code"),
    ]  # fmt: skip
    assert ids == [None, [3, 4], [5], [6, 7], [], None, [8], None, [9]]


def test_documents_of_a_function_become_a_corpus_with_their_kinds_in_its_order(tmp_path):
    write(
        tmp_path,
        "def give(texts):\n    for number, text in enumerate(texts):\n"
        "        yield {'text': text, 'kind': 'even'} if number % 2 == 0 else text\n",
    )
    texts = [words(40, seed) for seed in range(6)]
    asked = source(arguments={"texts": texts}, kind="odd", max_tokens=100)
    corpus = read_corpus(tmp_path, asked)
    assert sorted(corpus.documents.select("name", "kind", "source").iter_rows()) == [
        ("0", "even", "texts:give"), ("1", "odd", "texts:give"), ("2", "even", "texts:give"),
    ]  # fmt: skip


def fingerprint(folder, *, home=".home", **settings):
    (found,) = source_fingerprints([source(**settings)], study_folder=folder, home=Home(folder / home))
    return found


def test_the_fingerprint_changes_with_what_is_yielded_and_not_with_the_code(tmp_path):
    write(tmp_path, "def give(): return ['one']\n")
    first = fingerprint(tmp_path)
    write(tmp_path, "# another way\ndef give():\n    yield 'o' + 'ne'\n")
    assert fingerprint(tmp_path) == first
    for changed in ("['two']", "[[1]]", "['one', 'one']", "[{'text': 'one', 'kind': 'code'}]"):
        write(tmp_path, f"def give(): return {changed}\n")
        assert fingerprint(tmp_path)["content"] != first["content"]


def test_what_was_hashed_is_read_whatever_the_function_would_give_now(tmp_path):
    write(tmp_path, "from pathlib import Path\n\ndef give():\n    file = Path(__file__).with_name('calls')\n"
          "    n = len(file.read_text()) if file.exists() else 0\n    file.write_text('x' * (n + 1))\n"
          "    yield f'call {n}'\n    yield [n]\n")  # fmt: skip
    first = fingerprint(tmp_path)
    opened = open_source(source(), study_folder=tmp_path, home=Home(tmp_path / ".home"))
    text, ids = opened.documents
    assert (text.text, ids.token_ids.tolist()) == ("call 0", [0])
    assert fingerprint(tmp_path)["content"] != first["content"]


def test_an_endless_function_is_asked_for_no_more_than_max_tokens_can_need(tmp_path):
    write(tmp_path, "def give():\n    while True:\n        yield 'a word '\n")
    fingerprint(tmp_path, max_tokens=100)
    opened = open_source(source(max_tokens=100), study_folder=tmp_path, home=Home(tmp_path / ".home"))
    assert sum(1 for _ in opened.documents) == -(-100 * 20 // 7)


# -------------------------------------------------------------------------------------- modules
def test_a_module_of_the_studys_folder_comes_first_and_is_forgotten(tmp_path):
    for study in ("a", "b"):
        write(
            tmp_path / study,
            f"import beside\ndef give():\n    import late\n    yield beside.NAME + late.NAME + '{study}'\n",
        )
        write(tmp_path / study, f"NAME = '{study}'\n", "beside.py")
        write(tmp_path / study, f"NAME = '{study}'\n", "late.py")
    path, modules = list(sys.path), set(sys.modules)
    assert [called(tmp_path / study)[0].text for study in "aba"] == ["aaa", "bbb", "aaa"]
    write(tmp_path / "a", "NAME = 'c'\n", "beside.py")
    assert called(tmp_path / "a")[0].text == "caa"
    assert sys.path == path
    assert not {"texts", "beside", "late"} & (set(sys.modules) - modules)
    assert not list(tmp_path.rglob("*.pyc"))


def test_a_module_of_a_loaded_package_s_name_is_the_studys_own_and_the_package_stays(tmp_path):
    import polars

    write(tmp_path, "def give(): yield 'mine'\n", "polars.py")
    assert called(tmp_path, function="polars:give")[0].text == "mine"
    assert sys.modules["polars"] is polars
    assert sys.modules["polars.dataframe"] is polars.dataframe


def test_a_package_of_the_folder_and_an_installed_one_are_found(tmp_path, monkeypatch):
    write(tmp_path, "def give(): yield __name__\n", "own/data/texts.py")
    assert called(tmp_path, function="own.data.texts:give")[0].text == "own.data.texts"
    write(tmp_path / "site", "def give(): yield 'installed'\n", "elsewhere_installed.py")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (tmp_path / "elsewhere_installed").mkdir()  # a folder of data is no package
    assert called(tmp_path, function="elsewhere_installed:give")[0].text == "installed"


def test_nothing_is_run_to_check_a_source(tmp_path):
    write(tmp_path, "raise RuntimeError\ndef give(): pass\n", "own/__init__.py")
    write(tmp_path, "raise RuntimeError\nfrom own import give as taken\nclass Give: pass\n", "own/texts.py")
    write(tmp_path, "from own import *\n", "stars.py")
    for function in ("own:give", "own.texts:taken", "own.texts:Give", "stars:anything"):
        check_source(source(function), tmp_path)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("nowhere:give", "no module 'nowhere' of the corpus function 'nowhere:give', neither in the study's folder"),
        ("texts.inner:give", "no module 'texts.inner'"),
        ("texts:take", r"\(.*texts\.py\) has no function 'take': correct 'function'"),
        ("broken:give", r"\(.*broken\.py\) cannot be imported \(SyntaxError: .*line 2\)\): repair it"),
        ("json:give", "has the name of one of Python's own: give its file another name"),
    ],
)
def test_a_missing_or_broken_module_is_known_before_anything_runs(tmp_path, function, says):
    write(tmp_path, "def give(): pass\n")
    write(tmp_path, "def give():\n    return (\n", "broken.py")
    write(tmp_path, "def give(): pass\n", "json.py")
    for look in (check_source, lambda asked, folder: list(call(asked, folder))):
        with pytest.raises(SourceError, match=says):
            look(source(function), tmp_path)


@pytest.mark.parametrize(
    "function", ["texts", "texts.give", "a b:give", ":give", "texts:", "texts:a.b", "../x:give", "1a:b"]
)
def test_what_is_no_module_and_name_is_refused(function):
    with pytest.raises(ValidationError, match=r"write module and name, such as package\.module:name"):
        source(function)


# -------------------------------------------------------------------------------------- what goes wrong inside
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import nothing_of_this_name\ndef give(): pass", "cannot be imported (ModuleNotFoundError: No module named"),
        ("1 / 0\ndef give(): pass", "(texts) cannot be imported (ZeroDivisionError: division by zero): repair it"),
        ("raise SystemExit(3)\ndef give(): pass", "cannot be imported (SystemExit: 3)"),
        ("give = 3", "has no function 'give'"),
        ("def give(): return 'one text'", "gives 'one text' (str), not documents: let it yield"),
        ("def give(): return {'text': 'x'}", "gives {'text': 'x'} (dict), not documents"),
        ("def give(): return 3", "gives 3 (int), not documents"),
        ("async def give(): yield 'x'", "(async_generator), not documents"),
        ("def give(path): yield 'x'", "fails at document 0 (counted from 0) with TypeError: give() missing 1 required"),
        ("def give():\n    yield 'x'\n    raise OSError('gone')", "at document 1 (counted from 0) with OSError: gone"),
        ("def give():\n    yield 'x'\n    exit()", "at document 1 (counted from 0) with SystemExit"),
    ],
)  # fmt: skip
def test_whatever_the_function_does_wrong_is_one_sentence(tmp_path, code, says):
    write(tmp_path, code)
    with pytest.raises(SourceError, match=re.escape(says)) as error:
        called(tmp_path)
    assert "\n" not in str(error.value)
    assert "'texts:give'" in str(error.value)


def test_the_line_that_fails_is_named_even_where_a_library_fails(tmp_path):
    write(tmp_path, "import json\n\ndef give():\n    yield 'x'\n    json.loads('{')\n")
    with pytest.raises(SourceError, match=rf"JSONDecodeError: .* \({tmp_path}/texts\.py:5\): repair it"):
        called(tmp_path)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("3", "is 3 (int): give text, or a list or array of whole numbers"),
        ("None", "is None (NoneType): give text"),
        ("b'abc'", "is b'abc' (bytes): give text"),
        ("{1}", "is {1} (set): give text"),
        ("[1.5]", "is [1.5] (list): give text"),
        ("[1, None]", "is [1, None] (list): give text"),
        ("[True]", "is [True] (list): give text"),
        ("[[1, 2], [3]]", "is [[1, 2], [3]] (list): give text"),
        ("['one', 'two']", "is ['one', 'two'] (list): give text"),
        ("__import__('numpy').zeros((2, 2), int)", "is array([[0, 0], [0, 0]]) (ndarray): give text"),
        ("{'text': 'x', 'token_ids': [1]}", "has text and token_ids: give text"),
        ("{'name': 'x'}", "has name: give text"),
        ("{}", "has nothing: give text"),
        ("{'text': 'x', 'label': 1}", "has 'label': give text"),
        ("{'text': 3}", "has, as its text, 3 (int): give text"),
        ("{'text': 'x', 'name': 7}", "has, as its name, 7 (int): give text"),
        ("{'text': 'x', 'kind': ''}", "has, as its kind, '' (str): give text"),
        ("'a\\ud800'", "has, as its text, half a surrogate pair at character 1: take it out"),
    ],
)
def test_what_is_no_document_is_named_with_its_number(tmp_path, value, says):
    write(tmp_path, f"def give():\n    yield 'x'\n    yield {value}\n")
    with pytest.raises(
        CorpusError, match=re.escape(f"Document 1 (counted from 0) of the corpus function 'texts:give' {says}")
    ):
        called(tmp_path)


def test_a_function_that_yields_nothing_holds_no_text(tmp_path):
    for code in ("def give(): return []", "def give(): yield ' '"):
        write(tmp_path, code)
        with pytest.raises(CorpusError, match="source 'texts:give' holds no text: fill it"):
            fingerprint(tmp_path)


def test_a_tensor_is_token_ids(tmp_path):
    write(tmp_path, "import torch\ndef give(): yield torch.tensor([3, 4])\n")
    (found,) = called(tmp_path)
    assert np.array_equal(found.token_ids, [3, 4])
