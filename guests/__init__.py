# SPDX-License-Identifier: MIT
"""Guest kernels for tests: real GPIO lines on a machine whose own kernel has none."""
