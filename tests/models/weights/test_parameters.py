"""Parameter trees against files of PyTorch and Flax: names, layouts, dtypes, accounts, and memory."""

import json
import pathlib
import subprocess
import sys
import textwrap

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from tiny_models import FAMILIES, SD1

from ti_flax.errors import WeightsError
from ti_flax.models.stable_diffusion import parameter_shapes, random_stable_diffusion
from ti_flax.models.weights import parameters as weights
from ti_flax.models.weights.model_source import COMPONENTS

STEMS = {"text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}


@pytest.fixture(scope="module")
def model():
    return random_stable_diffusion(SD1, seed=0)


def read(model, folder, component, dtype=np.float32, **options):
    shapes = parameter_shapes(getattr(model, component))
    return weights.read_params(folder, component, shapes, dtype=dtype, **options)


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def save(folder, component, tensors, name=None):
    (folder / component).mkdir(parents=True, exist_ok=True)
    tensors = {key: np.ascontiguousarray(values) for key, values in tensors.items()}
    safetensors.numpy.save_file(tensors, folder / component / (name or f"{STEMS[component]}.safetensors"))


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("write", [weights.write_flax_params, weights.write_torch_params])
def test_what_is_written_is_read(model, component, write, tmp_path):
    path = write(tmp_path, component, model.params[component])
    assert path.parent == tmp_path / component
    found = read(model, tmp_path, component)
    assert_same(found, model.params[component])
    assert all(leaf.flags.c_contiguous for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("component", COMPONENTS)
def test_pytorch_loads_what_is_written(family, component, tmp_path):
    torch = pytest.importorskip("torch")
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    classes = {"text_encoder": CLIPTextModel, "unet": UNet2DConditionModel, "vae": AutoencoderKL}
    model = random_stable_diffusion(FAMILIES[family], seed=0)
    weights.write_torch_params(tmp_path, component, model.params[component])
    (tmp_path / component / "config.json").write_text(json.dumps(model.configs[component]))
    loaded, account = classes[component].from_pretrained(tmp_path / component, output_loading_info=True)
    assert not any(account[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))

    state = weights.torch_state(model.params[component], component)
    prefix = "" if component != "text_encoder" or hasattr(loaded, "text_model") else "text_model."
    own = {prefix + name: tensor for name, tensor in loaded.state_dict().items()}
    own.pop("text_model.embeddings.position_ids", None)
    assert own.keys() == state.keys()
    for name, tensor in own.items():
        assert torch.equal(tensor, torch.from_numpy(np.ascontiguousarray(state[name])))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, None])
@pytest.mark.parametrize("write", [weights.write_flax_params, weights.write_torch_params])
def test_half_precision_files_are_converted(model, dtype, write, tmp_path):
    half = jax.tree.map(lambda leaf: leaf.astype(np.float16), model.params["vae"])
    write(tmp_path, "vae", half)
    found = read(model, tmp_path, "vae", dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(dtype or np.float16)}
    assert_same(found, jax.tree.map(lambda leaf: leaf.astype(dtype or np.float16), half))


def test_text_encoder_names_with_and_without_prefix(model, tmp_path):
    state = weights.torch_state(model.params["text_encoder"], "text_encoder")
    assert all(name.startswith("text_model.") for name in state)
    old = state | {"text_model.embeddings.position_ids": np.arange(77)[None]}
    save(tmp_path / "old", "text_encoder", old)
    new = {name.removeprefix("text_model."): values for name, values in state.items()}
    save(tmp_path / "new", "text_encoder", new)
    for folder in ("old", "new"):
        assert_same(read(model, tmp_path / folder, "text_encoder"), model.params["text_encoder"])


# What files of CLIP and of autoencoders hold beside the parameters, by how it is spelled there.
BESIDE = {
    "text_encoder": {
        "text_projection.weight": (32, 32),
        "text_model.text_projection": (32, 32),
        "text_projection": (32, 32),
        "logit_scale": (),
        "logit_bias": (),
        "position_ids": (1, 77),
        "embeddings.position_ids": (1, 77),
        "text_model.embeddings.position_ids": (1, 77),
        "attn_mask": (77, 77),
        "vision_model.embeddings.position_ids": (1, 50),
        "vision_model.encoder.layers.0.self_attn.q_proj.weight": (8, 8),
        "visual_projection.weight": (32, 8),
    },
    "vae": {"loss.logvar": (), "loss.discriminator.main.0.weight": (4, 3, 4, 4), "model_ema.decay": ()},
}


@pytest.mark.parametrize(("component", "name"), [(part, name) for part in BESIDE for name in BESIDE[part]])
def test_what_pytorch_ignores_is_ignored(model, component, name, tmp_path):
    state = weights.torch_state(model.params[component], component)
    save(tmp_path, component, state | {name: np.ones(BESIDE[component][name], np.float32)})
    assert_same(read(model, tmp_path, component), model.params[component])
    params = flax.traverse_util.flatten_dict(model.params[component])
    params[tuple(name.replace(".weight", ".kernel").split("."))] = np.ones(2, np.float32)
    weights.write_flax_params(tmp_path / "flax", component, flax.traverse_util.unflatten_dict(params))
    assert_same(read(model, tmp_path / "flax", component), model.params[component])


def test_transformers_takes_the_same_file(model, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import CLIPTextModel

    state = weights.torch_state(model.params["text_encoder"], "text_encoder")
    extras = {name: np.ones(shape, np.float32) for name, shape in BESIDE["text_encoder"].items()}
    save(tmp_path, "text_encoder", state | extras)
    (tmp_path / "text_encoder" / "config.json").write_text(json.dumps(SD1["text_encoder"]))
    theirs = CLIPTextModel.from_pretrained(tmp_path / "text_encoder")
    ids = np.arange(77)[None]
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids))[0].numpy()
    found = read(model, tmp_path, "text_encoder")
    ours = model.text_encoder.apply({"params": found}, jnp.asarray(ids), method="encode_ids")
    np.testing.assert_allclose(np.asarray(ours), expected, atol=1e-4)


@pytest.mark.parametrize("as_convolution", [False, True])
def test_old_names_and_shapes_of_the_autoencoders_attention(model, as_convolution, tmp_path):
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, values in weights.torch_state(model.params["vae"], "vae").items():
        if "attentions" in name and as_convolution and values.ndim == 2:
            values = values[:, :, None, None]
        for new, old in old_names.items():
            name = name.replace(f".{new}.", f".{old}.")
        state[name] = values
    assert any(".query.weight" in name for name in state)
    save(tmp_path, "vae", state)
    assert_same(read(model, tmp_path, "vae"), model.params["vae"])


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_and_variants(model, variant, tmp_path):
    state = weights.torch_state(model.params["unet"], "unet")
    stem = STEMS["unet"] + (f".{variant}" if variant else "")
    halves = [dict(list(state.items())[part::2]) for part in (0, 1)]
    names = [f"{stem}-0000{part}-of-00002.safetensors" for part in (1, 2)]
    for half, name in zip(halves, names, strict=True):
        save(tmp_path, "unet", half, name)
    assert_same(read(model, tmp_path, "unet", variant=variant), model.params["unet"])

    (tmp_path / "unet" / names[1]).unlink()
    with pytest.raises(WeightsError, match="expected all shards, found 1 of 2 files"):
        read(model, tmp_path, "unet", variant=variant)


def test_reads_the_shards_and_variants_pytorch_writes(tmp_path):
    pytest.importorskip("torch")
    from torch_models import torch_model

    reference = torch_model("unet", SD1["unet"])
    reference.save_pretrained(tmp_path / "unet", variant="fp16", max_shard_size="200KB")
    assert len(list((tmp_path / "unet").glob("*-of-*.safetensors"))) > 2
    model = random_stable_diffusion(SD1, seed=0)
    found = weights.torch_state(read(model, tmp_path, "unet", variant="fp16"), "unet")
    for name, tensor in reference.state_dict().items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


def test_another_variant_is_suggested(model, tmp_path):
    state = weights.torch_state(model.params["vae"], "vae")
    save(tmp_path, "vae", state, "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(WeightsError, match="The variants here are fp16: set variant to one of them.$"):
        read(model, tmp_path, "vae")
    with pytest.raises(
        WeightsError, match="expected diffusion_pytorch_model.bf16.safetensors, or .*"
    ) as caught:
        read(model, tmp_path, "vae", variant="bf16")
    assert str(caught.value).endswith(
        "The variants here are fp16: set variant to one of them, or rename its file to "
        "diffusion_pytorch_model.safetensors, which goes with any."
    )


@pytest.mark.parametrize("layout", ["torch", "flax"])
def test_plain_files_where_a_part_has_no_variant(model, layout, tmp_path):
    write = weights.write_torch_params if layout == "torch" else weights.write_flax_params
    write(tmp_path, "vae", model.params["vae"])
    assert_same(read(model, tmp_path, "vae", variant="fp16"), model.params["vae"])


def test_pickled_weights_are_not_read(model, tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"Pickled .bin files are not read.*safetensors.*save_pretrained"):
        read(model, tmp_path, "vae")


def test_no_weights_at_all(model, tmp_path):
    with pytest.raises(WeightsError, match="found no weights. The model folder is incomplete"):
        read(model, tmp_path, "unet")


def test_every_tensor_and_every_leaf_is_accounted_for(model, tmp_path):
    state = weights.torch_state(model.params["text_encoder"], "text_encoder")
    del state["text_model.final_layer_norm.bias"]
    state["text_model.final_layer_norm.weight"] = np.zeros(31, np.float32)
    state["adapter.weight"] = np.zeros((32, 32), np.float32)
    save(tmp_path, "text_encoder", state)
    with pytest.raises(WeightsError) as caught:
        read(model, tmp_path, "text_encoder")
    message = str(caught.value)
    assert "missing (1): text_model.final_layer_norm.bias;" in message
    assert "left over (1): text_model.adapter.weight;" in message
    assert "of another shape (1): text_model.final_layer_norm.weight [31] instead of [32]" in message


def test_flax_files_are_accounted_for(model, tmp_path):
    params = dict(model.params["vae"])
    params["extra"] = {"kernel": np.zeros((2, 2), np.float32)}
    params["quant_conv"] = {"kernel": np.zeros((1, 1, 8, 7), np.float32)}
    weights.write_flax_params(tmp_path, "vae", params)
    with pytest.raises(WeightsError) as caught:
        read(model, tmp_path, "vae")
    message = str(caught.value)
    assert "missing (1): quant_conv/bias;" in message and "left over (1): extra/kernel;" in message
    assert "quant_conv/kernel [1, 1, 8, 7] instead of [1, 1, 8, 8]" in message


def test_long_lists_are_cut(model, tmp_path):
    save(tmp_path, "unet", {"conv_in.weight": np.zeros((16, 4, 3, 3), np.float32)})
    with pytest.raises(WeightsError, match=r"missing \(323\): .* and 315 more"):
        read(model, tmp_path, "unet")


def test_configs_are_read_by_component(tmp_path):
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"beta_start": 0.1}')
    assert weights.read_config(tmp_path, "scheduler") == {"beta_start": 0.1}
    with pytest.raises(WeightsError, match="unet/config.json: expected a config file, found none"):
        weights.read_config(tmp_path, "unet")
    (tmp_path / "scheduler" / "scheduler_config.json").write_text("{beta")
    with pytest.raises(WeightsError, match="expected a JSON file"):
        weights.read_config(tmp_path, "scheduler")


PARTS = {part: ["library", "Class"] for part in COMPONENTS}


def test_models_of_the_right_kind_are_let_through(tmp_path):
    for name in ("StableDiffusionPipeline", "FlaxStableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"):
        index = PARTS | {"_class_name": name, "image_encoder": [None, None], "safety_checker": ["x", None]}
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        weights.check_kind(tmp_path)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (PARTS | {"_class_name": "StableDiffusionInpaintPipeline"}, "a StableDiffusionInpaintPipeline"),
        ({"_class_name": "FluxPipeline", "transformer": ["diffusers", "X"]}, "a FluxPipeline, a Flux model"),
        ({"_class_name": "SanaPipeline", "transformer": ["diffusers", "X"]}, "transformer"),
        ({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}, "a DDPMPipeline"),
    ],
)
def test_other_kinds_of_models_are_refused(index, words, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=f"expected a text-to-image .* found .*{words}"):
        weights.check_kind(tmp_path)


# Reads 200 MB in a process of its own and prints the growth of its peak over the size of what it read.
MEASURE = """
    import pathlib, re, sys
    import jax, numpy as np
    from ti_flax.models.weights import parameters as weights
    folder, write, stored, dtype = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
    SIDE, LAYERS, stacked = 2500, 8, sys.argv[5] == "stacked"
    def status(name):
        text = pathlib.Path("/proc/self/status").read_text()
        return int(re.search(name + r":\\s+(\\d+) kB", text)[1]) * 1024
    if write != "read":
        name = "transformer_blocks" if stacked else "resnets"
        tree = {f"{name}_{i}": {"kernel": np.full((SIDE, SIDE), i, stored)} for i in range(LAYERS)}
        getattr(weights, write)(folder, "unet", tree)
    else:
        shape = jax.ShapeDtypeStruct((SIDE, SIDE), np.float32)
        expected = {f"resnets_{i}": {"kernel": shape} for i in range(LAYERS)}
        if stacked:
            stack = jax.ShapeDtypeStruct((LAYERS, SIDE, SIDE), np.float32)
            expected = {"transformer_blocks_*": {"kernel": stack}}
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        params = weights.read_params(folder, "unet", expected, dtype=dtype)
        print((status("VmHWM") - before) / sum(leaf.nbytes for leaf in jax.tree.leaves(params)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("write", ["write_torch_params", "write_flax_params"])
@pytest.mark.parametrize(
    ("stored", "layers"), [("float32", "one"), ("float16", "one"), ("float16", "stacked")]
)
def test_loading_holds_little_more_than_the_parameters(write, stored, layers, tmp_path):
    def measure(what):
        command = [
            sys.executable,
            "-c",
            textwrap.dedent(MEASURE),
            str(tmp_path),
            what,
            stored,
            "float32",
            layers,
        ]
        root = pathlib.Path(weights.__file__).parents[3]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout

    measure(write)
    assert 0.95 < float(measure("read")) < 1.3
