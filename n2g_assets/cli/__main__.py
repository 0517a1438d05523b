"""``python -m n2g_assets.cli``."""

from n2g_assets.cli.commands import main

raise SystemExit(main())
