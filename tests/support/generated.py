"""Images that `generate` makes with a tiny model."""

import numpy as np
from PIL import Image

from ti_flax.commands import generate

# The vectors of <thing>.
ROWS = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)


def start(place, *flags):
    model = ["--pretrained_model_name_or_path", str(place / "model"), "--num_inference_steps", "2"]
    arguments = [*model, "--num_images", "2", "--resolution", "16", *map(str, flags)]
    generate.run(generate.parse_arguments(arguments))


def draw(place, output, *flags, prompt="a <thing>"):
    start(place, "--prompt", prompt, "--output", output, "--overwrite", *flags)
    with Image.open(output) as image:
        return np.asarray(image)
