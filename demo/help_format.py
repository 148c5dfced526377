"""How the programs of the demo and the benchmarks print their options."""

import argparse


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of an option, unless that says nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        says_nothing = action.default is None or action.default is False or "default" in (action.help or "")
        return action.help if says_nothing else super()._get_help_string(action)
