"""Runs in the vendors' environment: does what it is told, a JSON line at a time, and tells what came of it and what was sent.

A line is {"do": name, "on": client, "args": [...], "kwargs": {...}}; its answer {"result"} or {"error": {"type", "message", ...}}, with
"sent", the requests that left, and "warned". Numbers that JSON lacks travel as {"float": "nan"}.
"""

import json
import os
import sys
import warnings

import requests
from craft_ai_sdk import CraftAiSdk
from dioptra.client import connect_json_dioptra_client, connect_response_dioptra_client

SENT = []
_send = requests.Session.send


def _recorded_send(session, request, **options):
    answer = _send(session, request, **options)
    body = request.body.decode() if isinstance(request.body, bytes) else request.body
    SENT.append({
        "method": request.method, "url": request.url, "headers": dict(request.headers),
        "body": body if body is None or isinstance(body, str) else str(body), "status": answer.status_code,
        "answer_headers": dict(answer.headers), "answer": answer.text[:2_000],
    })  # fmt: skip
    return answer


requests.Session.send = _recorded_send
CLIENTS = {}


def craft(name, **options):
    CLIENTS[name] = CraftAiSdk(**options)


def dioptra(name, address, form="json"):
    connect = connect_json_dioptra_client if form == "json" else connect_response_dioptra_client
    CLIENTS[name] = connect(address)


def environ(**values):
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def step_module(current):
    """Put in place the module that the platform injects into steps; None takes it away again."""
    import types
    from contextvars import ContextVar

    from craft_ai_sdk.shared import execution_context

    execution_context._execution_context = None
    sys.modules.pop("__craft_internal_execution_context", None)
    if current is not None:
        module = types.ModuleType("__craft_internal_execution_context")
        module.current_execution_id = ContextVar("current_execution_id", default=current)
        sys.modules["__craft_internal_execution_context"] = module


def raw(method, url, **options):
    """Send what the vendors' clients do not."""
    answer = requests.Session().request(method, url, **options)
    return {"status": answer.status_code, "text": answer.text, "headers": dict(answer.headers)}


HERE = {"craft": craft, "dioptra": dioptra, "environ": environ, "step_module": step_module, "raw": raw}


def call(line):
    if line.get("on") is None:
        return HERE[line["do"]](*line["args"], **line["kwargs"])
    target = CLIENTS[line["on"]]
    for step in line["do"].split("."):
        target = getattr(target, step)
    result = target(*line["args"], **line["kwargs"])
    if isinstance(result, requests.Response):
        return {"status": result.status_code, "text": result.text}
    return result


def plain(value):
    if isinstance(value, dict) and set(value) == {"float"}:
        return float(value["float"])
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def told(error):
    fields = ("message", "name", "status_code", "request_id", "additional_data")
    known = {field: getattr(error, field, None) for field in fields}
    return {
        "type": type(error).__name__,
        "text": str(error),
        **{k: v if k == "additional_data" else v and str(v) for k, v in known.items()},
    }


for text in sys.stdin:
    SENT.clear()
    answer = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            answer["result"] = call(plain(json.loads(text)))
        except Exception as error:
            answer["error"] = told(error)
    answer["sent"] = list(SENT)
    answer["warned"] = [str(item.message) for item in caught]
    sys.stdout.write(json.dumps(answer, default=str) + "\n")
    sys.stdout.flush()
