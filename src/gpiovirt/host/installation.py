# SPDX-License-Identifier: MIT
"""How the package itself was installed, and so how to install what is missing."""

from __future__ import annotations

import json
import os
import shlex
import sys
from importlib import metadata
from urllib.parse import unquote, urlsplit

__all__ = ["how_to_install"]


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
