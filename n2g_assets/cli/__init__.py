"""The command line ``n2g``; make targets call it.

``commands`` declares every command, what it takes and its help, and imports nothing heavy: a command imports what it
needs when it runs. ``runs`` does what Dagster takes part in, ``reading`` asks the published database, ``cleaning``
says what can be removed.
"""

from n2g_assets.cli.commands import main

__all__ = ["main"]
