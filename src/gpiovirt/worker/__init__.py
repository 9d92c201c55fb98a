# SPDX-License-Identifier: MIT
"""The process that serves one virtual chip, and the one that forks such processes."""
