# SPDX-License-Identifier: MIT
"""The API server, as a pod's service account reaches it: two kinds of objects, read and written whole."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from gpiovirt.errors import HostError

__all__ = ["ApiServer"]

_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_GROUP = "/apis/resource.k8s.io/v1"
_PATIENCE_S = 10.0
_ANSWER_MAX = 1 << 22
_NOT_FOUND, _CONFLICT = 404, 409


class ApiServer:
    """At `url`; one that begins with https is known by the account's certificate. All methods: HostError."""

    def __init__(self, url: str, account: str = _ACCOUNT) -> None:
        self._url = url.rstrip("/")
        self._account = account

    def claim(self, namespace: str, name: str) -> dict[str, Any]:
        """A ResourceClaim."""
        found = self._ask("GET", f"/namespaces/{_quoted(namespace)}/resourceclaims/{_quoted(name)}")
        if found is None:
            raise HostError(f"there is no ResourceClaim {namespace}/{name}")
        return found

    def publish(self, slice_: Mapping[str, Any]) -> None:
        """Have this ResourceSlice, whatever there is of that name."""
        path = f"/resourceslices/{_quoted(slice_['metadata']['name'])}"
        former = self._ask("GET", path)
        if former is None:
            self._ask("POST", "/resourceslices", slice_)
            return
        if former.get("spec") != slice_["spec"]:
            version = former.get("metadata", {}).get("resourceVersion", "")
            self._ask("PUT", path, {**slice_, "metadata": {**slice_["metadata"], "resourceVersion": version}})

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """The object that is answered; None if there is none."""
        request = urllib.request.Request(  # noqa: S310  the URL is the operator's
            f"{self._url}{_GROUP}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json", "Accept": "application/json"},
            method=method,
        )
        try:
            context = None
            if self._url.startswith("https:"):
                context = ssl.create_default_context(cafile=f"{self._account}/ca.crt")
                with open(f"{self._account}/token", encoding="ascii") as file:  # it changes now and then
                    request.add_header("Authorization", f"Bearer {file.read().strip()}")
            with urllib.request.urlopen(request, timeout=_PATIENCE_S, context=context) as response:  # noqa: S310
                answer = json.loads(response.read(_ANSWER_MAX))
        except urllib.error.HTTPError as error:
            with error:
                if error.code == _NOT_FOUND:
                    return None
                raise HostError(f"the API server answers {method} {path} with {error.code}") from error
        except (OSError, ValueError) as error:
            raise HostError(f"the API server at {self._url} cannot be asked: {error}") from error
        if not isinstance(answer, dict):
            raise HostError(f"the API server answers {method} {path} with no object")
        return answer


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")
