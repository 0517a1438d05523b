"""n2g_assets: neurons of a language model as token graphs, in a Dagster data product.

``N2GStudy`` is the component that a ``defs.yaml`` names (``type: n2g_assets.N2GStudy``). ``open_study`` reads what a
study has published.
"""

from typing import Any

__all__ = ["N2GStudy", "open_study"]


def __getattr__(name: str) -> Any:
    if name == "N2GStudy":
        from n2g_assets.study import N2GStudy

        return N2GStudy
    if name == "open_study":
        from n2g_assets.reading.study import open_study

        return open_study
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
