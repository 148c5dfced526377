"""What a program says of arguments that it does not take."""

import argparse
import typing

from ti_flax.errors import ConfigError


class ArgumentParser(argparse.ArgumentParser):
    """Raises a ConfigError of one line where argparse would print its usage before the line, and exit."""

    def error(self, message: str) -> typing.NoReturn:
        raise ConfigError(message, remedy=f"{self.prog} --help lists what there is.")
