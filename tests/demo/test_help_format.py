"""How the programs of the demo and the benchmarks print their options."""

import argparse

from help_format import HelpFormatter


def test_defaults_are_shown_unless_they_say_nothing():
    parser = argparse.ArgumentParser(formatter_class=HelpFormatter)
    parser.add_argument("--count", type=int, default=7, help="of samples")
    parser.add_argument("--file", help="to write")
    parser.add_argument("--quick", action="store_true", help="a small run")
    parser.add_argument("--slots", default=3, help="by default as many as fit")
    shown = parser.format_help()
    assert shown.count("(default: ") == 1 and "of samples (default: 7)" in shown
