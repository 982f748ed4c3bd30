"""fqlstream: windowed FQL metrics, from Kafka to ClickHouse."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fqlstream.fql.evaluate import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]

#: Public names and their modules; imported on first use, so that `import fqlstream` and the command line start at once.
_HOME = {"Evaluation": "fqlstream.fql.evaluate", "evaluate": "fqlstream.fql.evaluate"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
