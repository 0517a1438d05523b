"""What the project files name is there: the code location, and packages whose versions are recorded."""

import tomllib
from importlib import metadata
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from n2g_assets.assets.subject_model import _RECORDED

ROOT = Path(__file__).parents[1]


def test_the_workspace_names_the_projects_code_location():
    module = yaml.safe_load((ROOT / "workspace.yaml").read_text(encoding="utf-8"))["load_from"][0]["python_module"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["dg"]["project"]
    assert module["module_name"] == project["code_location_target_module"]
    assert module["location_name"] == project["code_location_name"]


def test_every_package_whose_version_is_recorded_comes_with_the_package_itself():
    """Not only with the extra ``dev``: ``make demo`` installs no more than the package needs."""
    waiting, found = {"n2g_assets"}, set()
    while waiting:
        name = waiting.pop()
        found.add(name)
        try:
            requirements = [Requirement(text) for text in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:  # of another platform
            continue
        needed = [one.name for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
        waiting |= {canonicalize_name(one) for one in needed} - found
    assert {canonicalize_name(name) for name in _RECORDED} <= {canonicalize_name(name) for name in found}
