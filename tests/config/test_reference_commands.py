"""The commands of the diffusers guide, and the defaults of the script that they are for."""

import shlex

import pytest

from ti_flax.config import parse_config

# The two commands of the diffusers guide, after the name of the script.
PYTORCH_GUIDE = """
  --pretrained_model_name_or_path=stable-diffusion-v1-5/stable-diffusion-v1-5 \\
  --train_data_dir=./cat \\
  --learnable_property="object" \\
  --placeholder_token="<cat-toy>" \\
  --initializer_token="toy" \\
  --resolution=512 \\
  --train_batch_size=1 \\
  --gradient_accumulation_steps=4 \\
  --max_train_steps=3000 \\
  --learning_rate=5.0e-04 \\
  --scale_lr \\
  --lr_scheduler="constant" \\
  --lr_warmup_steps=0 \\
  --push_to_hub \\
  --output_dir="textual_inversion_cat"
"""


FLAX_GUIDE = """
  --pretrained_model_name_or_path=duongna/stable-diffusion-v1-4-flax \\
  --train_data_dir=path-to-dir-containing-images \\
  --learnable_property="object" \\
  --placeholder_token="<cat-toy>" \\
  --initializer_token="toy" \\
  --resolution=512 \\
  --train_batch_size=1 \\
  --max_train_steps=3000 \\
  --learning_rate=5.0e-04 \\
  --scale_lr \\
  --output_dir="textual_inversion_cat"
"""


# The guide's command for SDXL, with every switch of its script that has nothing to switch here.
SDXL_GUIDE = """
  --pretrained_model_name_or_path=stabilityai/stable-diffusion-xl-base-1.0 \\
  --train_data_dir=./cat \\
  --learnable_property="object" \\
  --placeholder_token="<cat-toy>" \\
  --initializer_token="toy" \\
  --mixed_precision="bf16" \\
  --resolution=768 \\
  --train_batch_size=1 \\
  --gradient_accumulation_steps=4 \\
  --max_train_steps=500 \\
  --learning_rate=5.0e-04 \\
  --scale_lr \\
  --lr_scheduler="constant" \\
  --lr_warmup_steps=0 \\
  --variant=fp16 --gradient_checkpointing --use_8bit_adam --allow_tf32 \\
  --dataloader_num_workers=2 --local_rank=-1 \\
  --enable_xformers_memory_efficient_attention \\
  --save_as_full_pipeline \\
  --output_dir="./textual_inversion_cat_sdxl"
"""


# Defaults of the PyTorch script, which hold where the Flax script disagrees.
REFERENCE_DEFAULTS = {
    "save_steps": 500,
    "num_vectors": 1,
    "revision": None,
    "variant": None,
    "tokenizer_name": None,
    "learnable_property": "object",
    "repeats": 100,
    "output_dir": "text-inversion-model",
    "seed": None,
    "resolution": 512,
    "center_crop": False,
    "train_batch_size": 16,
    "num_train_epochs": 100,
    "max_train_steps": 5000,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "learning_rate": 1e-4,
    "scale_lr": False,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 500,
    "lr_num_cycles": 1,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_weight_decay": 1e-2,
    "adam_epsilon": 1e-8,
    "push_to_hub": False,
    "hub_model_id": None,
    "logging_dir": "logs",
    "mixed_precision": "no",
    "report_to": "tensorboard",
    "validation_prompt": None,
    "num_validation_images": 4,
    "validation_steps": 100,
    "validation_epochs": None,
    "checkpointing_steps": 500,
    "checkpoints_total_limit": None,
    "resume_from_checkpoint": None,
}


REQUIRED_FLAGS = [
    "--pretrained_model_name_or_path=model",
    "--train_data_dir=pictures",
    "--placeholder_token=<new>",
    "--initializer_token=toy",
]


@pytest.mark.parametrize("style", ["--flag=value", "--flag value"])
@pytest.mark.parametrize("command", [PYTORCH_GUIDE, FLAX_GUIDE])
def test_guide_commands_parse(command, style, capsys):
    argv = shlex.split(command.replace("\\\n", " "))
    if style == "--flag value":
        argv = [part for argument in argv for part in argument.split("=")]
    config = parse_config(argv)
    assert config.concept.words == ("<cat-toy>",)
    assert config.optimizer.learning_rate == 5e-4
    assert config.optimizer.scale_lr is True
    assert config.training.max_train_steps == 3000
    assert config.training.gradient_accumulation_steps == (4 if command is PYTORCH_GUIDE else 1)
    assert config.hub.push_to_hub is (command is PYTORCH_GUIDE)
    assert config.output.output_dir == "textual_inversion_cat"
    assert capsys.readouterr() == ("", "")


def test_the_command_for_sdxl_parses_and_says_what_has_no_effect(capsys):
    config = parse_config(shlex.split(SDXL_GUIDE.replace("\\\n", " ")))
    assert (config.images.resolution, config.training.max_train_steps) == (768, 500)
    assert config.model.variant == "fp16" and config.concept.learned_text_encoders == "both"
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 6 and all(line.startswith("note: ") for line in notes)
    assert (
        "note: use_8bit_adam does nothing here: the optimizer has state for the new rows alone"
        in "\n".join(notes)
    )


def test_defaults_are_those_of_the_reference(capsys):
    values = parse_config(REQUIRED_FLAGS).to_dict()
    assert {name: values[name] for name in REFERENCE_DEFAULTS} == REFERENCE_DEFAULTS
    assert capsys.readouterr() == ("", "")
