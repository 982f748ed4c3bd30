"""How tests speak with the API of a running stack."""

from __future__ import annotations

from typing import Any

import httpx
from tests.running_stack import RunningStack

PREFIX = "/api/fqlstream/v1"


class RestClient:
    """Calls our own routes. What is no success raises, unless the test expects another status."""

    def __init__(self, stack: RunningStack, key: str | None = None) -> None:
        headers = {"authorization": f"Bearer {key or stack.api_key}"}
        self.http = httpx.Client(base_url=stack.api_url, headers=headers, timeout=60)

    def __enter__(self) -> RestClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def __call__(self, method: str, path: str, *, status: int = 200, **given: Any) -> Any:
        """Make a request; gives the answer's JSON, or its text."""
        answer = self.http.request(method, PREFIX + path, **given)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        return (
            answer.json()
            if "json" in answer.headers.get("content-type", "").split(";")[0].split("x-nd")[0]
            else answer.text
        )

    def pages(self, path: str, limit: int, **params: Any) -> list[Any]:
        """Read a list page by page; each page's total must be that of the whole list."""
        items: list[Any] = []
        while True:
            page = self("GET", path, params={**params, "offset": len(items), "limit": limit})
            assert page["offset"] == len(items)
            items += page["items"]
            if len(items) >= page["total_count"]:
                assert len(items) == page["total_count"]
                return items
            assert page["items"], "a page that is not the last one holds something"
