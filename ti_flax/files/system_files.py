"""What systems, drives and programs keep among a person's files: thumbnails, trash, indexes, copies."""

import re

# Names in lower case. Folders of Synology, QNAP, NetApp, ZFS and Btrfs; of Windows; of macOS, also in its
# archives and on network drives; of Linux desktops and file systems; of Android; of programs.
_FOLDERS = frozenset(
    (
        *("@eadir", "@tmp", "@synoresource", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
        *(".@__thumb", ".@qmeta", ".snapshot", "~snapshot", ".snapshots", ".zfs", ".recycle"),
        *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000", "msocache"),
        *("__macosx", ".trash", ".trashes", ".spotlight-v100", ".fseventsd", ".temporaryitems"),
        *(".documentrevisions-v100", ".appledouble", ".appledb", ".appledesktop", ".mobilebackups"),
        *("network trash folder", "temporary items", "thevolumesettingsfolder"),
        *("lost+found", ".thumbnails", ".xvpics", "lost.dir", ".picasaoriginals", ".dropbox.cache"),
        *(".tmp.driveupload", ".tmp.drivedownload", ".stversions", ".stfolder", ".sync"),
        *(".git", ".svn", ".hg", ".ipynb_checkpoints", "__pycache__"),
    )
)
_NUMBERED_FOLDERS = re.compile(r"\.trash-\d+|found\.\d{3}")

_FILES = frozenset(
    (
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "folder.htt", "indexervolumeguid"),
        *(".ds_store", ".localized", ".apdisk", ".volumeicon.icns", "icon\r", ".directory", ".nomedia"),
        *("picasa.ini", ".picasa.ini", ".stignore", ".hidden"),
    )
)
# AppleDouble twins, what Android keeps of deleted images, streams of Synology's indexer, what NFS and FUSE
# keep of files that are still open.
_OTHER_FILES = re.compile(
    r"\._.*|\.trashed-\d+-.*|.*@syno(?:eastream|resource)|\.(?:nfs|fuse_hidden)[0-9a-f]+"
)


def is_system_folder(name: str) -> bool:
    """Tell a folder that nobody put images into, by its name in any case."""
    lower = name.lower()
    return lower in _FOLDERS or _NUMBERED_FOLDERS.fullmatch(lower) is not None


def is_system_file(name: str) -> bool:
    """Tell a file that a system keeps beside a person's, by its name in any case."""
    lower = name.lower()
    return lower in _FILES or _OTHER_FILES.fullmatch(lower) is not None
