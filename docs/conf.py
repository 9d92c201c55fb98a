# SPDX-License-Identifier: MIT
"""Sphinx configuration."""

from gpiovirt import __version__

project = "gpiovirt"
copyright = "the gpiovirt authors"
release = __version__
extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "gpiovirt"
