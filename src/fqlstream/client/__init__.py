"""The SDK: `Producer` sends events, `QueryClient` reads values. Importing it loads neither Kafka nor pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fqlstream.client.producer import DeliveryError, DeliveryFailure, Producer
    from fqlstream.client.queries import QueryClient

__all__ = ["DeliveryError", "DeliveryFailure", "Producer", "QueryClient"]


def __getattr__(name: str) -> Any:
    if name == "QueryClient":
        from fqlstream.client.queries import QueryClient

        return QueryClient
    if name in __all__:
        from fqlstream.client import producer

        return getattr(producer, name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
