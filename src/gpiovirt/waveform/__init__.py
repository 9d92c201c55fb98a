# SPDX-License-Identifier: MIT
"""Levels of lines over time: recordings in VCD, what drives lines as they say, and what compares two."""
