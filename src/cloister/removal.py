"""Overwriting and removing a plaintext source, with the caller's own rights, and what that can promise where it lies.

Runs on the client's side. What a file system does with the old blocks is told from the mount, the device and
/sys; no promise is made that they do not bear out. Standard library only.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cloister.descriptors import close_all
from cloister.errors import Denied, InvalidInput, NotFound

_PIECE = 1 << 20
_IN_PLACE = frozenset({"ext2", "ext3", "ext4", "xfs", "vfat", "exfat", "msdos", "jfs", "ntfs3", "hfsplus"})
_COPY_ON_WRITE = frozenset({"btrfs", "zfs", "bcachefs", "nilfs2", "f2fs", "apfs", "ubifs"})
_MEMORY = frozenset({"tmpfs", "ramfs"})
_ELSEWHERE = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "glusterfs", "lustre", "afs", "sshfs"}
)


@dataclass(frozen=True)
class Ground:
    """Where a file lies. `overwrite` is whether writing over it reaches the old blocks at all; `words` say what can
    and cannot be promised, a sentence each."""

    filesystem: str
    overwrite: bool
    words: tuple[str, ...]


class Removable:
    """A source that may be removed later: opened for writing now, and known by its inode.

    Use as a context manager.

    Raises:
        InvalidInput: it is a link, no regular file, or has another name besides this one.
        Denied: the caller may not write it, or not remove it from its folder.
        NotFound: it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = -1
        self._file = -1
        try:
            self._folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._file = os.open(path.name, flags, dir_fd=self._folder)
            self._check_kind()
            if not os.access(path.parent, os.W_OK | os.X_OK):
                raise Denied("its folder may not be written, so it cannot be removed", where=str(path))
            self.ground = ground_of(self._file)
            self._status = os.fstat(self._file)
        except OSError as error:
            self.close()
            raise _refusal(error, path) from None
        except BaseException:
            self.close()
            raise

    def _check_kind(self) -> None:
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput("only a regular file can be removed after its import", where=str(self.path))
        if status.st_nlink != 1:
            raise InvalidInput(
                f"the file has {status.st_nlink} names (hard links): its content would stay under the others",
                where=str(self.path),
                remedy="Remove the others first, or leave --remove-source out.",
            )

    def __enter__(self) -> Removable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        ours = [descriptor for descriptor in (self._file, self._folder) if descriptor >= 0]
        self._file = self._folder = -1
        close_all(ours)

    def check_same(self, descriptor: int) -> None:
        """Raises InvalidInput where an open descriptor is of another file, or the file has changed since."""
        read, now, named = os.fstat(descriptor), os.fstat(self._file), self._named()
        same = (read.st_dev, read.st_ino) == (now.st_dev, now.st_ino) == (named.st_dev, named.st_ino)
        changed = (now.st_size, now.st_mtime_ns) != (self._status.st_size, self._status.st_mtime_ns)
        if not same or changed:
            raise InvalidInput(
                "it has changed since the import began, so it was not removed", where=str(self.path)
            )
        self._check_kind()

    def _named(self) -> os.stat_result:
        try:
            return os.stat(self.path.name, dir_fd=self._folder, follow_symlinks=False)
        except OSError:
            raise InvalidInput(
                "it was moved meanwhile, so it was not removed", where=str(self.path)
            ) from None

    def go(self, descriptor: int, enter: Callable[[Ground], None]) -> int:
        """`remove` the file that the import has read by `descriptor`, once `enter` has recorded that it goes.

        Raises what `check_same`, `enter` and `remove` do; the file stays then.
        """
        self.check_same(descriptor)
        enter(self.ground)
        self.check_same(descriptor)
        return self.remove()

    def remove(self) -> int:
        """Overwrite the file once with random bytes, where that reaches its blocks, and remove it.

        Returns:
            how many bytes were overwritten.

        Raises:
            Denied: the system refuses.
        """
        written = 0
        try:
            if self.ground.overwrite:
                written = self._overwrite()
            # Under a name that tells nothing, so that the folder's old entry tells nothing.
            hidden = secrets.token_hex(min(16, max(4, len(self.path.name) // 2)))
            os.rename(self.path.name, hidden, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            self._check_hidden(hidden)
            os.unlink(hidden, dir_fd=self._folder)
            os.fsync(self._folder)
        except OSError as error:
            raise _refusal(error, self.path) from None
        return written

    def _check_hidden(self, hidden: str) -> None:
        """What was renamed is the file that was overwritten; another one that took its name meanwhile goes back."""
        status, ours = os.stat(hidden, dir_fd=self._folder, follow_symlinks=False), os.fstat(self._file)
        if (status.st_dev, status.st_ino) != (ours.st_dev, ours.st_ino):
            os.rename(hidden, self.path.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            raise InvalidInput(
                "another file took its name meanwhile and was left alone", where=str(self.path)
            )

    def _overwrite(self) -> int:
        status = os.fstat(self._file)
        block = max(512, status.st_blksize)
        end = -(-status.st_size // block) * block  # the slack of the last block, too
        at = 0
        while at < end:
            at += os.pwrite(self._file, os.urandom(min(_PIECE, end - at)), at)
        os.fsync(self._file)
        os.ftruncate(self._file, 0)
        os.fsync(self._file)
        return at


def ground_of(descriptor: int, *, proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Ground:
    """What is known of the file system and the device under an open file."""
    kind, options, device = _mount_of(descriptor, proc)
    family = kind.split(".", 1)[0]
    if family in _MEMORY:
        return Ground(
            kind,
            False,
            (
                f"It lies in memory ({kind}): it is gone when it is removed, unless it was swapped out.",
                *_ALWAYS,
            ),
        )
    if family in _COPY_ON_WRITE:
        return Ground(
            kind,
            False,
            (
                f"{kind} writes to new blocks and never over old ones: the file is removed, not overwritten. "
                "Its blocks stay readable to whoever reads the device until they are used again, and in snapshots.",
                *_ALWAYS,
            ),
        )
    if family == "overlay":
        return Ground(
            kind,
            True,
            (
                "It lies on an overlay: if it came with a lower layer, what is overwritten is a copy, and the lower "
                "layer keeps the file.",
                *_ALWAYS,
            ),
        )
    if family in _ELSEWHERE or family == "fuse":
        return Ground(
            kind,
            True,
            (
                f"It lies behind {kind}: it is overwritten as seen from here. What the other side keeps (old blocks, "
                "versions, snapshots) is not known here.",
                *_ALWAYS,
            ),
        )
    if family not in _IN_PLACE:
        return Ground(
            kind, True, (f"How {kind} treats old blocks is not known: nothing is promised.", *_ALWAYS)
        )
    words = [f"{kind} writes in place: the blocks that the file has now are overwritten."]
    if "data=journal" in options:
        words = [
            f"{kind} keeps data in its journal here (data=journal): pieces of the file stay there for a while."
        ]
    if family == "xfs":
        words.append("If it was ever copied by reflink, the copy keeps the blocks.")
    words.append(_device_words(device, sys))
    return Ground(kind, True, (*words, *_ALWAYS))


_ALWAYS = (
    "Other copies are not touched: backups, snapshots of the volume, temporary files of editors, earlier versions "
    "that were replaced.",
)


def _device_words(device: str, sys: Path) -> str:
    """What the device below means for blocks that were overwritten."""
    folder = sys / "dev" / "block" / device
    uuid = _text(folder / "dm" / "uuid")
    if uuid.startswith("CRYPT-"):
        return "The volume is encrypted: old blocks are readable only with its key."
    rotational = _text(folder / "queue" / "rotational") or _text(folder / ".." / "queue" / "rotational")
    name = _text(folder / "uevent").partition("DEVNAME=")[2].split("\n", 1)[0]
    if name.startswith(("vd", "xvd")):
        return "The disk is a virtual one: what its host keeps of old blocks is not known here."
    if rotational == "0":
        return (
            "The device has no moving parts (an SSD): it writes elsewhere and keeps the old cells until it erases them "
            "by itself. Only full-disk encryption, or the device's own erasure, reaches them."
        )
    if rotational == "1":
        return "The device is a magnetic disk: sectors that it has replaced by spares keep what they held."
    return "What device lies below is not known."


def _mount_of(descriptor: int, proc: Path) -> tuple[str, str, str]:
    """File system, options and `major:minor` of the mount that an open file lies on; `unknown` where /proc does
    not tell."""
    told = _text(proc / "self" / "fdinfo" / str(descriptor))
    number = next((line.split()[1] for line in told.splitlines() if line.startswith("mnt_id:")), None)
    for line in _text(proc / "self" / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if number is not None and fields[:1] == [number] and len(rest) >= 3:
            return rest[0], f"{fields[5]},{rest[2]}", fields[2]
    return "unknown", "", ""


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace").strip()
    except OSError:
        return ""


def _refusal(error: OSError, path: Path) -> Exception:
    if error.errno == errno.ELOOP:
        return InvalidInput(
            "a symbolic link is not removed after its import",
            where=str(path),
            remedy="Name the file itself.",
        )
    if error.errno == errno.ENOENT:
        return NotFound("no such file", where=str(path))
    if error.errno == errno.ENXIO or error.errno == errno.EISDIR:
        return InvalidInput("only a regular file can be removed after its import", where=str(path))
    return Denied(f"the system refuses: {error.strerror}", where=str(path))
