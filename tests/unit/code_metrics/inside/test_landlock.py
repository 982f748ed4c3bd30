from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ENTER = (
    "import ctypes, sys\nctypes.CDLL(None).prctl(38, 1, 0, 0, 0)\nfrom fqlstream.code_metrics.inside import landlock\n"
)


def test_only_named_files_can_be_touched(tmp_path: Path) -> None:
    for name in ("read", "write", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name, encoding="ascii")
    code = f"""
from pathlib import Path
root = Path({str(tmp_path)!r})
landlock.restrict([sys.prefix, sys.base_prefix, '/usr', '/lib', str(root / 'read'), '/absent'], [str(root / 'write')])
for what in (
    lambda: (root / 'read/file').read_text(), lambda: (root / 'write/file').read_text(), lambda: (root / 'closed/file').read_text(),
    lambda: (root / 'read/file').write_text('x'), lambda: (root / 'write/file').write_text('x'), lambda: (root / 'new').touch(),
    lambda: (root / 'write/new').touch(), lambda: (root / 'read/file').unlink(), lambda: (root / 'write/file').unlink(),
):
    try:
        what()
        print('yes', end=' ')
    except PermissionError:
        print('no', end=' ')
"""
    done = subprocess.run([sys.executable, "-c", ENTER + code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["yes", "yes", "no", "no", "yes", "no", "yes", "no", "yes"]
    assert (tmp_path / "read" / "file").read_text(encoding="ascii") == "read"
