"""How long-running work reports how far it is."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with the amount of work that is done, and the whole amount (0 while unknown)."""
