# SPDX-License-Identifier: MIT
"""Write what each `gpiovirt ... --help` prints into docs/commands.md; a test compares them."""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from gpiovirt.cli import daemon, main

PAGE = Path(__file__).with_name("commands.md")


def parsers() -> Iterator[argparse.ArgumentParser]:
    """Of each command, and of the commands within it."""
    for command in main.COMMANDS:
        parser = main.parser_for(command)
        within = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        for each in (parser, *(other for action in within for other in action.choices.values())):
            each.formatter_class = _formatter
            yield each
    gpiovirtd = daemon.parser()
    gpiovirtd.formatter_class = _formatter
    yield gpiovirtd


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, width=100)


def overview() -> str:
    """What `gpiovirt --help` prints."""
    arguments, sys.argv = sys.argv, ["gpiovirt", "--help"]
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            main.main()
    finally:
        sys.argv = arguments
    return printed.getvalue()


def help_texts() -> dict[str, str]:
    """Help by what is called, as in "gpiovirt sim pull"; 100 columns wide."""
    os.environ["NO_COLOR"] = "1"
    return {"gpiovirt": overview()} | {parser.prog: parser.format_help() for parser in parsers()}


def page() -> str:
    """The page as it must be."""
    sections = [INTRODUCTION]
    for prog, text in help_texts().items():
        depth = "#" * min(3, 1 + len(prog.split()))
        sections.append(f"{depth} {prog}\n\n```text\n{text}```\n")
    return "\n".join(sections)


INTRODUCTION = """\
# Command reference

What `--help` prints; this page is written by `python docs/update_help.py`.
The exit status is 0 on success, 2 if what is asked for is wrong (no such option, chip, line or level), and 1
if it fails or is refused: by a rule, for want of a right, or because somebody holds a line. Once the program
of `gpiovirt run` has started, it is the program's own.
The notation of `--chip` is described in [](grammar.md).
"""


if __name__ == "__main__":
    PAGE.write_text(page())
