"""Help, exit codes and the start of the command line."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from n2g_assets import cli
from n2g_assets.cli import commands
from n2g_assets.cli.output import table_text

HEAVY = {"dagster", "torch", "transformers", "numba", "matplotlib", "sklearn"}
NAMES = sorted(commands.n2g.commands)


def test_every_command_has_help_that_fits_on_a_screen_with_an_example(capsys):
    for name in NAMES:
        assert cli.main([name, "--help"]) == 0
        said = capsys.readouterr().out
        assert "Example: " in said
        assert f"n2g {name}" in said.partition("Example: ")[2]
        assert len(said.splitlines()) <= 24
        assert max(map(len, said.splitlines())) <= 80


def test_the_list_of_commands_cuts_no_sentence_and_the_version_is_that_of_the_package(capsys):
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    listed = said.partition("Commands:")[2]
    assert "..." not in listed
    assert all(f"  {name} " in listed for name in NAMES)
    assert cli.main(["--version"]) == 0
    assert importlib.metadata.version("n2g_assets") in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", [["bogus"], ["sql"], ["run"], ["sql", "--json", "--csv", "SELECT 1"], ["predict", "--layer", "x"], []]
)
def test_a_wrong_call_is_said_with_exit_code_2(wrong, capsys):
    assert cli.main(wrong) == 2
    assert "Usage: n2g" in capsys.readouterr().err


def test_help_and_the_reading_commands_load_no_heavy_library(tmp_path):
    code = (
        "import os, sys; from n2g_assets import cli; "
        "print(*(cli.main(each) for each in (['--help'], ['sql', 'SELECT 1'], ['studies'])), file=sys.stderr); "
        "print('loaded', *sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"N2G_HOME": str(tmp_path), "PATH": "", "PYTHONPATH": str(Path(cli.__file__).parents[2])},
    )  # fmt: skip
    assert found.stderr.splitlines()[-1] == "0 1 1"
    loaded = {name.partition(".")[0] for name in found.stdout.rpartition("loaded ")[2].split()}
    assert "n2g_assets" in loaded
    assert not loaded & HEAVY


def test_a_table_shows_hostile_text_by_its_code_and_stays_straight():
    rows = [{"a": "\x1b[31mred\u202e\n", "b": 1.5}, {"a": "漢字", "b": None}, {"a": b"\xff<b>", "b": 10}]
    lines = table_text(["a", "b"], rows).splitlines()
    assert lines[2] == r"\x1b[31mred\u{202e}   1.5"
    assert lines[3] == "漢字" + " " * 20 + "-"
    assert lines[4] == r"\xff<b>" + " " * 16 + "10"
