# SPDX-License-Identifier: MIT
"""The virtual chip: its definition, the custody of its lines, and the chip that is stacked on them."""
