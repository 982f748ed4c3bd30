"""What an API process tells of itself: numbers for Prometheus, one line of JSON per request."""

from __future__ import annotations

import logging
import sys
from typing import Final

from prometheus_client import CollectorRegistry

from fqlstream.ops import numbers
from fqlstream.ops.log_lines import JsonLines

request_log = logging.getLogger("fqlstream.api.request")

_NO_ROUTE: Final = "none"


class Numbers:
    """Counts of one application. Labels are routes, never paths: a path may hold any name."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = numbers.counter(numbers.HTTP_REQUESTS, self.registry)
        self.seconds = numbers.histogram(numbers.HTTP_SECONDS, self.registry)
        self.running = numbers.gauge(numbers.HTTP_RUNNING, self.registry)
        self.definitions_age = numbers.gauge(numbers.DEFINITIONS_AGE, self.registry)

    def answered(self, method: str, route: str | None, status: int, took_s: float) -> None:
        """Count one request."""
        name = route or _NO_ROUTE
        self.requests.labels(method, name, status).inc()
        self.seconds.labels(method, name).observe(took_s)


def configure_logging() -> None:
    """Write logs to standard error as lines of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    # each request has a line of ours
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("httpx").setLevel(logging.WARNING)
