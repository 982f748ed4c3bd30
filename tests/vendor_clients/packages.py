"""The two vendors' packages from PyPI, unmodified, in a virtual environment of their own, made once per machine.

Their clients need little of what the packages need as a whole (Dioptra's is also its server, with TensorFlow's data sets), and
their needs may clash with ours: the packages are installed without what they require, and beside them what their clients import.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from platformdirs import user_cache_path

PACKAGES = ("craft-ai-sdk==0.74.7", "dioptra-platform==1.2.2")
IMPORTED = (
    "pyjwt>=2.15,<3",
    "requests>=2.33,<3",
    "requests-toolbelt>=1,<2",
    "StrEnum>=0.4.9,<1",
    "structlog>=24,<27",
    "typing-extensions>=4.12,<5",
)
_INSTALL_S = 240


def vendor_python() -> Path:
    """Give the interpreter that has the packages, installing them where this machine does not have them yet."""
    text = "\n".join([sys.version, *PACKAGES, *IMPORTED])
    home = user_cache_path("fqlstream") / "vendor-clients" / hashlib.sha256(text.encode()).hexdigest()[:16]
    if not (home / "made").exists():
        _make(home)
    return home / "bin" / "python"


def _make(home: Path) -> None:
    """Make it beside its place and move it there whole: another test process may do the same at this moment."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as folder:
        building = Path(folder) / "venv"
        venv.create(building, with_pip=True)
        python = building / "bin" / "python"
        _pip(python, "--no-deps", *PACKAGES)
        _pip(python, *IMPORTED)
        (building / "made").touch()
        try:
            building.rename(home)
        except OSError:
            if not (home / "made").exists():  # what is there is half of one
                shutil.rmtree(home)
                building.rename(home)


def _pip(python: Path, *what: str) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *what],
        capture_output=True,
        text=True,
        check=False,
        timeout=_INSTALL_S,
    )
    assert done.returncode == 0, f"pip could not install {what}: {done.stderr}"
