"""Executes examples/use_cases.ipynb on what is published in N2G_HOME, and stores what comes out.

``python -m n2g_assets_tests.notebook`` brings the outputs up to date, after ``make demo``.
"""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

from n2g_assets.core.home import Home

NOTEBOOK = Path(__file__).parents[1] / "examples" / "use_cases.ipynb"
SECONDS = 120
"""A cell may take so long."""


def without_outputs(path: Path) -> NotebookNode:
    """The notebook as somebody wrote it."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def executed(notebook: NotebookNode, home: Home) -> NotebookNode:
    """The notebook with what its cells give in a kernel of this Python.

    Raises:
        CellExecutionError: one fails.
    """
    metadata = deepcopy(notebook.metadata)
    quiet = {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}  # the kernel would warn that nobody can debug it
    with TemporaryDirectory() as folder:
        no_port = Config(KernelManager={"transport": "ipc", "ip": f"{folder}/kernel"})
        client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", record_timing=False, config=no_port)
        done: NotebookNode = client.execute(env=os.environ | quiet | {"N2G_HOME": str(home.root)})
    done.metadata = metadata  # that of the kernel says which Python this machine has
    return done


def main() -> None:
    """Store the outputs of the notebook."""
    done = executed(without_outputs(NOTEBOOK), Home.from_environment())
    nbformat.write(done, NOTEBOOK)


if __name__ == "__main__":
    main()
