"""``n2g clean``: what can be removed from the home, with sizes."""

from n2g_assets.assets.cleaning import Removable, check_unused, removable, remove, size_of
from n2g_assets.cli.output import say, say_json, table_text
from n2g_assets.core.home import Home
from n2g_assets.report.text import human_bytes
from n2g_assets.storage.slices import SliceStore


def clean(study: str | None, yes: bool, as_json: bool) -> None:
    """Show what can be removed, and remove it where that is asked for.

    Raises:
        MissingError: there is no such study.
        StorageError: a run uses the home, a file cannot be removed, or the store is in object storage.
    """
    home = Home.from_environment()
    if yes:
        check_unused(home)
    groups, unknown = removable(home, study)
    total = sum(group.bytes for group in groups)
    if as_json:
        say_json(
            {"removed": yes, "bytes": total, "found": [_described(group) for group in groups], "unknown": unknown}
        )  # fmt: skip
    else:
        _show(home, groups, total, unknown)
    if yes:
        remove(home, groups, study)
    if as_json:
        return
    if yes:
        say(f"Removed {human_bytes(total)} from {home.root}." if groups else f"Nothing to remove in {home.root}.")
    elif groups:
        command = "n2g clean --yes" if study is None else f"n2g clean {study} --yes"
        say(f"{human_bytes(total)} in {home.root}: {command} removes it.")
    else:
        say(f"Nothing to remove in {home.root}.")
    if study is None and not yes and (studies := SliceStore(home).studies()):
        say(f"A study is removed by its name: n2g clean NAME, of {', '.join(studies)}.")


def _show(home: Home, groups: list[Removable], total: int, unknown: dict[str, str]) -> None:
    rows = [
        {"what": group.what, "files": _files(group), "size": human_bytes(group.bytes), "to have it again": group.again}
        for group in groups
    ]
    if rows:
        say(table_text(list(rows[0]), rows) + "\n")
    for study, why in unknown.items():
        say(
            f"Study '{study}' cannot say what it needs, so evidence and models stay until it is run again, or removed "
            f"by its name: {why}"
        )


def _files(group: Removable) -> int:
    return sum(1 if path.is_file() else sum(each.is_file() for each in path.rglob("*")) for path in group.paths)


def _described(group: Removable) -> dict[str, object]:
    return {
        "what": group.what, "again": group.again, "bytes": group.bytes,
        "paths": [{"path": str(path), "bytes": size_of(path)} for path in group.paths],
    }  # fmt: skip
