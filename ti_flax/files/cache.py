"""The folder in which results are kept for the next run, and whether somebody else can write to it.

A run takes what it finds there for what it once wrote. Damage shows itself; what somebody else puts there on
purpose does not: encoded images of zeros have the right shape, and compiled programs are native code. So only
a folder that belongs to this user, and that no one else can write to, is trusted.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def default_cache_dir() -> Path:
    """Return where results are kept: `$TI_FLAX_CACHE`, else `ti_flax` in the user's cache folder.

    A user without a home, as in containers that run as any number, has one in the folder of temporary files.
    """
    try:
        if os.environ.get("TI_FLAX_CACHE"):
            return Path(os.environ["TI_FLAX_CACHE"]).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ti_flax"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"ti_flax-{_user()}"


def private_folder(folder: Path, *, ours: bool = True) -> str:
    """Make a folder that this user alone can write to, and say why one that is there is not such.

    Args:
      folder: to keep results in; made with mode 0700 where there is none.
      ours: whether ti_flax makes it: then a group, which a umask of 002 lets write, is shut out. A folder
        that a person chose keeps its mode.

    Returns:
      Why it is not to be trusted, with what to do about it; empty if it is.
    """
    try:
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.stat()
        if ours and found.st_uid == _user() and found.st_mode & _OTHERS == stat.S_IWGRP:
            folder.chmod(0o700)
            found = folder.stat()
    except OSError as error:
        return f"{folder} cannot be used ({(error.strerror or str(error)).lower()})"
    return _distrust(folder, found)


def why_not_default(*parts: str) -> str:
    """Return why the folder of that name in `default_cache_dir()` is not to be trusted; empty if it is."""
    folder = default_cache_dir()
    return private_folder(folder) or (private_folder(folder.joinpath(*parts)) if parts else "")


def is_private(path: Path) -> bool:
    """Tell a file that this user or root wrote, and that no one else can, from anything else of the name."""
    try:
        found, folder = path.lstat(), path.parent.stat()
    except OSError:
        return False
    if not folder.st_mode & (stat.S_IXGRP | stat.S_IXOTH):  # nobody else comes to it, whatever its mode
        return stat.S_ISREG(found.st_mode) and found.st_uid in (_user(), 0)
    return stat.S_ISREG(found.st_mode) and not _distrust(path, found)


def _distrust(path: Path, found: os.stat_result) -> str:
    if found.st_uid not in (_user(), 0):
        return f"{path} belongs to another user: choose a folder of your own"
    writers = found.st_mode & _OTHERS
    if writers & stat.S_IWGRP and _is_group_of_one(found.st_gid):
        writers &= ~stat.S_IWGRP
    return f"other users can write to {path}; `chmod 700 {path}` shuts them out" if writers else ""


def _user() -> int:
    return os.geteuid()


def _is_group_of_one(number: int) -> bool:
    """Tell a user's private group, as most Linux systems make them, from one that others may be in."""
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(number), pwd.getpwuid(_user())
    except KeyError:
        return False
    return number == user.pw_gid and group.gr_name == user.pw_name and not set(group.gr_mem) - {user.pw_name}
