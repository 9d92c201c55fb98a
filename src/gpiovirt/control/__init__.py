# SPDX-License-Identifier: MIT
"""How chips are made and driven from outside.

Here are only the names by which a simulator is found: every program's start needs them.
"""

from __future__ import annotations

__all__ = ["ENVIRONMENT", "SOCKETS", "socket_name"]

ENVIRONMENT = "GPIOVIRT_SIM"
SOCKETS = "gpiovirt/sim/"


def socket_name(uid: int, pid: int) -> str:
    """Name of the abstract socket of the simulator that the program `pid` of user `uid` runs on."""
    return f"{SOCKETS}{uid}/{pid}"
