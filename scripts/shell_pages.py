# SPDX-License-Identifier: MIT
"""Write man pages and completions of bash, zsh and fish, from the commands' own parsers.

python scripts/shell_pages.py DIRECTORY
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import shtab
from argparse_manpage.manpage import Manpage

from gpiovirt import __version__, boards
from gpiovirt.cli import daemon, main
from gpiovirt.configuration.model import Chip

CHIPS = {
    "bash": "_gpiovirt_chips",
    "zsh": "_gpiovirt_chips",
    "fish": "(command ls /run/gpiovirt/chips 2>/dev/null)",
}
"""Names of gpiovirtd's chips, which are those of its sockets"""
LINES = {"bash": "_gpiovirt_lines", "zsh": "_gpiovirt_lines", "fish": "(gpiovirt list --names virtual)"}
"""CHIP:LINE of gpiovirtd's chips"""
SIMULATED = {
    "bash": "_gpiovirt_simulated",
    "zsh": "_gpiovirt_simulated",
    "fish": "(gpiovirt list --names simulated)",
}
"""LABEL:LINE of running simulators"""
NAMES = " ".join(boards.names())
BOARDS = {"bash": "_gpiovirt_boards", "zsh": "_gpiovirt_boards", "fish": f"(string split ' ' '{NAMES}')"}
"""Those that come with gpiovirt, and files"""
PREAMBLE = {
    # in bash a colon ends a word, and so do blanks in what is offered
    "bash": "_gpiovirt_named() {\n"
    "    local word=${COMP_LINE:0:COMP_POINT} IFS=$'\\n'\n"
    "    word=${word##* }\n"
    '    compgen -W "$(gpiovirt list --names "$1" 2>/dev/null | grep -v " ")" -- "$word" |\n'
    "        if [[ $word == *:* ]]; then cut -d: -f2-; else cat; fi\n"
    "}\n"
    "_gpiovirt_lines() { _gpiovirt_named virtual; }\n"
    "_gpiovirt_simulated() { _gpiovirt_named simulated; }\n"
    '_gpiovirt_chips() { compgen -W "$(command ls /run/gpiovirt/chips 2>/dev/null)" -- "$1"; }\n'
    f'_gpiovirt_boards() {{ compgen -W "{NAMES}" -- "$1"; compgen -f -X "!*.toml" -- "$1"; }}\n',
    "zsh": '_gpiovirt_lines() { compadd -S "" -- ${(f)"$(gpiovirt list --names virtual 2>/dev/null)"} }\n'
    '_gpiovirt_simulated() { compadd -S "" -- ${(f)"$(gpiovirt list --names simulated 2>/dev/null)"} }\n'
    "_gpiovirt_chips() { compadd -- $(command ls /run/gpiovirt/chips 2>/dev/null) }\n"
    f"_gpiovirt_boards() {{ compadd -- {NAMES}; _files -g '*.toml' }}\n",
    "fish": "",
}
COMPLETIONS = {
    "bash": "bash-completion/completions/{}",
    "zsh": "zsh/site-functions/_{}",
    "fish": "fish/vendor_completions.d/{}.fish",
}
OTHERS = {
    "gpiovirt-runc.1": (
        "runc, with chips in containers",
        "The OCI runtime runc, which finds the configuration of a container that asks for chips of "
        "gpiovirtd edited. All arguments are runc's. RUNC in the environment names another program than the "
        "runc in PATH.",
    ),
    "gpiovirt-crun.1": (
        "crun, with chips in containers",
        "The OCI runtime crun, which finds the configuration of a container that asks for chips of "
        "gpiovirtd edited. All arguments are crun's. CRUN in the environment names another program than the "
        "crun in PATH.",
    ),
    "gpiovirt-oci-hook.8": (
        "podman's way to chips in containers",
        "A hook of podman's stage precreate: it reads a container's configuration and writes it, edited if "
        "it asks for chips of gpiovirtd. Root's podman finds it in /usr/share/containers/oci/hooks.d; for "
        "others, hooks_dir in containers.conf(5) names that directory.",
    ),
    "gpiovirt-containers.8": (
        "serve chips of gpiovirtd to containers",
        "The process to which OCI runtimes give the seccomp listeners of containers with chips. Its argument "
        "is gpiovirtd's directory for sockets. It runs as gpiovirt-containers.service; a gpiovirtd without "
        "--no-containers starts it itself.",
    ),
}
"""Pages of programs without arguments of their own"""
EXIT_STATUS = """\
0 on success, 1 on failure or if it is refused, 2 if what is asked for is wrong; once the program
of gpiovirt run has started, the program's own."""
FILES = """\
/etc/gpiovirt/chips.d/*.toml: descriptions of gpiovirtd's chips (gpiovirt apply)
/run/gpiovirt/chips/: the sockets of chips; owner, group and mode say who may use them
/run/gpiovirt/vm/: those for virtual machines
/run/gpiovirt/containers/nodes/: the devices of chips, for container engines
/run/cdi/gpiovirt-*.json: what engines know of them
/run/gpiovirt/bus/platform/drivers/gpio-virt-agg/: new_device, delete_device, a directory for each chip"""


LINE_COMMANDS = (" get", " set", " pulse", " monitor", " force")


def whole_parser() -> argparse.ArgumentParser:
    """One parser of all commands, which otherwise are imported one at a time."""
    parser = argparse.ArgumentParser("gpiovirt", description="GPIO virtualization for Linux")
    parser.add_argument("-V", "--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command, text in main.COMMANDS.items():
        module: ModuleType = importlib.import_module(f"gpiovirt.cli.{command.replace('-', '_')}")
        within = commands.add_parser(
            command,
            help=text,
            description=text,
            epilog=getattr(module, "EPILOG", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(within)
    return parser


def _complete_chips(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command, within in action.choices.items():
                if command != "new":
                    _complete_chips(within)
        elif " sim " in parser.prog:
            if action.dest == "line":
                action.complete = SIMULATED  # type: ignore[attr-defined]
        elif parser.prog.endswith(LINE_COMMANDS) and action.dest in ("first", "line", "lines"):
            action.complete = LINES  # type: ignore[attr-defined]
        elif action.dest in ("name", "names", "chip") and not action.choices:
            action.complete = CHIPS  # type: ignore[attr-defined]
        elif action.dest in ("board", "boards"):
            action.complete = BOARDS  # type: ignore[attr-defined]


def file_format() -> str:
    """The page of the files that describe chips, from their schema and the sample that is shipped."""
    schema = Chip.model_json_schema()
    sample = (Path(__file__).parents[1] / "data/chips.d/plc.toml").read_text().partition("\n")[2]
    parts = [
        f'.TH GPIOVIRT-CHIPS 5 "" "gpiovirt {__version__}" "GPIO virtualization"',
        ".SH NAME\ngpiovirt-chips \\- files that describe virtual GPIO chips",
        ".SH DESCRIPTION\nA file NAME.toml in /etc/gpiovirt/chips.d describes the chip NAME, in TOML. "
        "gpiovirtd applies such files when it starts, gpiovirt apply while it runs; gpiovirt check and diff "
        "look at them.",
        _keys("KEYS", schema),
        *(
            _keys(title, schema["$defs"][name])
            for name, title in (
                ("Line", "A TABLE IN lines"),
                ("LineRules", "[line.NAME]"),
                ("Interlock", "[[interlock]]"),
                ("OnlyWhile", "only_while"),
                ("Watchdog", "[watchdog]"),
            )
        ),
        ".SH EXAMPLE\n.nf\n" + "\n".join(map(_roff, sample.splitlines())) + "\n.fi",
        ".SH SEE ALSO\n.BR gpiovirt-apply (1),\n.BR gpiovirtd (8)",
    ]
    return "\n".join(parts)


def _keys(title: str, schema: Mapping[str, Any]) -> str:
    keys = (
        f".TP\n.B {_roff(key)}\n{_roff(about['description'])}" for key, about in schema["properties"].items()
    )
    return "\n".join([f'.SH "{_roff(title)}"', _roff(schema["description"]), *keys])


def _roff(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("\n", " ")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def man_page(parser: argparse.ArgumentParser, section: str, text: str) -> str:
    """The page of a command, of this source's date."""
    parser._manpage = [  # type: ignore[attr-defined]
        {"heading": "exit status", "content": EXIT_STATUS},
        {"heading": "files", "content": FILES},
    ]
    os.environ.setdefault("SOURCE_DATE_EPOCH", str(int(time.time())))
    data = {
        "prog": parser.prog.replace(" ", "-"),
        "project_name": f"gpiovirt {__version__}",
        "description": text,
        "manual_section": section,
        "manual_title": "GPIO virtualization",
    }
    page = str(Manpage(parser, data))
    # whose title is the first word of the name, and its section the second
    return re.sub(r"(?m)^\.TH .*?(?= \"\d)", f".TH {data['prog'].upper()}", page, count=1)


def write(directory: Path) -> None:
    """All pages, as they stand below /usr/share."""
    parser, keeper = whole_parser(), daemon.parser()
    pages = {
        "man/man1/gpiovirt.1": man_page(parser, "1", "virtual GPIO chips for programs and VMs"),
        "man/man8/gpiovirtd.8": man_page(keeper, "8", "keep virtual GPIO chips"),
    }
    for page, (short, text) in OTHERS.items():
        name, _, section = page.rpartition(".")
        program = argparse.ArgumentParser(name, description=text, add_help=False)
        pages[f"man/man{section}/{page}"] = man_page(program, section, short)
    for command, text in main.COMMANDS.items():
        pages[f"man/man1/gpiovirt-{command}.1"] = man_page(main.parser_for(command), "1", text)
    pages["man/man5/gpiovirt-chips.5"] = file_format()
    _complete_chips(parser)
    for shell, place in COMPLETIONS.items():
        pages[place.format("gpiovirt")] = shtab.complete(parser, shell, preamble=PREAMBLE[shell])
        pages[place.format("gpiovirtd")] = shtab.complete(keeper, shell)
    for place, text in pages.items():
        path = directory / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if text.endswith("\n") else text + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
