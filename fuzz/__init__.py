# SPDX-License-Identifier: MIT
"""Fuzz harnesses; each states its invariant in one sentence and runs with --seconds and --seed."""
