# SPDX-License-Identifier: MIT
"""The process that reads the rings of all chips, keeps the record on disk, and answers `gpiovirt log`."""
