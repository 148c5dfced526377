"""Single files with the shapes of the released SDXL base 1.0: configs worked out, and names."""

import numpy as np
import original_layout
import pytest
from released_configs import SCHEDULER_XL, TEXT_ENCODER_2_XL, TEXT_ENCODER_XL, UNET_XL, VAE_XL

torch = pytest.importorskip("torch")

from sdxl_folder import PARTS, sdxl_model, state_of_module, understood  # noqa: E402

from ti_flax.models.weights.original_names import dotted  # noqa: E402
from ti_flax.models.weights.single_file import index_file, open_single_file  # noqa: E402

# With every size of base 1.0 and no numbers: a hole in the disk.
RELEASED = {
    "text_encoder": TEXT_ENCODER_XL,
    "text_encoder_2": TEXT_ENCODER_2_XL,
    "unet": UNET_XL,
    "vae": VAE_XL,
    "scheduler": SCHEDULER_XL,
}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    states = {}
    for part in PARTS:
        with torch.device("meta"):
            module = sdxl_model(part, RELEASED[part])
        shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        module.state_dict = lambda shapes=shapes: {
            name: torch.zeros((), dtype=torch.int8).expand(shape) for name, shape in shapes.items()
        }
        states[part] = state_of_module(module, part)
    header = original_layout.header_of(original_layout.original_sdxl_state(states, RELEASED))
    return original_layout.write_header(tmp_path_factory.mktemp("released") / "xl.safetensors", header)


def test_configs_of_the_released_model_are_worked_out(released):
    file = open_single_file(released)
    assert file.is_sdxl and file.notes == ()
    for part, config in RELEASED.items():
        assert understood(part, file.configs[part]) == understood(part, config), part
    assert file.configs["scheduler"]["_class_name"] == "EulerDiscreteScheduler"
    assert file.configs["unet"]["attention_head_dim"] == [5, 10, 20]
    assert file.configs["unet"]["transformer_layers_per_block"] == [1, 2, 10]
    assert sum(int(np.prod(tensor.shape)) for tensor in file.tensors["unet"].values()) == 2_567_463_684
    assert len(file.tensors["unet"]) == 1680 and len(file.tensors["text_encoder_2"]) == 517


def test_dots_come_back_into_averaged_names_of_the_released_model(released):
    prefix = "model.diffusion_model."
    names = [name.removeprefix(prefix) for name in index_file(released) if name.startswith(prefix)]
    assert len(names) == 1680
    for name in names:
        assert dotted(name.replace(".", "")) == name
