# SPDX-License-Identifier: MIT
"""Write what the HTTP API is into docs/openapi.json; a test compares them."""

import json
from pathlib import Path

from gpiovirt.api.routes import create_app

DOCUMENT = Path(__file__).with_name("openapi.json")


def document() -> str:
    """The document as it must be."""
    return json.dumps(create_app("").openapi(), indent=1) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
