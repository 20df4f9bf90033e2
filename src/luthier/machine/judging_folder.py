"""Facts about where a run will be → findings. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from luthier.machine.findings import Finding, fault, ok, warning
from luthier.machine.probes import Folder

MIB, GIB = 2**20, 2**30
LITTLE_SPACE, NO_SPACE = 2 * GIB, 256 * MIB
FEW_FILES, NO_FILES = 10_000, 100
SLOW = 20 * MIB  # bytes a second
SKEW = 2.0  # seconds
NETWORK = frozenset(
    (
        *("9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4"),
        *("orangefs", "panfs", "smb3", "smbfs", "wekafs"),
        *("fuse.ceph-fuse", "fuse.gcsfuse", "fuse.glusterfs", "fuse.goofys", "fuse.juicefs"),
        *("fuse.mount-s3", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    )
)
_VOLATILE = ("tmpfs", "ramfs")


def judge_folder(found: Folder) -> Iterator[Finding]:
    """Judge whether a run can be kept there, and how well."""
    if found.error is not None:
        yield fault("folder", "unwritable", path=found.path, error=found.error)
        return
    yield _place(found)
    yield _space(found)
    if found.speed is not None:
        build, state = (ok, "ok") if found.speed >= SLOW else (warning, "slow")
        yield build("write_speed", state, speed_bytes=round(found.speed))
    abilities = (
        ("rename", found.renames, fault),
        ("file_locks", found.locks, fault),
        ("hard_links", found.links, warning),
        ("folder_sync", found.syncs, warning),
    )
    for name, able, build in abilities:
        yield build(name, "refused", path=found.path) if able is False else ok(name)
    if found.skew is not None:
        if abs(found.skew) > SKEW:
            yield warning("file_times", "skewed", seconds=f"{found.skew:+.1f}")
        else:
            yield ok("file_times")


def _place(found: Folder) -> Finding:
    facts = {"path": found.path, "kind": found.kind}
    if found.kind in NETWORK:
        return warning("folder", "network", **facts)
    if found.kind in _VOLATILE:
        return warning("folder", "volatile", **facts)
    return ok("folder", "layer" if found.kind == "overlay" else "ok", **facts)


def _space(found: Folder) -> Finding:
    facts = {"path": found.path, "free_bytes": found.free, "files": found.files}
    files = FEW_FILES if found.files is None else found.files
    if found.free < NO_SPACE or files < NO_FILES:
        state, build = ("little" if found.free < NO_SPACE else "few_files"), fault
    elif found.free < LITTLE_SPACE or files < FEW_FILES:
        state, build = ("little" if found.free < LITTLE_SPACE else "few_files"), warning
    else:
        return ok("free_space", **facts)
    return build("free_space", state, **facts)
