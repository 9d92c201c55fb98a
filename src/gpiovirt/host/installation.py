# SPDX-License-Identifier: MIT
"""How the package itself was installed, and so how to install what is missing."""

from __future__ import annotations

import json
import os
import shlex
import sys
from importlib import metadata
from urllib.parse import unquote, urlsplit

__all__ = ["GUARD", "guard", "how_to_install"]

GUARD = "container-has-no-listener_see-gpiovirt-doctor"
"""A hook of containers: some runtimes tell of a hook that fails nothing but its path"""


def guard() -> str | None:
    """The path of that hook; None if it is not installed."""
    above = os.path.dirname(os.path.dirname(sys.prefix))  # a package's environment is PREFIX/lib/gpiovirt
    beside = os.path.dirname(os.path.abspath(sys.argv[0]))
    paths = (f"{above}/libexec/gpiovirt/{GUARD}", f"{beside}/{GUARD}", f"{sys.prefix}/bin/{GUARD}")
    return next((path for path in paths if os.access(path, os.X_OK)), None)


def how_to_install(extra: str) -> str:
    """The command that installs one of our extras: from the clone or file that we were installed from, if
    that still exists, and otherwise from an index."""
    try:
        origin = json.loads(metadata.distribution("gpiovirt").read_text("direct_url.json") or "{}")
    except metadata.PackageNotFoundError:
        origin = {}
    url = urlsplit(origin.get("url", ""))
    path = unquote(url.path)
    here = url.scheme == "file" and os.path.exists(path)
    editable = ["-e"] if here and origin.get("dir_info", {}).get("editable") else []
    what = f"{path if here else 'gpiovirt'}[{extra}]"
    return shlex.join([sys.executable, "-m", "pip", "install", *editable, what])
