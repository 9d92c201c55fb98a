# SPDX-License-Identifier: MIT
"""gpiovirtd: a custodian that holds lines, and a worker for each chip made of them."""
