"""The edge: request ids, bounded bodies, one line and one count per request, and an answer whatever happens."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from tests.unit.api.asgi import ask, call

from fqlstream.api.edge import Edge
from fqlstream.api.observed import JsonLines, Numbers
from fqlstream.api.problems import ApiError, problem_of, refuse
from fqlstream.settings import ApiSettings

LIMITS = ApiSettings(body_bytes_max=1_024, upload_bytes_max=4_096, body_wait_s=0.05)


def application(settings: ApiSettings = LIMITS) -> tuple[FastAPI, Numbers]:
    numbers = Numbers()
    app = FastAPI()

    @app.post("/echo/{name}")
    async def echo(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @app.post("/whole/file")
    async def upload(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @app.post("/json")
    async def take_json(given: dict[str, int]) -> dict[str, int]:
        return given

    @app.post("/form")
    async def take_form(given: Annotated[str, Form()]) -> dict[str, str]:
        return {"given": given}

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("the password is hunter2")

    @app.get("/half")
    async def half() -> StreamingResponse:
        async def pieces() -> Any:
            yield b"x"
            raise RuntimeError("in the middle")

        return StreamingResponse(pieces())

    def answer(_: Any, error: Exception) -> Any:
        problem = problem_of(error)
        return JSONResponse({"code": problem.code}, problem.status, headers=dict(problem.headers))

    async def admit(scope: Any) -> None:
        if (b"x-no-key", b"1") in scope["headers"]:
            raise refuse(401, "no key is given")

    async def handle(request: Request, error: Exception) -> Any:
        return answer(request.scope, error)

    for kind in (ApiError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, handle)
    app.add_middleware(
        Edge,
        settings=settings,
        numbers=numbers,
        answer=answer,
        uploads=lambda path: path.endswith("/file"),
        admit=admit,
    )
    return app, numbers


def test_a_request_has_the_id_that_its_client_gave_or_one_of_ours() -> None:
    app, _ = application()
    assert ask(app, "POST", "/echo/a", headers={"x-request-id": "job-17.a_b"}).headers["x-request-id"] == "job-17.a_b"
    for odd in ("", "a b", "x" * 65, '"', "a\tb"):
        given = ask(app, "POST", "/echo/a", headers={"x-request-id": odd}).headers["x-request-id"]
        assert given != odd
        assert len(given) == 32


def test_a_body_that_is_too_large_is_refused_by_its_head_and_by_its_bytes() -> None:
    app, _ = application()
    assert ask(app, "POST", "/echo/a", content=b"x" * 1_024).json() == {"bytes": 1_024}
    refused = ask(app, "POST", "/echo/a", content=b"x" * 1_025)
    assert (refused.status_code, refused.json()["code"]) == (413, "API009")

    async def pieces() -> Any:
        for _ in range(20):
            yield b"x" * 100

    assert ask(app, "POST", "/echo/a", content=pieces()).status_code == 413
    assert ask(app, "POST", "/whole/file", content=b"x" * 4_096).json() == {"bytes": 4_096}
    assert ask(app, "POST", "/whole/file", content=b"x" * 4_097).status_code == 413
    assert ask(app, "POST", "/echo/a", headers={"content-length": "9" * 5_000}).status_code == 413


def test_who_may_not_send_a_file_is_refused_before_any_of_it_is_read() -> None:
    app, _ = application()
    read: list[int] = []

    async def pieces() -> Any:
        read.append(1)
        yield b"x" * 100

    refused = ask(app, "POST", "/whole/file", content=pieces(), headers={"x-no-key": "1"})
    assert (refused.status_code, refused.headers["connection"], read) == (401, "close", [])


def test_more_files_than_may_be_at_once_are_refused_at_once_and_other_requests_go_on() -> None:
    app, _ = application(LIMITS.model_copy(update={"uploads_max": 2, "body_wait_s": 30}))

    async def play(client: httpx.AsyncClient) -> list[int]:
        both, over = asyncio.Barrier(3), asyncio.Event()

        async def slow() -> Any:
            yield b"x"
            await both.wait()
            await over.wait()
            yield b"x"

        running = [asyncio.create_task(client.post("/whole/file", content=slow())) for _ in range(2)]
        await both.wait()
        refused = await client.post("/whole/file", content=b"x")
        assert refused.headers["retry-after"] == "5"
        other = await client.post("/echo/a", content=b"x")
        over.set()
        sent = [(await task).status_code for task in running]
        later = await client.post("/whole/file", content=b"x")
        return [refused.status_code, other.status_code, *sent, later.status_code]

    assert call(app, play) == [503, 200, 200, 200, 200]


def test_a_body_that_comes_by_drops_is_not_taken_for_ever() -> None:
    app, _ = application(LIMITS.model_copy(update={"body_whole_wait_s": 0.05, "body_wait_s": 30}))

    async def drops() -> Any:
        while True:
            yield b""
            await asyncio.sleep(0.01)

    refused = ask(app, "POST", "/echo/a", content=drops())
    assert (refused.status_code, refused.json()["code"]) == (408, "API007")


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    app, _ = application()

    async def play(client: httpx.AsyncClient) -> httpx.Response:
        async def never() -> Any:
            yield b"x"
            await asyncio.Event().wait()

        return await client.post("/echo/a", content=never())

    refused = call(app, play)
    assert (refused.status_code, refused.json()["code"]) == (408, "API007")


@pytest.mark.parametrize(
    ("path", "kind"), [("/json", "application/json"), ("/form", "application/x-www-form-urlencoded")]
)
def test_routes_whose_body_fastapi_reads_refuse_it_alike(path: str, kind: str) -> None:
    app, _ = application()

    async def large() -> Any:
        for _ in range(20):
            yield b"1" * 100

    async def never() -> Any:
        yield b"1"
        await asyncio.Event().wait()

    for pieces, status in ((large, 413), (never, 408)):
        assert ask(app, "POST", path, content=pieces(), headers={"content-type": kind}).status_code == status


def test_what_nobody_foresaw_is_answered_and_logged_with_the_requests_id(caplog: pytest.LogCaptureFixture) -> None:
    app, _ = application()
    with caplog.at_level(logging.INFO):
        refused = ask(app, "GET", "/broken", headers={"x-request-id": "r-9"})
    assert refused.status_code == 500
    assert "hunter2" not in refused.text
    logged = next(record for record in caplog.records if record.name == "fqlstream.api")
    assert logged.fields == {"request_id": "r-9"}
    assert "hunter2" in JsonLines().format(logged), "the log has what the answer has not"


def test_each_request_is_one_line_and_one_count_by_route_not_by_path(caplog: pytest.LogCaptureFixture) -> None:
    app, numbers = application()
    with caplog.at_level(logging.INFO, logger="fqlstream.api.request"):
        ask(app, "POST", "/echo/one", content=b"123")
        ask(app, "POST", "/echo/two")
        ask(app, "GET", "/nowhere/three")
        ask(app, "BREW", "/nowhere/four")
    lines = [
        json.loads(JsonLines().format(record)) for record in caplog.records if record.name == "fqlstream.api.request"
    ]
    assert [(line["path"], line["status"], line["bytes_in"]) for line in lines] == [
        ("/echo/one", 200, 3), ("/echo/two", 200, 0), ("/nowhere/three", 404, 0), ("/nowhere/four", 404, 0),
    ]  # fmt: skip
    assert {"at", "level", "request_id", "method", "ms", "bytes_out", "caller", "peer"} <= lines[0].keys()
    counted = {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"]): sample.value
        for metric in numbers.registry.collect()
        for sample in metric.samples
        if sample.name == "fqlstream_http_requests_total"
    }
    assert counted == {("POST", "/echo/{name}", "200"): 2.0, ("any", "none", "404"): 2.0}, "labels are bounded"
    assert numbers.registry.get_sample_value("fqlstream_http_requests_running") == 0


def test_an_answer_that_breaks_off_is_counted_and_not_answered_twice() -> None:
    app, numbers = application()
    with pytest.raises((httpx.RemoteProtocolError, RuntimeError)):
        call_raising(app, "/half")
    assert numbers.registry.get_sample_value("fqlstream_http_requests_running") == 0


def call_raising(app: Any, path: str) -> None:
    async def play() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1") as client:
            await client.get(path)

    asyncio.run(play())


def test_every_answer_forbids_caches_sniffing_and_frames() -> None:
    app, _ = application()
    for path in ("/echo/a", "/nowhere", "/broken"):
        headers = ask(app, "GET", path).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
