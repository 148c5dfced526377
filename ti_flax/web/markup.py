"""Notes and messages as the page shows them; whatever comes from outside stays text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gradio as gr

from ti_flax.monitoring.report.document import escape


def note(*lines: str) -> str:
    """A note of lines of markup; empty without any."""
    return (
        f'<div class="ti-note" role="status">{"".join(f"<p>{line}</p>" for line in lines)}</div>'
        if lines
        else ""
    )


def fault_text(*messages: str) -> str:
    """Messages about something that is wrong, which screen readers say at once."""
    told = "".join(f"<p>{escape(message)}</p>" for message in messages)
    return f'<div class="ti-fault" role="alert">{told}</div>'


def fault(*messages: str) -> Any:
    """Shows messages where there is room for them."""
    return gr.update(value=fault_text(*messages), visible=True)


def no_fault() -> Any:
    """Takes a message away."""
    return gr.update(value="", visible=False)


def code(words: Iterable[str]) -> str:
    """Words as code."""
    return " ".join(f"<code>{escape(word)}</code>" for word in words)


def report(content: str) -> str:
    """Markup of a run, in the style of its own page."""
    return f'<div class="ti-report">{content}</div>' if content else ""
