"""What a wrong name may have meant."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from typing import Final

#: Characters of a name that are compared: similarity takes quadratic time.
_CHARACTERS_MAX: Final = 128
_SIMILAR: Final = 0.65


def did_you_mean(name: str, known: Collection[str]) -> str | None:
    """Give the most similar known name, None where none is similar."""
    if len(name) > _CHARACTERS_MAX:
        return None
    folded: dict[str, str] = {}
    for item in known:
        folded.setdefault(item.casefold(), item)
    if name.casefold() in folded:
        return folded[name.casefold()]
    near = get_close_matches(name, known, n=1, cutoff=_SIMILAR)
    if near:
        return near[0]
    near = get_close_matches(name.casefold(), folded, n=1, cutoff=_SIMILAR)
    return folded[near[0]] if near else None
