"""The shell of every page: one file that loads nothing from elsewhere, in which foreign text stays text."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape as _escape

from ti_flax.errors import printable
from ti_flax.monitoring.report.style import STYLE


def escape(value: object) -> str:
    """Whatever it is as text in a page: no markup, and no sign that cannot be seen."""
    return _escape(printable(str(value)))


def document(
    title: str,
    sections: Iterable[str],
    *,
    images: str = "data:",
    style: str = "",
    script: str = "",
    refresh: int | None = None,
) -> str:
    """The text of a page.

    Args:
      title: of the page, as plain text.
      sections: its content as markup; empty ones are left out.
      images: where its images may come from, as its security policy says it.
      style: rules beside those that all pages share.
      script: the one script that may run; none if empty.
      refresh: seconds after which a browser asks for it again; None: never.
    """
    # Nothing else may load anything, run, or lead away: what a page says of a run comes from outside.
    policy = f"default-src 'none'; img-src {images}; style-src 'unsafe-inline'"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
    policy += "; form-action 'none'; base-uri 'none'"
    again = "" if refresh is None else f'<meta http-equiv="refresh" content="{refresh}">'
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{again}'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head><body><main>\n"
        + "\n".join(each for each in sections if each)
        + f"\n</main>{f'<script>{script}</script>' if script else ''}</body></html>\n"
    )
