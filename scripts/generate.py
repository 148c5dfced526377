"""Make pictures from a base model and learned embeddings, with this project's own modules.

    python scripts/generate.py --pretrained_model_name_or_path assets/demo-model \\
      --learned_embeds outputs/demo/learned_embeds.safetensors --prompt "a photo of a <ruby>"
"""

import argparse
import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ti_flax.config.options import ModelOptions  # noqa: E402
from ti_flax.errors import ConfigError, OutputError, exit_code  # noqa: E402

_MODEL_OPTIONS = frozenset(field.name for field in dataclasses.fields(ModelOptions))


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Make pictures from a base model and learned embeddings.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        usage="%(prog)s --pretrained_model_name_or_path MODEL --prompt TEXT [--name value ...]",
    )
    add = parser.add_argument
    add(
        "--pretrained_model_name_or_path", metavar="MODEL", required=True, help="model folder, file or Hub id"
    )
    add("--revision", help="branch, tag or commit of the Hub repository")
    add("--variant", help="variant of the weight files, such as fp16")
    add("--tokenizer_name", metavar="ID_OR_FOLDER", help="tokenizer in place of the model's")
    add("--config_name", metavar="ID_OR_FOLDER", help="model folder that describes a single file")
    add("--pretrained_vae_model_name_or_path", metavar="VAE", help="VAE in place of the model's")
    add("--clip_skip", metavar="N", type=int, default=0, help="layers of the text encoder left out")
    add("--prediction_type", choices=("epsilon", "v_prediction"), help="what the UNet predicts")
    add(
        "--rescale_betas_zero_snr",
        action=argparse.BooleanOptionalAction,
        help="for models trained with a last timestep of pure noise",
    )
    add(
        "--learned_embeds",
        metavar="FILE",
        action="append",
        default=[],
        help="safetensors file; repeatable",
    )
    add(
        "--prompt",
        metavar="TEXT",
        action="append",
        required=True,
        help="what to draw; repeatable, a row each",
    )
    add("--negative_prompt", metavar="TEXT", default="", help="what to move away from")
    add("--num_images", metavar="N", type=int, default=4, help="pictures for each prompt")
    add("--num_inference_steps", metavar="N", type=int, default=25, help="denoising steps")
    add("--guidance_scale", metavar="X", type=float, default=7.5, help="1 is no guidance")
    add(
        "--sampler",
        choices=("ddim", "dpmsolver++"),
        default="dpmsolver++",
        help="dpmsolver++ is the 2M solver",
    )
    add("--seed", metavar="N", type=int, default=0, help="of the first picture; the next ones count up")
    add("--resolution", metavar="N", type=int, help="side in pixels; the model's own if left out")
    add("--mixed_precision", choices=("no", "bf16"), default="no", help="no is float32")
    add("--output", metavar="FILE", type=Path, default=Path("pictures.png"), help="PNG grid to write")
    return parser.parse_args(argv)


def generate(options: argparse.Namespace) -> None:
    """Loads, draws and writes the grid."""
    import jax.numpy as jnp
    import numpy as np

    from ti_flax.base_model import MODEL_PARTS, base_tokenizer, find_base_model, say_notes
    from ti_flax.export.learned_embeds import add_learned_embeds
    from ti_flax.models.stable_diffusion import load_stable_diffusion
    from ti_flax.pictures import Painter, picture_grid
    from ti_flax.tokens import encode_prompts, expand_known

    if options.num_images < 1:
        raise ConfigError("--num_images", expected="1 or more", found=str(options.num_images))
    shared = {name: value for name, value in vars(options).items() if name in _MODEL_OPTIONS}
    base = find_base_model(ModelOptions(**shared), components=MODEL_PARTS)
    tokenizer = base_tokenizer(base, options.tokenizer_name)
    say_notes(base)
    dtype = jnp.bfloat16 if options.mixed_precision == "bf16" else jnp.float32
    model = load_stable_diffusion(base, dtype=dtype)
    width = model.text_encoder.config.hidden_size
    first_added_id = len(tokenizer)
    rows = [add_learned_embeds(tokenizer, Path(path), width=width) for path in options.learned_embeds]
    rows = np.concatenate(rows) if rows else np.zeros((1, width), np.float32)
    side = options.resolution or model.configs["unet"]["sample_size"] * model.vae.config.downsampling
    if side < 1 or side % model.vae.config.downsampling:
        multiple = model.vae.config.downsampling
        raise ConfigError("--resolution", expected=f"a multiple of {multiple}", found=str(side))
    painter = Painter(
        model, first_added_id=first_added_id, steps=options.num_inference_steps, sampler=options.sampler
    )
    drawn = []
    for prompt in options.prompt:
        prompt_ids = encode_prompts(tokenizer, [expand_known(tokenizer, prompt)] * options.num_images)
        negative_ids = encode_prompts(tokenizer, [options.negative_prompt] * options.num_images)
        drawn.append(
            painter.paint(
                model.params,
                rows,
                prompt_ids=prompt_ids,
                negative_ids=negative_ids,
                seeds=range(options.seed, options.seed + options.num_images),
                size=(side, side),
                guidance_scale=options.guidance_scale,
            )
        )
    try:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        picture_grid(np.concatenate(drawn), columns=options.num_images).save(options.output, format="PNG")
    except OSError as error:
        raise OutputError(options.output, expected="a file that can be written", found=str(error)) from error
    print(f"{options.output}: {len(options.prompt)} x {options.num_images} pictures of {side} x {side}")


if __name__ == "__main__":
    sys.exit(exit_code(lambda: generate(parse_arguments())))
