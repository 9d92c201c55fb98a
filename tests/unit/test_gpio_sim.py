# SPDX-License-Identifier: MIT
"""gpio-sim's and gpio-aggregator's files: what each takes and refuses, and what the platform is told."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from gpiovirt.cli.run import lines_of
from gpiovirt.core.task import Future
from gpiovirt.protocols import configfs
from gpiovirt.protocols.attributes import FixedDirectory
from gpiovirt.protocols.configfs import Bank, Chosen, Device, Hog
from gpiovirt.protocols.gpio_aggregator import GpioAggregator
from gpiovirt.protocols.gpio_sim import GpioSim, chip_files
from tests.file_tree import Board, Files

SIM = Device("gpio-sim.0")
AGGREGATOR = Device("gpio-aggregator.0")


class Tree(Files):
    """Both drivers, as in configfs, and `new_device` and `delete_device`."""

    def __init__(self) -> None:
        self.board = Board()
        self.aggregator = GpioAggregator(self.board, lines_of)
        sim = GpioSim(self.board)
        super().__init__(
            FixedDirectory({"sim": sim, "agg": self.aggregator, **self.aggregator.driver_files().entries()})
        )

    def mkdir(self, path: str) -> str:
        return self.do(path, "mkdir")[0]

    def rmdir(self, path: str) -> str:
        return self.do(path, "rmdir")[0]

    def write(self, path: str, content: str | bytes) -> str:
        return self.do(path, "write", content.encode() if isinstance(content, str) else content)[0]

    def read(self, path: str) -> str:
        error, content = self.do(path, "read")
        assert not error, error
        return content.decode()


@pytest.fixture
def tree() -> Tree:
    made = Tree()
    for path in ("sim/a", "sim/a/b"):
        assert made.mkdir(path) == ""
    return made


def test_a_bank_becomes_a_chip_with_what_its_files_say(tree: Tree) -> None:
    for path, text in (("num_lines", "0x4\n"), ("label", "  panel \n")):
        assert tree.write(f"sim/a/b/{path}", text) == ""
    for path in ("line1", "line1/hog", "line2", "line9", "line3"):
        assert tree.mkdir(f"sim/a/b/{path}") == ""
    for path, text in (
        ("line1/name", "DOOR\0after"),
        ("line1/hog/name", "who"),
        ("line1/hog/direction", "output-high\n"),
        ("line1/hog/active_low", "yes"),
        ("line2/valid", "0"),
        ("line3/name", ""),
        ("line9/name", "unused"),
    ):
        assert tree.write(f"sim/a/b/{path}", text) == ""
    assert tree.read("sim/a/b/chip_name") == "none\n"
    assert tree.write("sim/a/live", "1") == ""
    (bank,) = tree.board.simulated[SIM]
    hogs = [Hog(1, "who", "output-high", True)]
    assert bank == Bank("panel", ["", "DOOR", "", ""], frozenset({2}), hogs)
    assert (tree.read("sim/a/b/chip_name"), tree.read("sim/a/dev_name")) == ("gpiochip0\n", "gpio-sim.0\n")
    assert tree.write("sim/a/live", "0") == ""
    assert not tree.board.chips
    assert tree.read("sim/a/b/chip_name") == "none\n"


def test_what_is_not_said_is_as_with_the_kernel(tree: Tree) -> None:
    assert tree.mkdir("sim/a/line-of-its-own") == ""
    for path in ("line0", "line0/hog"):
        assert tree.mkdir(f"sim/a/b/{path}") == ""
    told = {name: tree.read(f"sim/a/b/line0/{name}") for name in ("name", "valid")}
    assert told == {"name": "\n", "valid": "1\n"}
    told = {name: tree.read(f"sim/a/b/line0/hog/{name}") for name in ("name", "direction", "active_low")}
    assert told == {"name": "\n", "direction": "input\n", "active_low": "0\n"}
    assert (tree.read("sim/a/b/num_lines"), tree.read("sim/a/b/label")) == ("1\n", "\n")
    assert tree.write("sim/a/b/label", "") == ""
    assert tree.write("sim/a/live", "1") == ""
    first, second = tree.board.simulated[SIM]
    assert (first.label, first.hogs) == ("gpio-sim.0:node0", [Hog(0, "?", "input", False)])
    assert second == Bank("gpio-sim.0:node1", [""], frozenset(), [])


def test_a_live_device_keeps_its_configuration(tree: Tree) -> None:
    for path in ("sim/a/b/line0", "sim/a/b/line0/hog", "sim/a/empty"):
        assert tree.mkdir(path) == ""
    assert tree.write("sim/a/live", "y") == ""
    assert tree.write("sim/a/live", "1") == "EPERM"
    for path, text in (
        ("label", "x"),
        ("num_lines", "2"),
        ("line0/name", "x"),
        ("line0/hog/name", "x"),
        ("line0/hog/direction", "input"),
        ("line0/hog/active_low", "1"),
    ):
        assert tree.write(f"sim/a/b/{path}", text) == "EBUSY", path
    assert tree.write("sim/a/b/line0/valid", "0") == ""
    for path in ("sim/a/c", "sim/a/b/line1"):
        assert tree.mkdir(path) == "EBUSY"
    assert tree.rmdir("sim/a/b/line0/hog") == "EBUSY"
    for path in ("sim/a/b/line0", "sim/a/b", "sim/a"):
        assert tree.rmdir(path) == "ENOTEMPTY"
    assert tree.rmdir("sim/a/empty") == ""  # and its chip stays
    assert len(tree.board.chips[SIM]) == 2


def test_removing_a_live_device_takes_its_chips_away_and_frees_its_number(tree: Tree) -> None:
    assert tree.write("sim/a/live", "1") == ""
    assert tree.rmdir("sim/a/b") == ""
    assert tree.rmdir("sim/a") == ""
    assert not tree.board.chips
    assert tree.mkdir("sim/z") == ""
    assert tree.read("sim/z/dev_name") == "gpio-sim.0\n"


@pytest.mark.parametrize(
    ("path", "text", "error"),
    [
        ("live", "2", "EINVAL"),
        ("live", "", "EINVAL"),
        ("live", "0", "EPERM"),
        ("dev_name", "x", "EACCES"),
        ("b/chip_name", "x", "EACCES"),
        ("b/num_lines", "0", "EINVAL"),
        ("b/num_lines", "-1", "EINVAL"),
        ("b/num_lines", " 1", "EINVAL"),
        ("b/num_lines", "1\n\n", "EINVAL"),
        ("b/num_lines", "09", "EINVAL"),
        ("b/num_lines", "4294967296", "ERANGE"),
        ("b/num_lines", "+010", ""),
        ("b/nothing", "1", "ENOENT"),
        ("b", "1", "EISDIR"),
        ("b/label/x", "1", "ENOTDIR"),
    ],
)
def test_values_are_read_as_the_kernel_does(tree: Tree, path: str, text: str, error: str) -> None:
    assert tree.write(f"sim/a/{path}", text) == error


def test_a_device_that_cannot_work_is_not_live(tree: Tree) -> None:
    assert tree.mkdir("sim/none") == ""
    assert tree.write("sim/none/live", "1") == "ENODATA"
    assert tree.mkdir("sim/a/c") == ""
    for bank in "bc":
        assert tree.write(f"sim/a/{bank}/label", "same") == ""
    assert tree.write("sim/a/live", "1") == "EINVAL"
    assert tree.write("sim/a/c/label", "other") == ""
    assert tree.write("sim/a/c/num_lines", "1025") == ""
    assert tree.write("sim/a/live", "1") == "ENXIO"
    assert tree.write("sim/a/c/num_lines", "1024") == ""
    for path in ("line1024", "line1024/hog"):
        assert tree.mkdir(f"sim/a/c/{path}") == ""
    assert tree.write("sim/a/live", "1") == "ENXIO"
    assert tree.read("sim/a/live") == "0\n"
    assert not tree.board.chips


@pytest.mark.parametrize("name", ["line", "line-1", "line1x", "hog", "line ", "Line1", "line٣"])
def test_only_numbered_lines_are_made_in_a_bank(tree: Tree, name: str) -> None:
    assert tree.mkdir(f"sim/a/b/{name}") == "EINVAL"
    assert tree.mkdir("sim/a/b/label") == "EEXIST"


def test_directories_are_made_only_where_there_are_some(tree: Tree) -> None:
    for path in ("sim/a/b/line0", "sim/a/b/line0/hog"):
        assert tree.mkdir(path) == ""
    assert tree.mkdir("x") == "EPERM"
    assert tree.mkdir("sim/a/b/line0/hog/x") == "EPERM"
    assert tree.mkdir("sim/a/b/line0/dog") == "EINVAL"
    assert tree.mkdir("sim/a") == "EEXIST"
    assert tree.mkdir("sim/" + "x" * 256) == "ENAMETOOLONG"
    assert tree.rmdir("sim") == "EPERM"
    assert tree.rmdir("sim/a/live") == "ENOTDIR"


class Line:
    """A line of a chip's files."""

    def __init__(self) -> None:
        self._pulled = 0

    def level(self) -> int:
        return self._pulled

    def pulled(self) -> int:
        return self._pulled

    def pull(self, level: int) -> None:
        self._pulled = level


def test_a_line_is_pulled_and_read_by_its_files() -> None:
    lines = [Line(), Line()]
    files = Files(chip_files(2, lambda offset: lines[offset]))
    assert files.do("sim_gpio1/pull", "write", b"pull-up\0") == ("", b"")
    assert files.do("sim_gpio1/pull", "read") == ("", b"pull-up\n")
    assert files.do("sim_gpio1/value", "read") == ("", b"1\n")
    assert files.do("sim_gpio0/value", "read") == ("", b"0\n")
    assert files.do("sim_gpio1/pull", "write", b"up\n")[0] == "EINVAL"
    assert files.do("sim_gpio1/value", "write", b"1\n")[0] == "EPERM"


# gpio-aggregator


class Aggregated(NamedTuple):
    key: str
    offset: str
    name: str = ""


def add(tree: Tree, *lines: Aggregated) -> None:
    assert tree.mkdir("agg/d") == ""
    for index, line in enumerate(lines):
        assert tree.mkdir(f"agg/d/line{index}") == ""
        for field, text in line._asdict().items():
            assert tree.write(f"agg/d/line{index}/{field}", text) == ""


def test_an_aggregator_takes_the_lines_of_its_directories(tree: Tree) -> None:
    assert tree.write("sim/a/live", "1") == ""
    add(tree, Aggregated("gpio-sim.0:node0", "0", "NEW"))
    assert tree.write("agg/d/live", "1") == ""
    assert tree.board.aggregated[AGGREGATOR] == [Chosen("gpio-sim.0:node0", 0, "NEW")]
    assert tree.rmdir("agg/d/line0") == "EBUSY"
    assert tree.mkdir("agg/d/line1") == "EBUSY"
    assert tree.write("agg/d/line0/key", "x") == "EBUSY"
    assert tree.rmdir("agg/d") == "ENOTEMPTY"
    assert tree.write("agg/d/live", "0") == ""
    assert (tree.rmdir("agg/d/line0"), tree.rmdir("agg/d")) == ("", "")


def test_an_aggregator_that_is_not_complete_is_not_live(tree: Tree) -> None:
    assert tree.mkdir("agg/_sysfs.7") == "EINVAL"
    assert tree.mkdir("agg/d") == ""
    assert tree.write("agg/d/live", "1") == "EINVAL"
    assert tree.mkdir("agg/d/line1") == ""
    assert tree.mkdir("agg/d/line01") == "EINVAL"  # one number, once
    assert tree.write("agg/d/line1/key", "gpio-sim.0:node0") == ""
    assert tree.write("agg/d/live", "1") == "EINVAL"  # there is no line0
    assert (tree.mkdir("agg/d/line0"), tree.write("agg/d/live", "1")) == ("", "EINVAL")
    assert tree.write("agg/d/line0/key", "nowhere") == ""
    assert tree.write("agg/d/live", "1") == "ENXIO"
    for text, error in (("65535", "EINVAL"), ("-2", "EINVAL"), ("2147483648", "ERANGE"), ("-1", "")):
        assert tree.write("agg/d/line0/offset", text) == error
    assert tree.read("agg/d/line0/offset") == "-1\n"


def test_new_device_waits_for_chips_and_delete_device_removes_it(tree: Tree) -> None:
    assert tree.write("new_device", "gpio-sim.0:node0 0\n") == ""
    assert tree.read("agg/_sysfs.0/live") == "0\n"
    assert tree.write("agg/_sysfs.0/live", "1") == "EPERM"
    assert tree.write("agg/_sysfs.0/line0/key", "x") == "EBUSY"
    assert tree.mkdir("agg/_sysfs.0/line1") == "EPERM"
    assert tree.rmdir("agg/_sysfs.0/line0") == "EPERM"
    assert tree.rmdir("agg/_sysfs.0") == "EPERM"
    assert tree.write("sim/a/live", "1") == ""
    tree.aggregator.retry()
    assert tree.read("agg/_sysfs.0/live") == "1\n"
    assert tree.board.aggregated[AGGREGATOR] == [Chosen("gpio-sim.0:node0", 0, "")]
    assert tree.write("agg/_sysfs.0/live", "0") == ""
    assert tree.write("agg/_sysfs.0/line0/name", "LAMP") == ""
    assert tree.write("agg/_sysfs.0/live", "1") == ""
    for text, error in (
        ("gpio-aggregator.0x0", "EINVAL"),
        ("gpio-aggregator.1", "ENOENT"),
        ("gpio-sim.0", "EINVAL"),
        ("0", "EINVAL"),
        ("gpio-aggregator.4294967296", "ERANGE"),
        ("gpio-aggregator.0\n", ""),
        ("gpio-aggregator.0", "ENOENT"),
    ):
        assert tree.write("delete_device", text) == error
    assert AGGREGATOR not in tree.board.chips


@pytest.mark.parametrize(("text", "error"), [("", "EINVAL"), ("a", "EINVAL"), ("a 512", "ERANGE")])
def test_new_device_refuses_what_the_kernel_does(tree: Tree, text: str, error: str) -> None:
    assert tree.write("new_device", text) == error
    assert tree.do("agg", "list") == ("", b"")


def test_there_is_an_end_to_directories_and_what_is_removed_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(configfs, "_ITEMS_MAX", 3)
    tree = Tree()
    for driver in ("sim", "agg"):
        for _ in range(2):
            assert [tree.mkdir(f"{driver}/{name}") for name in "abcd"] == ["", "", "", "ENOSPC"]
            assert tree.mkdir(f"{driver}/a/line0") == "ENOSPC"
            assert [tree.rmdir(f"{driver}/{name}") for name in "abc"] == ["", "", ""]
    for _ in range(2):
        assert tree.write("new_device", "p 0-2") == "ENOSPC"
        assert tree.write("new_device", "p 0-1") == ""
        assert tree.write("new_device", "p 0") == "ENOSPC"
        assert tree.write("delete_device", "gpio-aggregator.00") == ""
    assert tree.mkdir("sim/last") == ""
    assert tree.read("sim/last/dev_name") == "gpio-sim.0\n"


class Slow(Board):
    """A platform that takes its time, and then fails."""

    def __init__(self) -> None:
        super().__init__()
        self.future: Future[list[str]] = Future()

    def simulate(self, device: Device, banks: object) -> Future[list[str]]:
        return self.future


def test_a_platform_that_fails_later_leaves_the_device_as_it_was() -> None:
    board = Slow()
    sim = GpioSim(board)
    sim.make("a")
    files = Files(sim)
    assert files.do("a/b", "mkdir")[0] == ""
    future = files.begin("a/live", b"1")
    assert not future.is_done
    board.future.fail(OSError(5, "late"))
    with pytest.raises(OSError, match="late"):
        future.result()
    assert files.do("a/live", "read") == ("", b"0\n")
    assert files.do("a/b/num_lines", "write", b"2") == ("", b"")


class Full(Board):
    """A platform that takes no more."""

    def simulate(self, device: Device, banks: object) -> Future[list[str]]:
        raise OSError(6, "full")


def test_a_platform_that_refuses_at_once_leaves_the_device_as_it_was() -> None:
    files = Files(GpioSim(Full()))
    assert [files.do(path, "mkdir")[0] for path in ("a", "a/b")] == ["", ""]
    for _ in range(2):
        assert files.do("a/live", "write", b"1")[0] == "ENXIO"
    assert files.do("a/live", "read") == ("", b"0\n")
