# SPDX-License-Identifier: MIT
"""How chips are made and driven from outside."""
