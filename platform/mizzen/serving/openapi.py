"""Completes the OpenAPI document of an application: every status that any operation can answer, and keys.

What the platform answers is said here once, for routes of all workloads; what a route answers beside that,
its workload declares.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI

from mizzen.serving.auth import OPEN
from mizzen.serving.middleware import ALWAYS_ANSWERED
from mizzen.serving.replies import speaks_inference_protocol

Json = dict[str, Any]

STATUSES = {
    400: "The request is wrong; the message names the field, what was seen and what is allowed.",
    401: "An API key is missing, or is none of those that are accepted.",
    403: "The API key may not do this.",
    404: "There is no such thing.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is of another type, or compressed in another way, than is understood.",
    429: "Too many requests, or more than the API key may make; `Retry-After` says when to come again.",
    500: "The server failed; its log says why, under the answer's `mizzen-request-id`.",
    503: "The model, or what it needs, is not there now.",
    504: "The answer was not ready in time (`timeout_s`, or the header `mizzen-timeout-s`).",
}
_BODY = (408, 413, 415)
_KEY = (401, 403)
_QUEUE = (404, 429, 503)
_METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})

ERROR: Json = {
    "type": "object",
    "title": "Error",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string", "description": "For people."},
                "type": {
                    "type": "string",
                    "enum": [
                        "invalid_request_error",
                        "authentication_error",
                        "permission_error",
                        "rate_limit_error",
                        "server_error",
                    ],
                },
                "param": {"type": ["string", "null"], "description": "The field that is wrong."},
                "code": {"type": ["string", "null"], "description": "For programs."},
            },
        }
    },
}
INFERENCE_ERROR: Json = {
    "type": "object",
    "title": "InferenceError",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {"error": {"type": "string"}},
}


def complete(app: FastAPI, *, needs_key: bool, schemas: Mapping[str, Json] | None = None) -> None:
    """Have `app` show the whole document; `schemas` are components that it does not know of."""
    incomplete = app.openapi

    def openapi() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = completed(incomplete(), needs_key, schemas or {})
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # the way that FastAPI's documentation shows


def completed(document: Json, needs_key: bool, schemas: Mapping[str, Json]) -> Json:
    """`document` (which is changed) with all statuses, error bodies and keys."""
    components = document.setdefault("components", {})
    known = components.setdefault("schemas", {})
    for path, operation in _operations(document):
        operation.setdefault("responses", {}).pop("422", None)
        kind = "InferenceError" if speaks_inference_protocol(path) else "Error"
        for status in _statuses(path, operation, needs_key):
            _declare(operation["responses"], status, kind)
        if needs_key and path in OPEN:
            operation["security"] = []
    for ours in ("HTTPValidationError", "ValidationError"):
        if f"#/components/schemas/{ours}" not in json.dumps(document["paths"]):
            known.pop(ours, None)
    known.update({"Error": ERROR, **schemas})
    if any(speaks_inference_protocol(path) for path in document["paths"]):
        known["InferenceError"] = INFERENCE_ERROR
    if needs_key:
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        document["security"] = [{"bearer": []}, {"apiKey": []}]
    return document


def _operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method in _METHODS:
                yield path, operation


def _statuses(path: str, operation: Json, needs_key: bool) -> list[int]:
    found = {400, 500, 504}
    if path not in ALWAYS_ANSWERED:
        found.update(_QUEUE)
    if path.endswith(("/ready", "/readyz")):
        found.add(503)
    if "requestBody" in operation:
        found.update(_BODY)
    if needs_key and path not in OPEN:
        found.update(_KEY)
        found.add(429)
    return sorted(found)


def _declare(responses: Json, status: int, kind: str) -> None:
    """Add a status; what the workload says of it stays."""
    response = responses.setdefault(str(status), {})
    response.setdefault("description", STATUSES[status])
    if not response["description"] or response["description"] == "Error":
        response["description"] = STATUSES[status]
    response.setdefault("content", {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind}"}}})
    if status == 429:
        seconds = {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds to wait."}
        response.setdefault("headers", {})["Retry-After"] = seconds
