# SPDX-License-Identifier: MIT
"""The process that serves the control files: new_device, delete_device and a directory for each chip."""
