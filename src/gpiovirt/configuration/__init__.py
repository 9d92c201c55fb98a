# SPDX-License-Identifier: MIT
"""Virtual chips as people describe them in files and over HTTP: read, checked, compared, applied."""
