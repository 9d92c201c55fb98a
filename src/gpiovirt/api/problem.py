# SPDX-License-Identifier: MIT
"""What went wrong, as an HTTP client is told: problem details (RFC 9457) with the errno's name."""

from __future__ import annotations

import errno
import http
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from gpiovirt.configuration.model import Chip, InvalidChipError, describe
from gpiovirt.errors import GpiovirtError
from gpiovirt.protocols.control.answers import RefusedError

__all__ = ["MEDIA_TYPE", "Fault", "Problem", "ProblemError", "install", "problem_of_chip", "responses"]

_log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

_STATUS = {
    errno.EINVAL: 422,
    errno.ERANGE: 422,
    errno.ENODEV: 422,
    errno.ENOENT: 404,
    errno.EPERM: 403,
    errno.EBUSY: 409,
    errno.EEXIST: 409,
    errno.EMSGSIZE: 413,
}
_WHY = {
    400: "The body is malformed.",
    403: "The caller is not permitted to do this.",
    404: "There is no such chip, or the caller may not see it.",
    409: "The name, a line or the chip is in use.",
    413: "The body is too long.",
    422: "The request cannot be carried out; `errors` says why and where.",
    429: "This user has too many streams.",
    500: "An internal error, or a fault of the machine.",
    503: "gpiovirtd does not run, or does not answer.",
}


class _Model(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class Fault(_Model):
    """One thing that is wrong with a request."""

    path: str
    """Where, as `lines.0.options`, or the parameter's name; empty: all of it."""
    detail: str
    """What is wrong, and what to write instead."""


class Problem(_Model):
    """Problem details (RFC 9457)."""

    type: str = "about:blank"
    title: str
    """The status in words."""
    status: int
    detail: str
    """What went wrong, and what to do."""
    errno: str | None = None
    """The error as a system call would return it: EBUSY."""
    errors: list[Fault] | None = None
    """What is wrong with the request."""


class ProblemError(Exception):
    """To be told as a problem."""

    def __init__(
        self, status: int, detail: str, number: int | None = None, errors: Sequence[Fault] = ()
    ) -> None:
        super().__init__(detail)
        self.problem = Problem(
            title=http.HTTPStatus(status).phrase,
            status=status,
            detail=detail,
            errno=None if number is None else errno.errorcode.get(number, str(number)),
            errors=list(errors) or None,
        )


def _problem_of(error: GpiovirtError) -> ProblemError:
    if isinstance(error, InvalidChipError):
        faults = [Fault(path=path, detail=detail) for path, _, detail in _split(error.problems)]
        return ProblemError(422, str(error), error.errno, faults)
    if isinstance(error, RefusedError):
        return ProblemError(_STATUS.get(error.errno, 500), str(error), error.errno)
    return ProblemError(503, str(error), error.errno)


def _split(problems: Sequence[str]) -> list[tuple[str, str, str]]:
    return [problem.partition(": ") for problem in problems]


def problem_of_chip(error: RefusedError, chip: Chip) -> ProblemError:
    """Why there cannot be such a chip: whatever it lacks is then a fault of its description."""
    status = 422 if error.errno == errno.ENOENT else _STATUS.get(error.errno, 500)
    lines = chip.lines_of()
    faults = []
    if error.line is not None and error.line < len(lines):
        faults = [Fault(path=lines[error.line].key, detail=str(error))]
    elif status == 422:
        faults = [Fault(path="", detail=str(error))]
    return ProblemError(status, str(error), error.errno, faults)


def _respond(error: ProblemError, headers: Mapping[str, str] | None = None) -> Response:
    content = json.dumps(error.problem.model_dump(exclude_none=True)).encode()
    return Response(content, error.problem.status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Tell every error so."""

    @app.exception_handler(ProblemError)
    def on_problem(_request: Request, error: ProblemError) -> Response:
        return _respond(error)

    @app.exception_handler(GpiovirtError)
    def on_ours(_request: Request, error: GpiovirtError) -> Response:
        return _respond(_problem_of(error))

    @app.exception_handler(HTTPException)
    def on_http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["allow"] = ", ".join(sorted(_methods(app, request)))
        return _respond(ProblemError(error.status_code, error.detail), headers)

    @app.exception_handler(RequestValidationError)
    def on_invalid(_request: Request, error: RequestValidationError) -> Response:
        faults = [_fault(details) for details in error.errors()]
        summary = "; ".join(f"{fault.path}: {fault.detail}".removeprefix(": ") for fault in faults)
        return _respond(ProblemError(422, summary, errno.EINVAL, faults))

    @app.exception_handler(Exception)
    def on_fault(_request: Request, error: Exception) -> Response:
        return _respond(ProblemError(500, f"a fault of gpiovirtd: {error!r}"))


def _methods(app: FastAPI, request: Request) -> set[str]:
    """What a path has; each of its routes knows of its own method only."""
    found: set[str] = set()
    for method in ("DELETE", "GET", "PATCH", "POST", "PUT"):
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in app.routes):
            found.add(method)
    return found


def _fault(details: dict[str, Any]) -> Fault:
    place, *location = details["loc"]
    if details["type"] == "json_invalid":
        return Fault(path="", detail=f"no JSON at character {location[0]}: {details['ctx']['error']}")
    if place != "body":
        return Fault(path=str(location[0]), detail=details["msg"])
    path, detail = describe(cast(ErrorDetails, {**details, "loc": tuple(location)}))
    return Fault(path=path, detail=detail)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Problems for an operation's description."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": _WHY[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in sorted(statuses)
    }
