"""Text from outside as it may be shown: a file's name can hold anything, a terminal's commands included."""

_LONGEST = 400


def printable(text: str) -> str:
    """Return a text in which control characters, and bytes that were no text, are written as escapes."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def one_line(text: str) -> str:
    """Return a text as `printable` does, ends of lines included."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def shortened(text: str, longest: int = _LONGEST) -> str:
    """Return a text without the middle of what is too long to be read."""
    if len(text) <= longest:
        return text
    return f"{text[: longest // 2]} ... {text[-(longest // 2) :]}"


def _escaped(character: str) -> str:
    if character in "\n\t":
        return character
    if "\udc80" <= character <= "\udcff":  # how Python keeps a byte of a name that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
