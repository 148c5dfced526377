"""How the page looks, for light and dark and for narrow screens."""

from gradio.themes import Base

from ti_flax.monitoring.report.style import STYLE

_SANS, _MONO = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")

# Runs are shown as on their own pages, with the page's colours.
_REPORT = f"""
.ti-report {{ --ink: var(--body-text-color); --paper: var(--background-fill-primary);
  --soft: var(--background-fill-secondary); --line: var(--border-color-primary);
  --quiet: var(--body-text-color-subdued); --flag: #b42318; --good: #17803d; --warn: #a84a08;
  --c0: #2563b8; --c1: #c2570c; --c2: #17803d; --c3: #8b3fb0; --c4: #b01e62; --c5: #0e7490; }}
.dark .ti-report {{ --flag: #ff8a80; --good: #6fd08c; --warn: #f5a35c; --c0: #7ab0f5; --c1: #f5a35c;
  --c2: #6fd08c; --c3: #cf9bea; --c4: #f58ab8; --c5: #6cc7dc; }}
.ti-report {{ {STYLE} }}
.ti-report .headline {{ font-size: 1.15em; }} .ti-report .verdict {{ margin: .6em 0; }}
"""

STYLES = f"""
<style>
.gradio-container {{ max-width: 900px !important; margin: 0 auto !important; }}
.ti-fault {{ color: #b42318; font-weight: 500; overflow-wrap: anywhere; }}
.dark .ti-fault {{ color: #ff8a80; }}
.ti-note {{ color: var(--body-text-color-subdued); overflow-wrap: anywhere; }}
.ti-note b {{ color: var(--body-text-color); font-weight: 600; }}
.ti-note code {{ background: var(--background-fill-secondary); padding: 1px 5px; border-radius: 4px; }}
.ti-note p, .ti-fault p {{ margin: .15em 0; }}
.ti-log textarea {{ font-family: ui-monospace, monospace; font-size: .8em; line-height: 1.45;
  white-space: pre; overflow-x: auto; }}
#preview, #drop {{ padding-top: 2.2em; }}
#preview img {{ image-rendering: pixelated; width: min(100%, 640px) !important; }}
:is(#word-look, #preview-rows, #drawing, #download-fault):not(:has([role])) {{ display: none; }}
{_REPORT}
</style>
"""


def theme() -> Base:
    """Colours, and fonts that every machine has: none are fetched from elsewhere."""
    return Base(primary_hue="blue", neutral_hue="slate", font=_SANS, font_mono=_MONO)
