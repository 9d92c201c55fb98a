# SPDX-License-Identifier: MIT
"""The processes that serve containers: one that listens, and one for each listener of a container."""
