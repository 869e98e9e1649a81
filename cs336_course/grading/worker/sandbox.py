"""Inside fresh namespaces: build a file system that holds Python and the submission only, then become the server.

`unshare` has made user, mount, PID, network and IPC namespaces; this program is process 1 of them. It

    brings the loopback interface up (gloo needs it; nothing else is reachable),
    builds a root of read-only binds (system libraries, Python, the stage) and small memory file systems,
    moves into it with pivot_root, drops every capability, and executes the server.

Nothing else of the machine exists there: no home folders, no other submissions, no hidden suite, no reference, no
other processes. Standard library only. Usage: sandbox.py OPTIONS_JSON COMMAND... Left out: choosing this tier
(`../isolation.py`). Read next: `serve.py`.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import platform
import socket
import struct
import sys
from pathlib import Path

BIND, REC, REMOUNT, RDONLY, NOSUID, NODEV, PRIVATE = 4096, 16384, 32, 1, 2, 4, 1 << 18
KEPT_FLAGS = 2 | 4 | 8 | 1024 | 2048  # nosuid, nodev, noexec, noatime, nodiratime: a remount may not clear them
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
CAPSET = {"x86_64": 126, "aarch64": 91}
UNMOUNT_DETACH = 2


def main() -> None:
    """Build the root, enter it, drop privileges, execute."""
    options, command = json.loads(sys.argv[1]), sys.argv[2:]
    bring_up_loopback()
    enter_root(Path(options["root"]), options["read_only"], options["disk_mb"])
    drop_capabilities()
    os.chdir("/tmp")
    os.execv(command[0], command)


def bring_up_loopback() -> None:
    """What `ip link set lo up` does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up, running


def enter_root(root: Path, read_only: list[str], disk_mb: int) -> None:
    """Make `root` the root folder: `read_only` paths bound in, new /tmp, /proc and /dev."""
    _mount(None, "/", None, REC | PRIVATE)
    _mount("tmpfs", root, "tmpfs", NOSUID | NODEV, f"size={disk_mb}m,mode=755")
    for name, size in (("tmp", disk_mb), ("dev/shm", disk_mb)):
        (root / name).mkdir(parents=True, exist_ok=True)
        _mount("tmpfs", root / name, "tmpfs", NOSUID | NODEV, f"size={size}m,mode=1777")
    for path in read_only:
        _bind_read_only(path, root)
    for device in ("null", "zero", "urandom", "random"):
        (root / "dev" / device).touch()
        _mount(f"/dev/{device}", root / "dev" / device, None, BIND)
    (root / "proc").mkdir()
    _mount("proc", root / "proc", "proc", NOSUID | NODEV)
    old = root / "old"
    old.mkdir()
    _check(ctypes.CDLL(None, use_errno=True).syscall(PIVOT_ROOT[platform.machine()], _c(root), _c(old)), "pivot_root")
    os.chdir("/")
    _check(ctypes.CDLL(None, use_errno=True).umount2(b"/old", UNMOUNT_DETACH), "umount /old")
    os.rmdir("/old")
    _mount(None, "/", None, REMOUNT | BIND | RDONLY | NOSUID | NODEV)


def drop_capabilities() -> None:
    """Empty the bounding set and all capability sets; never to be regained."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(64):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; numbers this kernel has not are refused, rightly
    header, none = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", 0, 0, 0, 0, 0, 0)
    _check(libc.syscall(CAPSET[platform.machine()], header, none), "capset")
    _check(libc.prctl(38, 1, 0, 0, 0), "no_new_privs")


def _bind_read_only(path: str, root: Path) -> None:
    """Show `path`, a folder, file or symbolic link, at the same place below `root`."""
    source, target = Path(path), root / path.lstrip("/")
    if target.exists() or target.is_symlink() or not (source.exists() or source.is_symlink()):
        return  # inside a folder bound before, or not on this machine
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        target.symlink_to(os.readlink(source))
        return
    if source.is_dir():
        target.mkdir()
    else:
        target.touch()
    _mount(source, target, None, BIND | REC)
    flags = os.statvfs(target).f_flag & KEPT_FLAGS
    _mount(None, target, None, BIND | REMOUNT | RDONLY | flags)


def _mount(source: object, target: object, kind: str | None, flags: int, options: str | None = None) -> None:
    result = ctypes.CDLL(None, use_errno=True).mount(_c(source), _c(target), _c(kind), flags, _c(options))
    _check(result, f"mount {target}")


def _c(value: object) -> bytes | None:
    return None if value is None else os.fsencode(str(value))


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
