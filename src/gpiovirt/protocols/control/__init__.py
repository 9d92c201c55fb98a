# SPDX-License-Identifier: MIT
"""gpiovirtd's control socket: what is asked there, and what is said. SOCK_SEQPACKET, a JSON object a packet.

A request is {"do": NAME, ...}, with the fields of its class in `requests`: one that is not there, or null, is
as its default says, one that is not known is ignored. Its answer is {"ok": ...}, as in `answers`, or
{"error": TEXT, "errno": NUMBER}, with "line": OFFSET beside it if it is about one line of a chip. After
"watch" events come, an object each. No files are taken beside a request.

Whoever asks on behalf of another adds "as": {"uid", "gids"}; only root, the daemon's own user and the process
of the HTTP API that the daemon started may.
"""

__all__ = ["ID_MAX", "NUMBER_MAX"]

ID_MAX = (1 << 32) - 2
"""The highest uid and gid: the next one is -1 to system calls"""
NUMBER_MAX = (1 << 63) - 1
"""The highest of all other numbers"""
