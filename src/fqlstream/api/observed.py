"""What an API process tells of itself: numbers for Prometheus, one line of JSON per request."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

request_log = logging.getLogger("fqlstream.api.request")

#: From half a millisecond, an answer out of memory, to half a minute, the longest snapshot that somebody waits for.
_BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_NO_ROUTE: Final = "none"


class Numbers:
    """Counts of one application. Labels are routes, never paths: a path may hold any name."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route")
        self.requests = Counter(
            "fqlstream_http_requests", "Requests answered.", (*labels, "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "fqlstream_http_request_seconds",
            "Time from a request's head to the end of its answer.",
            labels,
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self.running = Gauge(
            "fqlstream_http_requests_running", "Requests that have no answer yet.", registry=self.registry
        )
        self.definitions_age = Gauge(
            "fqlstream_definitions_read_seconds_ago",
            "Time since the topic of definitions was last read to its end.",
            registry=self.registry,
        )

    def answered(self, method: str, route: str | None, status: int, took_s: float) -> None:
        """Count one request."""
        name = route or _NO_ROUTE
        self.requests.labels(method, name, status).inc()
        self.seconds.labels(method, name).observe(took_s)


class JsonLines(logging.Formatter):
    """Writes a log record as one line of JSON: time, level, logger, message, and what was passed as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def configure_logging() -> None:
    """Write logs to standard error as lines of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    # each request has a line of ours
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("httpx").setLevel(logging.WARNING)
