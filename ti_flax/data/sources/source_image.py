"""One image that a source names, not yet decoded."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class SourceImage:
    """An image by name and content.

    Attributes:
      name: shown to people, such as the file's name, or `cat/1.png` in a sub-folder.
      where: the same at full length, for errors.
      content: the path of a file, or its bytes, or what returns them.
      path: of the file that a person keeps the image in; None for links and rows of a dataset.
      caption: from a dataset's column or a metadata file.
    """

    name: str
    where: str
    content: str | bytes | Callable[[], bytes]
    path: str | None = None
    caption: str | None = None

    def read(self) -> str | bytes:
        """Return the path or the bytes to decode."""
        return self.content() if callable(self.content) else self.content
