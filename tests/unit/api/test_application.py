"""The application as a whole: who may call what, the forms of refusals, and a description that leaves nothing out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from tests.memory_access import MemoryAccess
from tests.unit.api.asgi import ask

from fqlstream.api import dioptra
from fqlstream.api.application import OWN_ROUTERS, PREFIX, UPLOADS, create_app
from fqlstream.api.auth import SESSION_COOKIE, allow
from fqlstream.api.gate import Gate
from fqlstream.api.problems import Told
from fqlstream.api.services import Dependencies
from fqlstream.api.wires import Wire
from fqlstream.clock import ManualClock
from fqlstream.ops import access
from fqlstream.ops.access import Permission, Scope
from fqlstream.settings import ApiSettings, Settings

SECRET = b"of the test, thirty-two or longer"
PASSWORD = "correct horse battery staple"  # noqa: S105  # of nobody
#: Routes that ask for no key: what an orchestrator looks at, the description, and logging in.
OPEN = {"/health", "/health/live", "/health/ready", f"{PREFIX}/openapi.json", f"{PREFIX}/login"}


class Made:
    """An application over rows in memory; nothing behind it answers."""

    def __init__(self, memory: MemoryAccess, threads: ThreadPoolExecutor, **api: Any) -> None:
        self.memory = memory
        self.settings = Settings(api=ApiSettings(**api))
        clock = ManualClock(1_800_000_000_000)
        gate = Gate(self.settings.api, memory.store, SECRET, clock, threads)
        nothing = cast("Any", None)
        self.parts = Dependencies(self.settings, clock, memory.store, gate, nothing, nothing, nothing, threads, threads)

    def app(self, *wires: Wire) -> FastAPI:
        return create_app(self.parts, wires=wires)

    def key(self, *scopes: Scope) -> dict[str, str]:
        return {"authorization": f"Bearer {access.create_key(self.memory.store, scopes).key}"}


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, threads: ThreadPoolExecutor) -> Made:
    return Made(MemoryAccess.instead_of_clickhouse(monkeypatch), threads)


def wire(permission: Permission = Permission.RECORD) -> Wire:
    """A form of refusals like another vendor's."""
    router = APIRouter()

    @router.get("/api/v1/things", dependencies=[allow(permission)])
    async def things(number: int = 0) -> dict[str, int]:
        return {"number": number}

    def render(problem: Any, _: Any, request_id: str) -> Told:
        status = 400 if problem.status == 422 else problem.status
        return Told(status, {"message": problem.message, "name": problem.name, "request_id": request_id})

    return Wire("things", router, render, lambda scope: scope["path"].startswith("/api/v1"))


def operations(app: FastAPI) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in app.openapi()["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def test_every_route_asks_for_a_key_but_those_that_are_open(made: Made) -> None:
    app = made.app()
    called = 0
    for path, method, _ in operations(app):
        if path not in OPEN:
            refused = ask(app, method.upper(), path)
            assert (refused.status_code, refused.json()["code"]) == (401, "API002"), (method, path)
            assert refused.headers["www-authenticate"] == "Bearer"
            called += 1
    assert called > 40


def test_routes_that_take_files_find_out_who_sends_them_first(made: Made) -> None:
    """FastAPI reads a form before it asks a route's dependencies."""
    app = made.app()
    read: list[int] = []

    async def body() -> Any:
        read.append(1)
        yield b"x"

    taking = {path for path, _, operation in operations(app) if "multipart/form-data" in str(operation)}
    assert taking == set(UPLOADS)
    write, reader = made.key(Scope.WRITE), made.key(Scope.READ)
    form = {"content-type": "multipart/form-data; boundary=b"}
    for path, permission in UPLOADS.items():
        for key in ({}, write, reader):
            refused = ask(app, "POST", path, headers={**form, **key}, content=body())
            may = key is reader and permission is Permission.READ
            assert (refused.status_code, bool(read)) == ((400 if may else 403 if key else 401), may), path
            read.clear()


def test_a_key_without_the_scope_is_refused_and_told_why(made: Made) -> None:
    app = made.app()
    write, read = made.key(Scope.WRITE), made.key(Scope.READ)
    for headers, method, path in (
        (write, "GET", f"{PREFIX}/keys"),
        (read, "POST", f"{PREFIX}/definitions/yaml"),
        (read, "POST", f"{PREFIX}/recorded/pipeline-metrics"),
        (write, "GET", f"{PREFIX}/values?model=a&metric=b"),
    ):
        refused = ask(app, method, path, headers=headers, json={"execution": "a", "name": "b", "value": 1})
        assert (refused.status_code, refused.json()["code"]) == (403, "API003"), path
        assert "does not allow" in refused.json()["detail"]


def test_keys_are_made_used_listed_and_revoked_over_the_wire(made: Made) -> None:
    app, admin = made.app(), made.key(Scope.ADMIN)
    new = ask(app, "POST", f"{PREFIX}/keys", headers=admin, json={"scopes": ["write"], "name": "nightly"}).json()
    mine = {"authorization": f"Bearer {new['key']}"}
    assert ask(app, "GET", f"{PREFIX}/me", headers=mine).json() == {
        "id": f"key:{new['id']}", "name": "nightly", "scopes": ["write"],
    }  # fmt: skip
    listed = ask(app, "GET", f"{PREFIX}/keys", headers=admin)
    assert [row["name"] for row in listed.json()] == ["", "nightly"]
    assert new["key"].split("_", 2)[2] not in listed.text
    assert "argon2" not in listed.text
    revoked = ask(app, "DELETE", f"{PREFIX}/keys", headers=admin, params={"id": new["id"]})
    assert revoked.json()["revoked_at"] is not None
    assert ask(app, "GET", f"{PREFIX}/me", headers=mine).status_code == 401, "this process forgets at once"
    assert ask(app, "DELETE", f"{PREFIX}/keys", headers=admin, params={"id": "nobody"}).status_code == 404
    own = next(iter(made.memory.keys))
    assert ask(app, "DELETE", f"{PREFIX}/keys", headers=admin, params={"id": own}).status_code == 409


def test_a_user_logs_in_with_a_cookie_that_scripts_and_other_sites_cannot_use(made: Made) -> None:
    app, admin = made.app(), made.key(Scope.ADMIN)
    assert (
        ask(app, "POST", f"{PREFIX}/users", headers=admin, json={"name": "bob", "password": PASSWORD}).status_code
        == 200
    )
    assert (
        ask(app, "POST", f"{PREFIX}/users", headers=admin, json={"name": "bob", "password": PASSWORD}).status_code
        == 409
    )
    assert ask(app, "POST", f"{PREFIX}/login", json={"name": "bob", "password": "wrong password"}).status_code == 401
    answer = ask(app, "POST", f"{PREFIX}/login", json={"name": "bob", "password": PASSWORD})
    told = answer.headers["set-cookie"].lower()
    assert "httponly" in told
    assert "samesite=strict" in told
    assert "secure" not in told
    secure = ask(
        app, "POST", f"{PREFIX}/login", json={"name": "bob", "password": PASSWORD}, base_url="https://127.0.0.1"
    )
    assert "secure" in secure.headers["set-cookie"].lower()
    cookie = {"cookie": f"{SESSION_COOKIE}={answer.cookies[SESSION_COOKIE]}"}
    assert ask(app, "GET", f"{PREFIX}/me", headers=cookie).json()["id"] == "user:bob"
    other = ask(app, "POST", f"{PREFIX}/logout", headers={**cookie, "origin": "http://evil.example"})
    assert (other.status_code, other.json()["code"]) == (403, "API003")
    assert (
        ask(app, "POST", f"{PREFIX}/logout", headers={**cookie, "origin": "http://127.0.0.1:8080"}).status_code == 204
    )
    assert ask(app, "GET", f"{PREFIX}/me", headers=cookie).status_code == 401


def test_an_odd_header_is_no_caller_and_no_accident(made: Made) -> None:
    app = made.app()
    for value in (
        b"Bearer",
        b"Bearer ",
        b"Basic Zm86YmFy",
        b"Bearer \xff\xfe",
        b"bearer x y z",
        b"Bearer " + b"x" * 60_000,
    ):
        refused = ask(app, "GET", f"{PREFIX}/me", headers={"authorization": value})
        assert refused.status_code == 401, value
    for value in (b"fqlstream_session=", b"fqlstream_session=\xff", b"fqlstream_session=a.b.c"):
        assert ask(app, "GET", f"{PREFIX}/me", headers={"cookie": value}).status_code == 401, value


def test_without_keys_only_this_machine_is_answered(
    monkeypatch: pytest.MonkeyPatch, threads: ThreadPoolExecutor
) -> None:
    made = Made(MemoryAccess.instead_of_clickhouse(monkeypatch), threads, auth=False)
    app = made.app()
    for name in ("127.0.0.1:8080", "localhost:8080", "[::1]:8080"):
        assert ask(app, "GET", f"{PREFIX}/me", headers={"host": name}).json()["id"] == "anyone", name
    for headers in (
        {"host": "rebound.example"},
        {"host": "10.0.0.5:8080"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "127.0.0.1:8080", "origin": "http://evil.example"},
        {"host": "127.0.0.1:8080", "origin": "null"},
    ):
        assert ask(app, "GET", f"{PREFIX}/me", headers=headers).status_code == 403, headers


def test_each_form_refuses_in_its_own_words_also_where_there_is_no_route(made: Made) -> None:
    app = made.app(wire())
    key = made.key(Scope.WRITE)
    for path, status, name in (
        ("/api/v1/things?number=x", 400, "ValidationError"),
        ("/api/v1/nothing", 404, "NotFound"),
    ):
        refused = ask(app, "GET", path, headers={**key, "x-request-id": "r-1"})
        assert refused.status_code == status
        assert (refused.json()["name"], refused.json()["request_id"]) == (name, "r-1")
    assert ask(app, "GET", "/api/v1/things").json().keys() == {"message", "name", "request_id"}
    assert ask(app, "POST", "/api/v1/things", headers=key).status_code == 405
    assert ask(app, "POST", "/api/v1/things", content=b"x" * 9_000_000).json().keys() == {
        "message",
        "name",
        "request_id",
    }
    assert ask(app, "GET", "/elsewhere").json()["code"] == "API004", "everything else is ours"


def test_half_a_surrogate_pair_is_told_again_and_is_no_accident(made: Made) -> None:
    refused = ask(made.app(dioptra.WIRE), "POST", "/api/v1/auth/login", content=b'{"\\ud800": 1}')
    assert refused.status_code == 400
    assert rb"\ud800" in refused.content


def test_the_description_is_whole(made: Made) -> None:
    app = made.app()
    ids = [operation["operationId"] for _, _, operation in operations(app)]
    assert len(set(ids)) == len(ids)
    for path, method, operation in operations(app):
        where = f"{method} {path}"
        assert operation.get("summary"), where
        assert operation.get("description"), where
        answers = operation["responses"]
        assert any(status.startswith("2") for status in answers), where
        for status, answer in answers.items():
            assert answer["description"], where
            if status.startswith(("4", "5")) and path not in OPEN:
                assert answer["content"].keys() == {"application/problem+json"}, (where, status)
        if path not in OPEN:
            assert operation["security"], where
            assert {"401", "403"} <= answers.keys(), where
    assert "ProblemBody" in app.openapi()["components"]["schemas"]
    assert app.openapi() is app.openapi(), "made once"


def test_every_parameter_and_body_of_ours_is_bounded(made: Made) -> None:
    for path, method, operation in operations(made.app()):
        for parameter in operation.get("parameters", ()):
            schema = parameter["schema"]
            for each in schema.get("anyOf", [schema]):
                if each.get("type") == "string" and not {"enum", "const"} & each.keys():
                    assert "maxLength" in each, (method, path, parameter["name"])
                if each.get("type") == "integer":
                    assert {"minimum", "maximum"} <= each.keys(), (method, path, parameter["name"])


def test_each_of_our_routes_is_below_the_prefix(made: Made) -> None:
    own = {route.path for router in OWN_ROUTERS for route in router.routes if isinstance(route, APIRoute)}
    assert len(own) > 25
    assert {path for path, _, _ in operations(made.app())} - OPEN - {"/metrics"} <= {PREFIX + path for path in own}


def test_numbers_are_for_those_who_may_read(made: Made) -> None:
    app = made.app()
    assert ask(app, "GET", "/metrics").status_code == 401
    assert ask(app, "GET", "/metrics", headers=made.key(Scope.WRITE)).status_code == 403


def test_a_refusal_is_in_the_form_whose_path_it_is_though_another_form_takes_the_rest(made: Made) -> None:
    app = create_app(made.parts)
    of_aporia = ask(app, "GET", "/api/v1/default/default/model-versions", params={"model_id": "m"})
    assert (of_aporia.status_code, set(of_aporia.json())) == (401, {"detail"})
    of_dioptra = ask(app, "GET", "/api/v1/default/default/else")
    assert (of_dioptra.status_code, "originating_path" in of_dioptra.json()) == (404, True)
