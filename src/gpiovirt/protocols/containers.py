# SPDX-License-Identifier: MIT
"""The socket of the containers' service: what runtimes say there, and what editors of configurations ask.

A stream with one JSON object. A runtime's is the state of a container, with its seccomp listener beside it
(runtime-spec config-linux.md: containerProcessState). An editor's is {"prepare": {DEVICE: CHIP}}, answered
by one line: a Grant's directories, or {"errno": NUMBER, "why": TEXT}.
"""

import errno
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from gpiovirt.core.text import printable
from gpiovirt.errors import HostError, PeerError, UsageError
from gpiovirt.protocols.oci import Grant, decode_metadata

__all__ = [
    "MESSAGE_MAX",
    "Container",
    "Prepare",
    "Started",
    "decode_grant",
    "decode_said",
    "encode_prepare",
]

MESSAGE_MAX = 1 << 16
_TEXT_MAX = 256
_ID_SHOWN = 12  # as engines show them
_NAME = "io.kubernetes.cri.container-name", "io.kubernetes.container.name", "gpiovirt.io/name"
_IMAGE = "io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName", "gpiovirt.io/image"
_POD = (
    ("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.cri.sandbox-name"),
    ("io.kubernetes.pod.namespace", "io.kubernetes.pod.name"),
    ("", "gpiovirt.io/pod"),
)
"""Annotations of containerd, cri-o, and of our own editor for engines that have none"""


class Container(NamedTuple):
    """What a container is called by whoever runs it."""

    id: str
    name: str = ""
    image: str = ""
    pod: str = ""

    def __str__(self) -> str:
        words = [f"container {self.id[:_ID_SHOWN]}"]
        words += [self.name] if self.name else []
        words += [f"image {self.image}"] if self.image else []
        words += [f"pod {self.pod}"] if self.pod else []
        return printable(" ".join(words))


class Started(NamedTuple):
    """A process of a container is about to begin; `chips` by device are a wish, and no right."""

    chips: Mapping[str, str]
    container: Container


class Prepare(NamedTuple):
    """A container is about to be made that asks for chips, by device."""

    chips: Mapping[str, str]


def decode_said(text: bytes) -> Started | Prepare | None:
    """What the peer says; None if there is more to come. PeerError for anything else."""
    if len(text) > MESSAGE_MAX:
        raise PeerError(f"a message of more than {MESSAGE_MAX} bytes")
    if not text.rstrip().endswith(b"}"):
        return None
    try:
        body = json.loads(text)
    except RecursionError as error:
        raise PeerError("a message too deep") from error
    except ValueError:
        return None
    try:
        match body:
            case {"prepare": dict(chips)}:
                return Prepare(decode_metadata(json.dumps(chips)))
            case {"state": dict(state), "metadata": metadata}:
                return Started(decode_metadata(metadata), _container(state))
    except UsageError as error:
        raise PeerError(str(error)) from error
    raise PeerError("neither the state of a container nor a question")


def _container(state: Mapping[str, Any]) -> Container:
    annotations = state.get("annotations")
    if not isinstance(annotations, dict):
        annotations = {}

    def said(key: str) -> str:
        found = annotations.get(key)
        return found[:_TEXT_MAX] if isinstance(found, str) else ""

    container = state.get("id")
    if not isinstance(container, str) or not 0 < len(container) <= _TEXT_MAX:
        raise PeerError("a container without an id")
    pods = ("/".join(filter(None, map(said, keys))) for keys in _POD)
    told = [next(filter(None, names), "") for names in (map(said, _NAME), map(said, _IMAGE), pods)]
    return Container(container, *told)


def encode_prepare(chips: Mapping[str, str]) -> bytes:
    """The question."""
    return json.dumps({"prepare": dict(chips)}).encode()


def decode_grant(text: bytes, listener: str) -> Grant:
    """The answer; HostError with the reason if it is no."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PeerError("the containers' service does not answer as it should") from error
    match body:
        case {"errno": int(number), "why": str(why)}:
            refusal = HostError(printable(why))
            refusal.errno = number if number in errno.errorcode else errno.EIO
            raise refusal
        case {"bus": [*bus], "char": [*char]} if all(isinstance(each, str) for each in (*bus, *char)):
            return Grant(listener, tuple(bus), tuple(char))
    raise PeerError("the containers' service does not answer as it should")
