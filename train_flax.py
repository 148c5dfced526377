"""Learn a concept: `python train_flax.py --config configs/demo.yaml`, which is `ti-flax train`."""

import sys

from ti_flax.commands.train import main
from ti_flax.console.interrupt import end_process

if __name__ == "__main__":
    sys.exit(end_process(main(prog="python train_flax.py")))
