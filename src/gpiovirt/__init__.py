# SPDX-License-Identifier: MIT
"""GPIO virtualization for Linux: make virtual chips of existing lines, give each to one consumer."""

__version__ = "0.1.0"
__all__ = ["__version__"]
