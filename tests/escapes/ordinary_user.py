"""Runs a program of this suite as somebody who is not root: `python -m tests.escapes.ordinary_user tests.escapes.service --engine sqlframe`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from fqlstream.code_metrics.sandbox import find_bwrap

_NOBODY = 65_534
_ROOT = Path(__file__).parents[2]


def run_program(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module of this repository that prints JSON, and give that. It says by itself who ran it (`uid`)."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        Path(scratch).chmod(0o777)
        cache = Path(scratch, "cache")
        _bring_kafka(cache)
        own = {"TMPDIR": scratch, "HOME": scratch, "XDG_CACHE_HOME": str(cache)}
        environment = {**os.environ, "PYTHONPATH": f"{_ROOT / 'src'}:{_ROOT}", **own}
        command = [*_as_nobody(), sys.executable, "-B", "-m", module, *arguments]
        done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr[-4_000:]
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    assert answer["uid"] != 0
    return answer


def _bring_kafka(cache: Path) -> None:
    """Copy the broker's jars from our cache to theirs: ours may lie where they cannot look, and they have no Maven of their own."""
    ours = user_cache_path("fqlstream") / "kafka"
    if ours.is_dir():
        shutil.copytree(ours, cache / "fqlstream" / "kafka")


def _as_nobody() -> list[str]:
    """Become somebody else, where we are root: with what we run from in view, though it may lie where only root may look."""
    if os.getuid() != 0:
        return []
    bwrap = find_bwrap(None)
    assert bwrap is not None
    command = [str(bwrap), "--dev-bind", "/", "/"]
    needed = {Path(place) for place in (sys.prefix, sys.base_prefix)} | {_ROOT}
    closed = {top for place in needed for top in place.parents if top.stat().st_mode & 0o005 != 0o005}
    for top in sorted(closed):
        command += ["--tmpfs", str(top), "--chmod", "0755", str(top)]
    for place in sorted(needed):
        for parent in reversed([parent for parent in place.parents if closed & set(parent.parents)]):
            command += ["--perms", "0755", "--dir", str(parent)]
        command += ["--ro-bind", str(place), str(place)]
    return [*command, "--", "setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run_program(*sys.argv[1:]), indent=1) + "\n")
