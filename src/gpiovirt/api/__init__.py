# SPDX-License-Identifier: MIT
"""The process that serves the HTTP API: the control protocol, as resources."""
