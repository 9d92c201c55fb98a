# SPDX-License-Identifier: MIT
"""README, docs and examples: commands print what is shown, links lead somewhere, tables are true.

Every console block runs in a shell of its own, in a folder that has only the Python and TOML files shown
before it (blocks that begin with `# NAME.py:` or `# NAME.toml`). Output that is shown is compared, times and
trailing spaces aside.
"""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from docs import update_pictures, update_python
from gpiovirt.errors import GpiovirtError
from gpiovirt.virtual import grammar
from tests.integration.conftest import ROOT, Runner
from tests.integration.test_run import PRELUDE

PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]
PAGES = [page for page in PAGES if "_build" not in page.parts]
MADE_BY_BENCH = ROOT / "docs/benchmarks.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)|^```\{literalinclude\} (\S+)$", re.M)
END = "@@@"
RUN = "/run/gpiovirt"
ALONE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from tests.machine import part_from_others
part_from_others()
os.execvp(sys.argv[2], sys.argv[2:])
"""
BASE = {
    "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    "LANG": "C.UTF-8",
}


class Block(NamedTuple):
    """A console block, and the files shown before it on its page."""

    page: str
    line: int
    text: str
    files: dict[str, str]

    def commands(self) -> list[tuple[str, list[str]]]:
        """Each command with the output shown below it."""
        commands: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                commands.append((line[2:], []))
            else:
                commands[-1][1].append(line)
        return commands


def blocks() -> Iterator[Block]:
    for page in PAGES:
        files: dict[str, str] = {}
        text = page.read_text()
        for fence in FENCE.finditer(text):
            kind, content = fence.groups()
            if kind in ("python", "toml") and (name := re.match(r"# (\w+\.(py|toml))\b", content)):
                files[name[1]] = content
            if kind == "console":
                line = text.count("\n", 0, fence.start()) + 1
                yield Block(str(page.relative_to(ROOT)), line, content, dict(files))


def comparable(line: str) -> str:
    return re.sub(r"\b\d+\.\d{6}\b", "SECONDS", line.rstrip())


def run_in_shell(block: Block, folder: Path) -> list[tuple[list[str], int]]:
    """What each command of the block printed, and its exit status."""
    script = "".join(f"{command}\necho {END} $?\n" for command, _ in block.commands())
    script = script.replace(RUN, f"{folder}/run")
    # a network of its own keeps other programs' simulators out of sight
    alone = [sys.executable, "-c", ALONE, str(ROOT)] if os.getuid() == 0 else []
    with subprocess.Popen(
        [*alone, "bash", "-c", script],
        cwd=folder,
        env={
            **BASE,
            "HOME": str(folder),
            "GPIOVIRT_RUNTIME_DIR": f"{folder}/run",
            "GPIOVIRT_STATE_DIR": f"{folder}/state",
            "GPIOVIRT_CONFIG_DIR": f"{folder}/chips.d",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        # programs in the background keep the pipe open: read only up to the last command's end
        printed: list[tuple[list[str], int]] = []
        lines: list[str] = []
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith(END):
                    printed.append((lines, int(line.split()[1])))
                    lines = []
                else:
                    lines.append(line.replace(f"{folder}/run", RUN))
                if len(printed) == len(block.commands()):
                    break
        finally:
            end_daemon(folder)
            os.killpg(process.pid, signal.SIGKILL)
    return printed


def end_daemon(folder: Path) -> None:
    """The chips of a gpiovirtd outlive the shell that started it."""
    lock = folder / "run/lock"
    if not lock.exists():
        return
    with suppress(ProcessLookupError):  # the block has ended it
        daemon = os.pidfd_open(int(lock.read_text()))
        signal.pidfd_send_signal(daemon, signal.SIGINT)
        poll = select.poll()
        poll.register(daemon, select.POLLIN)
        assert poll.poll(20_000)
        os.close(daemon)


BLOCKS = list(blocks())


@pytest.mark.parametrize("block", BLOCKS, ids=[f"{block.page}:{block.line}" for block in BLOCKS])
def test_commands_print_what_is_shown(block: Block, tmp_path: Path) -> None:
    for name, content in block.files.items():
        (tmp_path / name).write_text(content)
    printed = run_in_shell(block, tmp_path)
    assert len(printed) == len(block.commands())
    for (command, shown), (lines, status) in zip(block.commands(), printed, strict=True):
        if shown:
            assert [*map(comparable, lines)] == [*map(comparable, shown)], command
        else:
            assert (lines, status) == ([], 0) or command == "gpiovirt doctor", command


@pytest.mark.parametrize("name", update_pictures.PICTURES)
def test_pictures_are_as_drawn_and_their_terminal_shows_what_commands_print(name: str) -> None:
    drawn = update_pictures.PICTURES[name]()
    ElementTree.fromstring(drawn)
    assert (update_pictures.FOLDER / name).read_text() == drawn, "run: python docs/update_pictures.py"


def test_the_page_of_the_python_api_is_what_there_is() -> None:
    assert update_python.PAGE.read_text() == update_python.page(), "run: python docs/update_python.py"


def test_each_page_is_behind_one_of_the_doors() -> None:
    index = (ROOT / "docs/index.md").read_text()
    listed = [
        page
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", index, re.S)
        for page in tree.splitlines()
        if page and not page.startswith(":")
    ]
    assert len(listed) == len(set(listed))
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} | {"adr/index"}
    assert set(listed) == pages - {"index"}


def test_the_quick_start_has_the_commands_that_matter() -> None:
    readme = (ROOT / "README.md").read_text()
    commands = " ".join(
        command for block in BLOCKS if block.page == "README.md" for command, _ in block.commands()
    )
    assert "make demo" in readme
    assert "make test" in readme
    for command in (
        "gpiovirt run --sim sim-a:8 --sim sim-b:DOOR,LAMP --chip 'plc=sim-a 0 3, sim-b 0-1' -- gpioinfo",
        "gpiovirt run --sim sim-a:8 --chip 'plc=sim-a 0-3' -- python3 my_app_using_gpiod.py",
        "gpiovirt sim pull sim-a:3 up",
        "gpiovirt sim get sim-a:0",
        "gpiovirt sim watch",
        "gpiovirt doctor",
    ):
        assert command in commands


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    for targets in LINK.findall(page.read_text()):
        target = "".join(targets)
        if not target.startswith("https://"):
            path = (page.parent / target).resolve()
            assert path.exists() or path == MADE_BY_BENCH, target


def compatibility() -> list[tuple[str, str]]:
    """(text, what ours makes of it) of each row of the table."""
    _, table = (ROOT / "docs/grammar.md").read_text().split("<!-- compatibility -->\n")
    rows = []
    for row in table.splitlines()[2:]:
        if not row.startswith("|"):
            break
        text, ours = (re.search(r"`(.*?)`", cell) for cell in row.split("|")[1:3])
        assert text is not None and ours is not None, row
        rows.append((text[1], ours[1]))
    return rows


def as_in_the_table(text: str) -> str:
    """What new_device makes of a text: `chip/offset`, `"name"`, or an errno."""
    try:
        items = grammar.parse(text)
    except GpiovirtError as error:
        return errno.errorcode[error.errno]
    words: list[str] = []
    for item in items:
        if isinstance(item, grammar.NamedLine):
            words.append(f'"{item.name}"')
        else:
            words += [f"{item.chip}/{offset}" for offset in item.offsets]
    return " ".join(words)


@pytest.mark.parametrize(("text", "ours"), compatibility())
def test_the_compatibility_table_says_what_our_grammar_does(text: str, ours: str) -> None:
    assert as_in_the_table(text) == ours


def test_the_compatibility_table_has_rows() -> None:
    assert len(compatibility()) > 15


def test_the_demo_passes_and_is_plain_in_a_pipe(run: Runner, tmp_path: Path) -> None:
    demo = run.home / "demo.py"
    demo.write_text((ROOT / "examples/demo.py").read_text())
    done = subprocess.run(
        [run.python, demo], capture_output=True, text=True, check=False, timeout=60, **run.options()
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "\033" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith("All as expected. Next, try: ")
    assert "Device or resource busy" in done.stdout


def on_a_terminal(run: Runner, **environment: str) -> str:
    command = ["script", "-qec", f"{run.python} {run.home / 'demo.py'}", "/dev/null"]
    (run.home / "demo.py").write_text((ROOT / "examples/demo.py").read_text())
    options = run.options()
    options["env"] = {**options["env"], "TERM": "xterm", **environment}
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
        **options,
    )
    return str(done.stdout)


def test_the_demo_is_coloured_on_a_terminal_only_if_wanted(run: Runner) -> None:
    assert "\033[" in on_a_terminal(run)
    assert "\033[" not in on_a_terminal(run, NO_COLOR="1")


def test_the_demo_fails_if_something_differs(run: Runner) -> None:
    demo = run.home / "broken.py"
    demo.write_text((ROOT / "examples/demo.py").read_text().replace('"DOOR reads 1"', '"DOOR reads 0"'))
    done = subprocess.run(
        [run.python, demo], capture_output=True, text=True, check=False, timeout=60, **run.options()
    )
    assert done.returncode == 1
    assert "WRONG" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 of the steps went wrong"


def test_the_example_of_a_test_passes(tmp_path: Path) -> None:
    for name in ("blink.py", "test_blink.py"):
        (tmp_path / name).write_text((ROOT / "examples" / name).read_text())
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path}/temporary"]
    command = [sys.executable, "-m", "pytest", *options, "test_blink.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_the_blink_example_runs_as_it_says(run: Runner) -> None:
    blink = run.home / "blink.py"
    blink.write_text((ROOT / "examples/blink.py").read_text())
    done = run(run.python, str(blink), "/dev/gpiochip0", "LAMP", "1", sims=["panel:DOOR,LAMP"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_differences_from_the_kernel_are_as_told(run: Runner) -> None:
    """docs/character-device.md"""
    out = run.script(
        PRELUDE
        + """
import stat
chip = opened()
early = os.dup(chip)
print("before", os.isatty(chip), os.write(chip, b"x"), stat.S_ISCHR(os.fstat(chip).st_mode))
out, seen = line(chip, 0, OUT), line(chip, 1, IN | RISING | FALLING)
print("after", stat.S_ISFIFO(os.fstat(chip).st_mode), os.readlink(f"/proc/self/fd/{early}"))
try: os.write(chip, b"x")
except OSError as error: print("write", errno.errorcode[error.errno])
put(out, 1)
print("split", len(os.read(seen, 20)), len(os.read(seen, 4096)))
drain = line(chip, 2, OUT | 64)
put(drain, 1); print("open drain, pulled down", get(drain))
subprocess.run([sys.executable, "-m", "gpiovirt", "sim", "pull", "a:2", "up"], check=True)
print("pulled up", get(drain))
put(drain, 0); print("driven low", get(drain))
print("major", os.major(os.stat("/dev/gpiochip0").st_rdev))
""",
        sims=["a:4"],
        wires=["a:0=a:1"],
    )
    assert out.splitlines() == [
        "before True 1 True",
        "after True /dev/gpiochip0",
        "write EBADF",
        "split 20 28",
        "open drain, pulled down 0",
        "pulled up 1",
        "driven low 0",
        "major 136",
    ]


def test_an_ordinary_users_program_has_no_capabilities(run: Runner) -> None:
    """docs/architecture.md, security model."""
    status = run("cat", "/proc/self/status").stdout
    capabilities = int(next(row.split()[1] for row in status.splitlines() if row.startswith("CapEff")), 16)
    assert (capabilities == 0) == (run.uid != 0)
