"""The README's blocks that tests run: each stands under a comment that says how."""

from __future__ import annotations

import re
from pathlib import Path

_BLOCK = re.compile(r"<!-- (run|output|sql)(?:: (\w+))? -->\n```\w*\n(.*?)```", re.DOTALL)


def blocks(kind: str, name: str = "") -> list[str]:
    """Give the blocks of a kind (run, output, sql) and name, in their order."""
    text = (Path(__file__).parents[1] / "README.md").read_text()
    return [body for found, of, body in _BLOCK.findall(text) if (found, of) == (kind, name)]
