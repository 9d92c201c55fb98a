# SPDX-License-Identifier: MIT
"""Process export: an unmodified program sees virtual chips as /dev/gpiochipN.

The program runs in a private /dev and /sys; its GPIO ioctls are trapped by a seccomp filter and
answered by a supervisor process.
"""
