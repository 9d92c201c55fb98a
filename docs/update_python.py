# SPDX-License-Identifier: MIT
"""Write what gpiovirt.testing has into docs/python.md; a test compares them."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpiovirt import testing

PAGE = Path(__file__).with_name("python.md")
INTRODUCTION = """\
# Python API

`gpiovirt.testing` is the public Python API; all else in the package may change without notice. [](testing.md)
is the guide to it, with examples that are run; this page, which `python docs/update_python.py` writes, has
every name. A line is CHIP:OFFSET, CHIP:NAME, or NAME if that is unique. Errors are in `gpiovirt.errors`:
`UsageError` for what cannot be, `HostError` for what this machine refuses; each has an `errno`.
"""


def page() -> str:
    """The page as it must be."""
    parts = [INTRODUCTION]
    for name in testing.__all__:
        thing = getattr(testing, name)
        parts.append(f"## {name}\n\n{_about(name, thing)}")
        if inspect.isclass(thing):
            rows = [f"| {_cell(code)} | {text} |" for code, text in _members(thing)]
            if rows:
                parts.append("\n".join(["| | |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _about(name: str, thing: Any) -> str:
    text = inspect.cleandoc(thing.__doc__ or "")
    shape = "" if _is_record(thing) else f"`{name}{_signature(thing)}`\n\n"
    return f"{shape}{text}\n"


def _is_record(thing: Any) -> bool:
    return dataclasses.is_dataclass(thing) or hasattr(thing, "_fields")


def _members(thing: type) -> Iterator[tuple[str, str]]:
    """Public methods, properties and fields, in the order of the source, base classes last."""
    seen = set()
    for base in thing.__mro__:
        if not base.__module__.startswith("gpiovirt."):
            continue
        fields = {name: None for name in getattr(thing, "_fields", ()) if base is thing}
        for name, member in ({**fields, **vars(base)}).items():
            if name.startswith("_") or name in seen:
                continue
            seen.add(name)
            if name in fields:
                yield name, ""
            elif isinstance(member, property):
                yield name, _first_line(member.fget)
            elif inspect.isfunction(member):
                yield f"{name}{_signature(member)}", _first_line(member)


def _signature(thing: Any) -> str:
    """Without annotations, which the text says."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return "()"
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for name, parameter in signature.parameters.items()
        if name != "self"
    ]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def _first_line(thing: Any) -> str:
    text = inspect.cleandoc(thing.__doc__ or "").partition("\n\n")[0]
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _cell(code: str) -> str:
    return f"`{code}`".replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
