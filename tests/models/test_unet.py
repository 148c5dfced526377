"""The UNet against PyTorch's, in bfloat16, and the configs it takes and refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from released_configs import UNET_1_5, UNET_2_1
from tiny_models import FAMILIES, SD1, SD2, SDXL, SMALL

from ti_flax.errors import WeightsError
from ti_flax.models.attention import AUTO
from ti_flax.models.stable_diffusion import parameter_shapes, random_stable_diffusion
from ti_flax.models.transformer import Transformer
from ti_flax.models.unet import FlaxUNet2DConditionModel, UNet2DConditionConfig, timestep_embedding
from ti_flax.models.weights.parameters import read_params

MODELS = FAMILIES | {"sdxl": SDXL}
SMALLER = {"small sdxl": SMALL["sdxl"]}  # for gradients, which take far longer to compile


def inputs(config, size=(8, 8)):
    """The arguments of a UNet: sample, timesteps, encoded prompt, and for SDXL pooled prompt and sizes."""
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((2, *size, 4), dtype=np.float32)
    context = rng.standard_normal((2, 77, config["cross_attention_dim"]), dtype=np.float32)
    given = (sample, np.array([3, 900]), context)
    if "addition_embed_type" not in config:
        return given
    sizes = np.array([[731, 1024, 0, 13, 1024, 1024], [512, 768, 40, 0, 896, 1152]], np.float32)
    return *given, rng.standard_normal((2, 28), dtype=np.float32), sizes


def torch_prediction(reference, arguments):
    """What PyTorch's UNet predicts, `[batch, channels, height, width]`; tensors among the arguments stay."""
    from torch_models import as_tensors, channels_first

    sample, timesteps, context, *added = as_tensors(arguments)
    names = ("text_embeds", "time_ids")
    more = {"added_cond_kwargs": dict(zip(names, added, strict=True))} if added else {}
    return reference(channels_first(sample.numpy()), timesteps, context, **more).sample


@pytest.fixture(scope="module", params=MODELS)
def with_reference(request, tmp_path_factory):
    """A family's UNet with the parameters of PyTorch's, and PyTorch's."""
    pytest.importorskip("torch")
    from torch_models import torch_model

    config = (MODELS | SMALLER)[request.param]["unet"]
    reference = torch_model("unet", config)
    folder = tmp_path_factory.mktemp(request.param)
    reference.save_pretrained(folder / "unet")
    module = FlaxUNet2DConditionModel(UNet2DConditionConfig.from_dict(config))
    params = read_params(folder, "unet", parameter_shapes(module), dtype=jnp.float32)
    return module, params, reference, config


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_prediction_equals_pytorchs(with_reference, size):
    import torch
    from torch_models import channels_last

    module, params, reference, config = with_reference
    arguments = inputs(config, size)
    with torch.no_grad():
        expected = torch_prediction(reference, arguments)
    found = jax.jit(module.apply)({"params": params}, *arguments)
    np.testing.assert_allclose(found, channels_last(expected), atol=1e-5)


@pytest.mark.parametrize("with_reference", ["small sdxl"], indirect=True)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_by_the_prompt_equal_pytorchs(with_reference, checkpointed):
    """Of the squared prediction by hidden states and pooled, through the stacked layers."""
    from torch_models import as_tensors

    module, params, reference, config = with_reference
    arguments = inputs(config)
    tensors = as_tensors(arguments)
    prompt = tensors[2:4]
    for tensor in prompt:
        tensor.requires_grad_()
    torch_prediction(reference, tensors).square().mean().backward()

    differentiated = module.clone(gradient_checkpointing=checkpointed)

    def loss(prompt):
        given = (*arguments[:2], *prompt, *arguments[4:])
        return jnp.mean(jnp.square(differentiated.apply({"params": params}, *given)))

    found = jax.jit(jax.grad(loss))(arguments[2:4])
    for ours, theirs in zip(found, prompt, strict=True):
        scale = np.abs(theirs.grad.numpy()).max()
        assert scale > 0
        np.testing.assert_allclose(ours / scale, theirs.grad.numpy() / scale, atol=1e-4)


@pytest.mark.parametrize("with_reference", ["sdxl"], indirect=True)
def test_a_prompt_as_a_whole_and_sizes_count(with_reference):
    module, params, _, config = with_reference
    arguments = list(inputs(config))
    apply = jax.jit(module.apply)
    before = apply({"params": params}, *arguments)
    for place in (3, 4):
        changed = [*arguments[:place], arguments[place] + 1, *arguments[place + 1 :]]
        assert np.abs(apply({"params": params}, *changed) - before).max() > 1e-4


@pytest.mark.parametrize(("flip", "shift", "channels"), [(True, 0, 32), (False, 1, 32), (True, 0, 33)])
def test_timestep_embedding_equals_pytorchs(flip, shift, channels):
    torch = pytest.importorskip("torch")
    from diffusers.models.embeddings import get_timestep_embedding

    timesteps = np.array([0, 1, 999])
    expected = get_timestep_embedding(
        torch.from_numpy(timesteps), channels, flip_sin_to_cos=flip, downscale_freq_shift=shift
    )
    found = timestep_embedding(jnp.asarray(timesteps), channels, flip_sin_to_cos=flip, freq_shift=shift)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_bfloat16_stays_near_float32():
    model = random_stable_diffusion(SD2, seed=0)
    arguments = inputs(SD2["unet"])
    expected = jax.jit(model.unet.apply)({"params": model.params["unet"]}, *arguments)
    lower = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.params["unet"])
    found = jax.jit(model.unet.clone(dtype=jnp.bfloat16).apply)({"params": lower}, *arguments)
    assert found.dtype == jnp.bfloat16
    error = np.linalg.norm(found.astype(jnp.float32) - expected) / np.linalg.norm(expected)
    assert error < 0.03


def test_gradient_checkpointing_changes_nothing_but_memory():
    model = random_stable_diffusion(SMALL["sd1"], seed=0)
    sample, timesteps, context = inputs(SD1["unet"])

    def loss(context, module):
        return jnp.sum(module.apply({"params": model.params["unet"]}, sample, timesteps, context) ** 2)

    checkpointed = model.unet.clone(gradient_checkpointing=True)
    assert parameter_shapes(checkpointed) == parameter_shapes(model.unet)
    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    expected = gradient(context, model.unet)
    found = gradient(context, checkpointed)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, atol=1e-4 * float(np.abs(expected).max()))


def memory_of_gradient(checkpointed, side):
    """Bytes that the gradient of 12 stacked layers by the prompt takes, and those of its arguments."""
    transformer = Transformer(12, 2, 4, True, jnp.float32, AUTO, checkpointed)
    image, prompt = (jax.ShapeDtypeStruct((1, *shape, 48), jnp.float32) for shape in ((side, side), (3,)))
    params = jax.eval_shape(transformer.init, jax.random.key(0), image, prompt)

    def loss(params, image, prompt):
        return jnp.sum(transformer.apply(params, image, prompt) ** 2)

    program = jax.jit(jax.grad(loss, argnums=2)).lower(params, image, prompt).compile()
    memory = program.memory_analysis()
    return memory.temp_size_in_bytes, memory.argument_size_in_bytes


@pytest.mark.parametrize("checkpointed", [False, True])
def test_stacked_parameters_are_not_copied(checkpointed):
    """Neither for the forward pass nor for the backward one: beside them there is room for a layer's."""
    taken, given = memory_of_gradient(checkpointed, side=2)
    assert taken < given / 3


def test_gradient_checkpointing_keeps_only_the_input_of_a_layer():
    plain, checkpointed = (memory_of_gradient(each, side=16)[0] for each in (False, True))
    assert checkpointed < plain / 3


def test_reads_the_configs_of_released_models():
    first = UNet2DConditionConfig.from_dict(UNET_1_5)
    second = UNet2DConditionConfig.from_dict(UNET_2_1)
    assert first.num_attention_heads == (8, 8, 8, 8) and not first.use_linear_projection
    assert second.num_attention_heads == (5, 10, 20, 20) and second.use_linear_projection


def test_reads_the_config_diffusers_writes():
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("torch")
    written = dict(diffusers.UNet2DConditionModel.from_config(SD2["unet"]).config)
    assert UNet2DConditionConfig.from_dict(written) == UNet2DConditionConfig.from_dict(SD2["unet"])


def test_the_number_of_heads_has_two_names():
    spelled = SD2["unet"] | {"attention_head_dim": 8, "num_attention_heads": [2, 4, 8]}
    assert UNet2DConditionConfig.from_dict(spelled) == UNet2DConditionConfig.from_dict(SD2["unet"])
    single = UNet2DConditionConfig.from_dict(
        SD1["unet"] | {"attention_head_dim": None, "num_attention_heads": 2}
    )
    assert single.num_attention_heads == (2, 2, 2)


def test_single_numbers_and_lists_mean_the_same():
    listed = SD1["unet"] | {
        "layers_per_block": [1, 1, 1],
        "cross_attention_dim": [32, 32, 32],
        "attention_head_dim": [4, 4, 4],
        "only_cross_attention": [False, False, False],
    }
    assert UNet2DConditionConfig.from_dict(listed) == UNet2DConditionConfig.from_dict(SD1["unet"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_embed_type": "timestep"}, ["class_embed_type", "'timestep'", "None"]),
        ({"addition_embed_type": "image"}, ["addition_embed_type", "'image'", "None or 'text_time'"]),
        ({"addition_embed_type": "text_time"}, ["the field addition_time_embed_dim", "none"]),
        ({"center_input_sample": True}, ["center_input_sample", "True", "False"]),
        ({"dual_cross_attention": True}, ["dual_cross_attention"]),
        ({"only_cross_attention": [False, True, False]}, ["only_cross_attention"]),
        ({"resnet_time_scale_shift": "scale_shift"}, ["resnet_time_scale_shift", "'default'"]),
        ({"conv_in_kernel": 5}, ["conv_in_kernel", "5", "3"]),
        ({"time_cond_proj_dim": 256}, ["time_cond_proj_dim", "256"]),
        ({"dropout": 0.1}, ["dropout", "0.1"]),
        ({"act_fn": "mish"}, ["act_fn", "mish", "silu"]),
        ({"down_block_types": ["AttnDownBlock2D"] * 3}, ["down_block_types", "CrossAttnDownBlock2D"]),
        ({"attention_head_dim": [2, 4]}, ["number of heads", "3 entries"]),
        ({"attention_head_dim": 5}, ["multiple of 5 heads", "16"]),
        ({"norm_num_groups": 7}, ["multiple of 7 groups", "16"]),
        ({"cross_attention_dim": [32, 48, 32]}, ["cross_attention_dim", "one width"]),
        ({"up_block_types": ["UpBlock2D"]}, ["up_block_types", "3 entries"]),
        ({"sparse_attention": 3}, ["unknown field sparse_attention", "3"]),
    ],
)
def test_refuses_what_it_cannot_do(changes, words):
    with pytest.raises(WeightsError) as caught:
        UNet2DConditionConfig.from_dict(SD1["unet"] | changes, "model/unet/config.json")
    for word in ["model/unet/config.json", *words]:
        assert word in str(caught.value)
