# SPDX-License-Identifier: MIT
"""What --help says: everything there is, and in the documentation the same."""

from __future__ import annotations

import argparse
import re

import pytest

from docs import update_help
from gpiovirt.cli import main

PARSERS = {parser.prog: parser for parser in update_help.parsers()}


def in_any_form(text: str) -> str:
    """Python 3.13 writes `-n, --name N` for `-n N, --name N`, and newer ones break lines elsewhere."""
    return " ".join(re.sub(r"(-\w) [A-Z]+, (--)", r"\1, \2", text).split())


def test_the_overview_names_every_command() -> None:
    overview = update_help.help_texts()["gpiovirt"]
    for command, what in main.COMMANDS.items():
        assert re.search(rf"^  {command} +{re.escape(what)}$", overview, re.M)


@pytest.mark.parametrize("parser", PARSERS.values(), ids=PARSERS)
def test_help_names_and_explains_every_option(parser: argparse.ArgumentParser) -> None:
    text = parser.format_help()
    for action in parser._actions:
        for option in action.option_strings:
            assert option in text
        assert action.help or not action.option_strings
        assert action.help is not argparse.SUPPRESS


def test_the_command_reference_is_what_help_prints() -> None:
    page = update_help.PAGE.read_text()
    assert in_any_form(page) == in_any_form(update_help.page()), "run: python docs/update_help.py"
