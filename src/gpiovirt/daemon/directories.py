# SPDX-License-Identifier: MIT
"""Where gpiovirtd's sockets are, and who may look into their directories."""

from __future__ import annotations

import os
from typing import NamedTuple

from gpiovirt.errors import HostError
from gpiovirt.protocols.cdi import DIRECTORY

__all__ = ["Directories"]


class Directories(NamedTuple):
    """Below `run`. A chip's socket is reached by name; the names of others' chips cannot be listed."""

    run: str

    @property
    def control(self) -> str:
        return f"{self.run}/control"

    @property
    def chips(self) -> str:
        return f"{self.run}/chips"

    @property
    def vms(self) -> str:
        return f"{self.run}/vm"

    @property
    def workers(self) -> str:
        return f"{self.run}/workers"

    @property
    def passing(self) -> str:
        """Records of chips that do not outlive this boot"""
        return f"{self.run}/state"

    @property
    def record(self) -> str:
        return f"{self.run}/record"

    @property
    def containers(self) -> str:
        return f"{self.run}/containers"

    @property
    def nodes(self) -> str:
        return f"{self.containers}/nodes"

    @property
    def cdi(self) -> str:
        """Of the machine's own gpiovirtd it is where engines look."""
        return DIRECTORY if self.run == "/run/gpiovirt" else f"{self.containers}/cdi"

    def make(self) -> None:
        """HostError if one cannot be made."""
        try:
            for path, mode in (
                (self.run, 0o755),
                (self.chips, 0o711),
                (self.vms, 0o711),
                (self.workers, 0o700),
                (self.passing, 0o700),
                (self.containers, 0o755),
                (self.nodes, 0o711),
            ):
                os.makedirs(path, mode, exist_ok=True)
                os.chmod(path, mode)
        except OSError as error:
            raise HostError.of(f"cannot use {self.run}", error) from error
