"""Write report.html anew from the files of a run's folder, also while the run goes on.

python scripts/make_report.py outputs/demo
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ti_flax.console.program import exit_code  # noqa: E402
from ti_flax.errors import unwritable  # noqa: E402


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Write report.html anew from the files of a run's folder, also while the run goes on."
    )
    parser.add_argument("output_dir", metavar="FOLDER", type=Path, help="output_dir of a run")
    return parser.parse_args(argv)


def make(options: argparse.Namespace) -> None:
    """Writes the page and says where it is."""
    from ti_flax.monitoring.report.page import write_report

    try:
        print(write_report(options.output_dir))
    except OSError as error:
        raise unwritable(options.output_dir, error) from None


if __name__ == "__main__":
    sys.exit(exit_code(lambda: make(parse_arguments())))
