"""PyTorch's own tiny models, written by its own `save_pretrained`: the reference of the parity tests."""

import pytest

torch = pytest.importorskip("torch")


def torch_model(component, config):
    """Make one PyTorch module of a tiny config with random parameters, none of them zero or one."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    if component == "text_encoder":
        module = CLIPTextModel(CLIPTextConfig(**config))
    elif component == "text_encoder_2":
        module = CLIPTextModelWithProjection(CLIPTextConfig(**config))
    else:
        module = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[component].from_config(config)
    with torch.no_grad():
        for parameter in module.parameters():
            # New biases are zero and new scales one: a mapping that mixes them up would not be seen.
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def write_torch_models(folder, configs):
    """Write the modules of a family into `folder` and return them by component."""
    modules = {part: torch_model(part, configs[part]) for part in configs if part != "scheduler"}
    for part, module in modules.items():
        module.save_pretrained(folder / part)
    return modules


def as_tensors(values):
    """Turn arrays into tensors; tensors stay as they are."""
    return [value if torch.is_tensor(value) else torch.from_numpy(value) for value in values]


def channels_first(values):
    """Turn `[batch, height, width, channels]` into a tensor `[batch, channels, height, width]`."""
    return torch.from_numpy(values.transpose(0, 3, 1, 2).copy())


def channels_last(tensor):
    """Turn a tensor `[batch, channels, height, width]` into `[batch, height, width, channels]`."""
    return tensor.detach().numpy().transpose(0, 2, 3, 1)
