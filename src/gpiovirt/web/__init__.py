# SPDX-License-Identifier: MIT
"""The process that shows chips in a browser: its user's own, with that user's rights, on loopback."""
