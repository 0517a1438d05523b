"""``n2g export-site`` and ``export-neuronpedia``: studies as files for others."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from n2g_assets.assets.progress import progress
from n2g_assets.cli.output import say
from n2g_assets.core.home import Home
from n2g_assets.core.progress import Progress
from n2g_assets.explore.site import export_site as write_site
from n2g_assets.reading.database import Database
from n2g_assets.reading.neuronpedia import export_neuronpedia as write_neuronpedia
from n2g_assets.reading.study import open_study
from n2g_assets.report.text import human_bytes

_NAMED = 20
"""Units without an explanation that are named."""


def export_site(out: Path, studies: Sequence[str], force: bool) -> None:
    """Write the pages of studies to a folder, and say where they begin and how large they are."""
    database = Database.of(Home.from_environment()).snapshot()
    with _shown("pages") as report:
        written = write_site(database, studies, out.absolute(), report, force=force)
    say(f"{human_bytes(written)} in {out}: open {out / 'index.html'}, or host the folder anywhere.")


def export_neuronpedia(out: Path, study: str, model: str | None, force: bool) -> None:
    """Write a study to a folder as Neuronpedia imports it, and say how large it is."""
    found = open_study(study, Home.from_environment())
    with _shown("units") as report:
        written = write_neuronpedia(found, out.absolute(), report, model=model, force=force)
    say(f"{human_bytes(written.size)} in {out}: a folder for each layer, and config beside them (docs/explorer.md).")
    if written.unexplained:
        named, more = "; ".join(written.unexplained[:_NAMED]), len(written.unexplained) - _NAMED
        have = "unit has" if len(written.unexplained) == 1 else "units have"
        say(f"{len(written.unexplained):,} {have} no explanation: {named}{f', and {more:,} more' if more > 0 else ''}.")


@contextmanager
def _shown(what: str) -> Iterator[Progress]:
    """A bar on a terminal, and elsewhere a line every ten seconds at the most, as runs have it."""
    os.environ["N2G_PROGRESS"] = "lines"
    with progress("export", what, log=lambda line: None) as report:
        yield report
