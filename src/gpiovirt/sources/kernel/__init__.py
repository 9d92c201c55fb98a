# SPDX-License-Identifier: MIT
"""Chips of this machine's kernel, through the official libgpiod binding.

What is called often, requests and what goes by their files, does without the binding.
"""

from __future__ import annotations

from gpiovirt.sources.kernel.chip import KernelChip
from gpiovirt.sources.kernel.chips import KernelChips

__all__ = ["KernelChip", "KernelChips"]
