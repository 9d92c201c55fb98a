# SPDX-License-Identifier: MIT
"""Benchmarks: a module per operation, each with what it is measured against in the same run."""
