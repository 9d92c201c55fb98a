# SPDX-License-Identifier: MIT
"""The command `gpiovirt`; a subcommand is a module here, imported only when it is called."""

from __future__ import annotations

import argparse
import errno
import gc
import importlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from gpiovirt import __version__
from gpiovirt.core.text import near, printable
from gpiovirt.errors import GpiovirtError, HostError, UsageError

__all__ = ["COMMANDS", "add_poll_us", "main", "new_parser", "parser_for", "report"]

COMMANDS = {
    "run": "run a program that sees virtual chips as /dev/gpiochip0, 1, ...",
    "serve": "host virtual chips for virtual machines",
    "vm-args": "print the arguments that give a virtual machine a chip",
    "oci": "give chips to a container that an OCI runtime is to run",
    "cdi": "print what container engines are told of a chip",
    "new": "create a virtual chip that gpiovirtd keeps",
    "get": "print levels of lines, whoever holds them",
    "set": "set levels of lines, or their options: bias, drive, debounce, safe state, name",
    "pulse": "switch an output on for a time",
    "monitor": "show edges of lines, as they happen",
    "delete": "delete virtual chips",
    "show": "show one of gpiovirtd's chips in full",
    "rules": "show the rules of a chip, and what they have refused",
    "force": "override a line for a time: what an output does, or what an input seems to be",
    "rearm": "allow a chip's outputs again whose watchdog has tripped",
    "watch": "show what happens to gpiovirtd's chips, as it happens",
    "log": "show who did what to the lines of gpiovirtd's chips, and when",
    "web": "show chips, waveforms and the record in a browser",
    "top": "show chips, holders and waveforms in the terminal",
    "view": "show recordings in a browser, and compare two",
    "token": "make, list and revoke tokens for `gpiovirt web --tokens`",
    "list": "show every chip and line: name, direction, who holds it, its virtual chip",
    "check": "check configuration files",
    "diff": "show how gpiovirtd's chips differ from the configuration files",
    "apply": "make gpiovirtd's chips match the configuration files",
    "save": "save gpiovirtd's chips to configuration files",
    "record": "write what happened to a chip's lines to a VCD file",
    "replay": "drive simulated lines as a recording says, and compare what a program does",
    "sim": "drive and watch simulated lines",
    "boards": "list the boards that a program can be made to believe it runs on",
    "pinout": "draw a board's header, with the levels of a running simulator",
    "doctor": "say what this machine supports, what is missing and how to get it",
}

_REFUSALS = frozenset({errno.EPERM, errno.EACCES, errno.EBUSY, errno.EEXIST})
"""The same request might be granted to somebody else, or at another time"""
_OTHER_WORDS = {
    "add": "new",
    "create": "new",
    "ls": "list",
    "info": "show",
    "remove": "delete",
    "rm": "delete",
    "read": "get",
    "write": "set",
    "mon": "monitor",
    "status": "doctor",
}


def _formatter(prog: str) -> argparse.HelpFormatter:
    """With a width given, argparse does not import shutil, a sixth of its time."""
    try:
        width = os.get_terminal_size().columns - 2
    except OSError:
        width = 100
    return argparse.RawDescriptionHelpFormatter(prog, width=min(width, 100))


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see: {self.prog} --help")


def add_poll_us(parser: argparse.ArgumentParser) -> None:
    """Declare --poll-us, of what serves chips."""
    parser.add_argument(
        "--poll-us",
        type=int,
        default=0,
        metavar="N",
        help="look for the next request for N microseconds before sleeping: faster, at the cost of a CPU (0: "
        "while requests follow each other closely and a CPU is to spare; 1: never)",
    )


def new_parser(
    prog: str, description: str, epilog: str | None, usage: str | None = None
) -> argparse.ArgumentParser:
    """A parser that says what is wrong in one line."""
    return _Parser(
        prog=prog,
        usage=usage,
        description=description,
        epilog=epilog,
        formatter_class=_formatter,
        allow_abbrev=False,
    )


def parser_for(command: str) -> argparse.ArgumentParser:
    """The argument parser of a subcommand."""
    module = importlib.import_module(f"gpiovirt.cli.{command.replace('-', '_')}")
    parser = new_parser(
        f"gpiovirt {command}",
        COMMANDS[command],
        getattr(module, "EPILOG", None),
        getattr(module, "USAGE", None),
    )
    module.configure(parser)
    parser.set_defaults(main=module.main)
    return parser


def _overview() -> str:
    commands = "\n".join(f"  {name:9}{text}" for name, text in COMMANDS.items())
    return f"""usage: gpiovirt [--version] COMMAND ...

GPIO virtualization for Linux: make virtual chips of existing lines, give each to one consumer.

commands:
{commands}

`gpiovirt COMMAND --help` explains one, with examples.
"""


def main() -> int:
    """Entry point."""
    return report(_main)


def _main() -> int:
    arguments = sys.argv[1:]
    if not arguments:
        sys.stderr.write(_overview())
        return 2
    if arguments[0] == "help" and len(arguments) > 1:
        arguments = [arguments[1], "--help"]
    if arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        sys.stdout.write(f"gpiovirt {__version__}\n")
        return 0
    if arguments[0] not in COMMANDS:
        raise UsageError(_no_command(arguments[0]))
    parser, given = parser_for(arguments[0]), arguments[1:]
    program: list[str] | None = None
    if parser.get_default("program") is not None and "--" in given:
        # a program after other arguments, which argparse would take for more of those
        at = given.index("--")
        given, program = given[:at], given[at + 1 :]
    options = parser.parse_args(given)
    if program is not None:
        options.program = program
    gc.freeze()  # there is no garbage until here
    gc.enable()
    status: int = options.main(options)
    return status


def _no_command(word: str) -> str:
    meant = [_OTHER_WORDS[word]] if word in _OTHER_WORDS else near(word, COMMANDS)
    hint = f"did you mean {meant[0]}?" if meant else f"the commands are: {', '.join(COMMANDS)}"
    return f"no command {word!r}; {hint}"


def report(command: Callable[[], int]) -> int:
    """Run a command; the exit status is 2 on wrong usage, and 1 on failure or if it is refused."""
    try:
        try:
            return command()
        finally:
            _flush()
    except UsageError as error:
        sys.stderr.write(f"gpiovirt: {printable(str(error))}\n")
        return 1 if error.errno in _REFUSALS else 2
    except GpiovirtError as error:
        sys.stderr.write(f"gpiovirt: {printable(str(error))}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _end_of_sigpipe()


def _flush() -> None:
    """Find out here what else the interpreter would complain of at its end."""
    try:
        if sys.stdout:  # None if it was closed before we began
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _forget_output()
        raise HostError.of("cannot write to standard output", error) from error


def _end_of_sigpipe() -> int:
    """Nobody reads our output any more: end as every program does that leaves SIGPIPE as it is."""
    import signal

    _forget_output()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.raise_signal(signal.SIGPIPE)
    return 128 + signal.SIGPIPE  # it is blocked


def _forget_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    sys.exit(main())
