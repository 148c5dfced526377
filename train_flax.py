"""Learn a concept: `python train_flax.py --config configs/demo.yaml`, which is `ti-flax train`."""

import sys

from ti_flax.commands.train import main

if __name__ == "__main__":
    sys.exit(main(prog="python train_flax.py"))
