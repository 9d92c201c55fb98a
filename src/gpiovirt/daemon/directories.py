# SPDX-License-Identifier: MIT
"""Where gpiovirtd's sockets are, and who may look into their directories."""

from __future__ import annotations

import os
from typing import NamedTuple

from gpiovirt.errors import HostError

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
    def record(self) -> str:
        return f"{self.run}/record"

    def make(self) -> None:
        """HostError if one cannot be made."""
        try:
            for path, mode in (
                (self.run, 0o755),
                (self.chips, 0o711),
                (self.vms, 0o711),
                (self.workers, 0o700),
            ):
                os.makedirs(path, mode, exist_ok=True)
                os.chmod(path, mode)
        except OSError as error:
            raise HostError.of(f"cannot use {self.run}", error) from error
