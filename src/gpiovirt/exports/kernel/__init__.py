# SPDX-License-Identifier: MIT
"""Virtual chips of lines of the kernel's, made by its own driver gpio-aggregator: no call comes to us."""
