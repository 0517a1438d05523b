"""What every study brings to its code location; several studies bring the same objects, which Dagster merges."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import dagster as dg

from n2g_assets.assets.executors import executor_of
from n2g_assets.assets.resource import N2GResource
from n2g_assets.assets.values import VALUES, StepValues


@cache
def shared_definitions() -> dg.Definitions:
    """The resources of all steps, and the executor of a run that is of no study's job."""
    return with_resources({})


def with_resources(resources: Mapping[str, Any]) -> dg.Definitions:
    """As ``shared_definitions``, some of the resources being others."""
    n2g = resources.get("n2g", N2GResource())
    return dg.Definitions(
        resources={"n2g": n2g, VALUES: StepValues(home=n2g.home), **resources}, executor=executor_of(None)
    )
