"""Taking secrets out of text that is about to be shown."""

import re

_TOKENS = re.compile(r"\b(?:hf|api_org)_\w{4,}|(?<=bearer )\S+", re.IGNORECASE)
_USER_OF_LINK = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_QUERY_OF_LINK = re.compile(r"(?<=://)([^\s?]*\?)[^\s'\"),]+")


def redacted(text: str, *secrets: str | None) -> str:
    """The text with `***` for what is secret: access tokens, and users and queries of links.

    Args:
      text: of an error, say.
      secrets: texts that are secret whatever they look like; None and "" are passed over.
    """
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    text = _USER_OF_LINK.sub("***", _TOKENS.sub("***", text))
    return _QUERY_OF_LINK.sub(r"\1***", text)
