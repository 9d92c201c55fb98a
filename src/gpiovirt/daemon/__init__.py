# SPDX-License-Identifier: MIT
"""gpiovirtd: a custodian that keeps lines, and a process of its own for each chip made of them."""
