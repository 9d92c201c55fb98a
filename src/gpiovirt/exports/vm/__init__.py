# SPDX-License-Identifier: MIT
"""VM export: a virtual machine gets a whole virtual chip as its virtio GPIO controller, by vhost-user."""
