"""`python -m fqlstream.bench.empty_route PORT`: a FastAPI application whose routes do nothing: what the framework itself costs."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI


def application() -> FastAPI:
    """Give an application of one route to read and one to write."""
    app = FastAPI()

    @app.get("/empty")
    async def read() -> dict[str, int]:
        return {"value": 1}

    @app.post("/empty")
    async def write(body: dict[str, Any]) -> dict[str, int]:
        return {"fields": len(body)}

    return app


if __name__ == "__main__":
    uvicorn.run(
        application(), port=int(sys.argv[1]), loop="asyncio", http="httptools", log_level="warning", access_log=False
    )
