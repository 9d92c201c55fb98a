# SPDX-License-Identifier: MIT
"""The process that serves one virtual chip, and the fork server that makes such processes."""
