"""Whether this process is the kernel of a notebook, whose memory its user wants to keep."""

import sys


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this, in Jupyter, Colab or Kaggle; IPython on a terminal is none."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")
