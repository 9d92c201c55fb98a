# SPDX-License-Identifier: MIT
"""linux/fuse.h: the messages of a file system in user space (7.31), as far as sysfs and configfs go."""

from __future__ import annotations

from struct import Struct

__all__ = [
    "FOPEN_DIRECT_IO",
    "FUSE_ACCESS",
    "FUSE_BATCH_FORGET",
    "FUSE_CREATE",
    "FUSE_DESTROY",
    "FUSE_FLUSH",
    "FUSE_FORGET",
    "FUSE_GETATTR",
    "FUSE_INIT",
    "FUSE_INTERRUPT",
    "FUSE_KERNEL_MINOR_VERSION",
    "FUSE_KERNEL_VERSION",
    "FUSE_LINK",
    "FUSE_LOOKUP",
    "FUSE_MKDIR",
    "FUSE_MKNOD",
    "FUSE_NOTIFY_POLL",
    "FUSE_OPEN",
    "FUSE_OPENDIR",
    "FUSE_POLL",
    "FUSE_POLL_SCHEDULE_NOTIFY",
    "FUSE_READ",
    "FUSE_READDIR",
    "FUSE_RELEASE",
    "FUSE_RELEASEDIR",
    "FUSE_RENAME",
    "FUSE_RENAME2",
    "FUSE_RMDIR",
    "FUSE_SETATTR",
    "FUSE_STATFS",
    "FUSE_SYMLINK",
    "FUSE_UNLINK",
    "FUSE_WRITE",
    "fuse_attr",
    "fuse_attr_out",
    "fuse_dirent",
    "fuse_entry_out",
    "fuse_in_header",
    "fuse_init_in",
    "fuse_init_out",
    "fuse_mkdir_in",
    "fuse_notify_poll_wakeup_out",
    "fuse_open_in",
    "fuse_open_out",
    "fuse_out_header",
    "fuse_poll_in",
    "fuse_poll_out",
    "fuse_read_in",
    "fuse_release_in",
    "fuse_statfs_out",
    "fuse_write_in",
    "fuse_write_out",
]

FUSE_KERNEL_VERSION = 7
FUSE_KERNEL_MINOR_VERSION = 31

FUSE_LOOKUP = 1
FUSE_FORGET = 2
FUSE_GETATTR = 3
FUSE_SETATTR = 4
FUSE_SYMLINK = 6
FUSE_MKNOD = 8
FUSE_MKDIR = 9
FUSE_UNLINK = 10
FUSE_RMDIR = 11
FUSE_RENAME = 12
FUSE_LINK = 13
FUSE_OPEN = 14
FUSE_READ = 15
FUSE_WRITE = 16
FUSE_STATFS = 17
FUSE_RELEASE = 18
FUSE_FLUSH = 25
FUSE_INIT = 26
FUSE_OPENDIR = 27
FUSE_READDIR = 28
FUSE_RELEASEDIR = 29
FUSE_ACCESS = 34
FUSE_CREATE = 35
FUSE_INTERRUPT = 36
FUSE_DESTROY = 38
FUSE_POLL = 40
FUSE_BATCH_FORGET = 42
FUSE_RENAME2 = 45

FUSE_NOTIFY_POLL = 1
FUSE_POLL_SCHEDULE_NOTIFY = 1
FOPEN_DIRECT_IO = 1

fuse_in_header = Struct("=IIQQIIIHH")  # len opcode unique nodeid uid gid pid total_extlen padding
fuse_out_header = Struct("=IiQ")  # len error unique
fuse_attr = Struct("=QQQQQQIIIIIIIIII")
"""ino size blocks atime mtime ctime atimensec mtimensec ctimensec mode nlink uid gid rdev blksize flags"""
fuse_entry_out = Struct(f"=QQQQII{fuse_attr.size}s")
"""nodeid generation entry_valid attr_valid entry_valid_nsec attr_valid_nsec attr"""
fuse_attr_out = Struct(f"=QII{fuse_attr.size}s")  # attr_valid attr_valid_nsec dummy attr
fuse_init_in = Struct("=IIII")  # major minor max_readahead flags; more follows
fuse_init_out = Struct("=IIIIHHIIHHII24x")
"""major minor max_readahead flags max_background congestion_threshold max_write time_gran max_pages
map_alignment flags2 max_stack_depth"""
fuse_mkdir_in = Struct("=II")  # mode umask; the name follows
fuse_open_in = Struct("=II")  # flags open_flags
fuse_open_out = Struct("=QIi")  # fh open_flags backing_id
fuse_release_in = Struct("=QIIQ")  # fh flags release_flags lock_owner
fuse_read_in = Struct("=QQIIQII")  # fh offset size read_flags lock_owner flags padding
fuse_write_in = Struct("=QQIIQII")  # fh offset size write_flags lock_owner flags padding
fuse_write_out = Struct("=II")  # size padding
fuse_poll_in = Struct("=QQII")  # fh kh flags events
fuse_poll_out = Struct("=II")  # revents padding
fuse_notify_poll_wakeup_out = Struct("=Q")  # kh
fuse_dirent = Struct("=QQII")  # ino off namelen type; the name follows, padded to 8 bytes
fuse_statfs_out = Struct("=QQQQQIIII24x")  # blocks bfree bavail files ffree bsize namelen frsize padding
