from __future__ import annotations
from fqlstream.stream.batches import Fetch
from fqlstream.stream.findings import Context, Findings

ARROW_CONTENT_TYPE = "application/vnd.apache.arrow.stream"


def content_types(fetch):
    return {}


def read_arrow(fetch, at, context):
    raise NotImplementedError
