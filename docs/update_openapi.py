# SPDX-License-Identifier: MIT
"""Write what the HTTP API is into docs/openapi.json; a test compares them."""

import json
from pathlib import Path

from starlette.types import Scope

from gpiovirt.api.routes import create_app
from gpiovirt.control.async_client import AsyncClient
from gpiovirt.errors import HostError

DOCUMENT = Path(__file__).with_name("openapi.json")


async def _connect(_scope: Scope) -> AsyncClient:
    raise HostError("there is no daemon in a document")


def document() -> str:
    """The document as it must be."""
    return json.dumps(create_app(_connect).openapi(), indent=1) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
