# SPDX-License-Identifier: MIT
"""Chips in Kubernetes: what tells a node's kubelet of them, and what edits the containers of its engine."""
