"""The readers that tests and the fuzzer damage files for: valid files, and what each reader promises."""

from __future__ import annotations

import functools
import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from colour_profiles import DISPLAY_P3, rgb_profile
from PIL import Image

from ti_flax.config import RunConfig, parse_config
from ti_flax.data.images.load import load_images
from ti_flax.data.prompts import captions
from ti_flax.data.sources.find import find_images
from ti_flax.data.sources.metadata import read_rows
from ti_flax.data.sources.table_options import ALL_AS_FOUND
from ti_flax.embedding.formats import FORMS, Embedding, embedding_bytes
from ti_flax.embedding.png import hide_bytes, tree_bytes
from ti_flax.embedding.read import read_embeddings
from ti_flax.errors import TiFlaxError
from ti_flax.export.embedding_card import plain_card
from ti_flax.generation.prompt_file import PromptLine, read_prompt_file
from ti_flax.models.noise_schedule import NoiseSchedule
from ti_flax.models.text_encoder import CLIPTextConfig
from ti_flax.models.unet import UNet2DConditionConfig
from ti_flax.models.vae import AutoencoderKLConfig
from ti_flax.models.weights import tensor_files
from ti_flax.models.weights.model_folder import read_json
from ti_flax.models.weights.numpy_files import read_numpy
from ti_flax.models.weights.original_yaml import apply_description, predicted, read_description
from ti_flax.models.weights.torch_files import read_torch

ROWS = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)
_MOST_NUMBERS = 2**24


def unwrapped(content: bytes) -> bytes:
    return content


@dataclass(frozen=True)
class Sample:
    """A valid file; `wrap` puts what is damaged into its container, so that checksums hold."""

    content: bytes
    suffix: str
    wrap: Callable[[bytes], bytes] = unwrapped


@dataclass(frozen=True)
class Reader:
    """Valid files of a kind, and a function that reads one and checks what came of it."""

    samples: Callable[[], tuple[Sample, ...]]
    read: Callable[[Path], None]


def require(kept: bool, promise: str) -> None:
    if not kept:
        raise AssertionError(promise)


# -- tensors ------------------------------------------------------------------------------------------


def _tree() -> dict[str, Any]:
    return {
        "conv": {"kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "bias": np.ones(4, np.float16)},
        "norm": {"scale": np.array(2.5, ml_dtypes.bfloat16)},
    }


def _written(write: Callable[[Path], object], suffix: str) -> Sample:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        write(path)
        return Sample(path.read_bytes(), suffix)


@functools.cache
def _safetensors() -> tuple[Sample, ...]:
    flat = {f"{part}.{name}": values for part, leaves in _tree().items() for name, values in leaves.items()}
    return (_written(lambda path: tensor_files.write_safetensors(path, flat), ".safetensors"),)


@functools.cache
def _msgpack() -> tuple[Sample, ...]:
    return (_written(lambda path: tensor_files.write_msgpack(path, _tree()), ".msgpack"),)


def _check_tensors(tensors: dict[str, tensor_files.StoredTensor]) -> None:
    for name, tensor in tensors.items():
        require(isinstance(name, str), "names are text")
        if np.prod(tensor.shape, dtype=float) <= _MOST_NUMBERS:
            values = tensor.read()
            require(values.shape == tensor.shape and values.dtype == tensor.dtype, "shape and dtype")


def _read_stored(node: Any, left: list[int]) -> None:
    """Reads the tensors in a tree, as many as are not too many."""
    left[0] -= 1
    if left[0] < 0:
        return
    if isinstance(node, tensor_files.StoredTensor):
        _check_tensors({"x": node})
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        _read_stored(child, left)


def in_archive(pickled: bytes, root: str = "x") -> bytes:
    """The archive of torch.save around a pickle, with one storage."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(f"{root}/data.pkl", pickled)
        archive.writestr(f"{root}/byteorder", "little")
        for storage in range(2):
            archive.writestr(f"{root}/data/{storage}", ROWS.tobytes())
        archive.writestr(f"{root}/version", "3\n")
    return made.getvalue()


def _pickle_of(archive: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return opened.read(next(name for name in opened.namelist() if name.endswith("data.pkl")))


@functools.cache
def _embeddings() -> tuple[Sample, ...]:
    one = Embedding(
        "<cat>", "<cat>", {"text_encoder": ROWS}, details={"step": "500", "sd_checkpoint_name": "v1-5"}
    )
    two = Embedding("<cat>", "<cat>", {"text_encoder": ROWS, "text_encoder_2": ROWS}, sdxl=True)
    made = []
    for form, suffixes in FORMS.items():
        for suffix in suffixes:
            if suffix != ".png":
                made.append(Sample(embedding_bytes(one, form, suffix), suffix))
    made.append(Sample(embedding_bytes(two, "kohya", ".safetensors"), ".safetensors"))
    archives = [Sample(_pickle_of(each.content), ".pt", in_archive) for each in made if each.suffix == ".pt"]
    return (*made, *archives, *_numpy(), *_old_torch())


# The older format, which PyTorch writes no more by itself: {"<cat>": a tensor of storage 0}.
_OLD_PICKLE = (
    b"\x80\x02}X\x05\x00\x00\x00<cat>ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
    b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK@NtQK\x00K\x02K \x86K K\x01\x86"
    b"\x89ccollections\nOrderedDict\n)RtRs."
)


@functools.cache
def _old_torch() -> tuple[Sample, ...]:
    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    system = b"\x80\x02}X\r\x00\x00\x00little_endian\x88s."
    keys = b"\x80\x02]X\x01\x00\x00\x000a."
    content = magic + b"\x80\x02M\xe9\x03." + system + _OLD_PICKLE + keys
    return (Sample(content + ROWS.size.to_bytes(8, "little") + ROWS.tobytes(), ".bin"),)


def _check_torch(path: Path) -> None:
    _read_stored(read_torch(path), [1000])


@functools.cache
def _torch() -> tuple[Sample, ...]:
    return tuple(each for each in _embeddings() if each.suffix in (".pt", ".bin"))


@functools.cache
def _numpy() -> tuple[Sample, ...]:
    def saved(values: Any) -> Sample:
        made = io.BytesIO()
        np.save(made, values, allow_pickle=True)
        return Sample(made.getvalue(), ".npy")

    return saved(ROWS), saved(np.array({"<cat>": ROWS}, dtype=object))


def _check_numpy(path: Path) -> None:
    made = read_numpy(path)
    require(not isinstance(made, np.ndarray) or not made.dtype.hasobject, "no objects")


@functools.cache
def _halves() -> tuple[Sample, ...]:
    """Of diffusers' two files for SDXL, with widths that only the name tells apart."""
    suffixes = FORMS["diffusers"]
    half = Embedding("<cat>", "<cat>", {"text_encoder": ROWS})
    return tuple(Sample(embedding_bytes(half, "diffusers", suffix), suffix) for suffix in suffixes)


def _check_pair(path: Path) -> None:
    """Reads a file as each half beside a valid other one."""
    wrong: list[TiFlaxError] = []
    for places in (("learned_embeds", "learned_embeds_2"), ("learned_embeds_2", "learned_embeds")):
        with tempfile.TemporaryDirectory() as folder:
            mine, other = (Path(folder) / f"{name}{path.suffix}" for name in places)
            mine.write_bytes(path.read_bytes())
            valid = next(each for each in _halves() if each.suffix == path.suffix)
            other.write_bytes(valid.content)
            for given in (mine, other):
                try:
                    _check_embeddings(given)
                except TiFlaxError as error:
                    wrong.append(error)
    if wrong:
        raise wrong[0]


def _check_embeddings(path: Path) -> None:
    found = read_embeddings(path)
    require(bool(found), "at least one")
    for each in found:
        require(bool(each.rows) and {*each.rows} <= {"text_encoder", "text_encoder_2"}, "text encoders")
        for rows in each.rows.values():
            require(rows.ndim == 2 and rows.dtype == np.float32 and rows.size > 0, "rows")
            require(bool(np.isfinite(rows).all()), "finite rows")
            require(len(rows) == each.vectors, "as many of each text encoder")
        require(each.token is None or isinstance(each.token, str), "a token is text")
        require(all(isinstance(value, str) for value in each.details.values()), "details are text")


def _text_in_image(tree: bytes) -> bytes:
    import base64

    from PIL import PngImagePlugin

    text, made = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_text("sd-ti-embedding", base64.b64encode(tree).decode())
    Image.new("RGB", (8, 8), "red").save(made, "PNG", pnginfo=text)
    return made.getvalue()


def _bytes_in_image(tree: bytes) -> bytes:
    made = io.BytesIO()
    Image.fromarray(hide_bytes(np.full((32, 16, 3), 80, np.uint8), tree)).save(made, "PNG")
    return made.getvalue()


@functools.cache
def _embedding_images() -> tuple[Sample, ...]:
    tree = tree_bytes({"string_to_param": {"*": ROWS}, "name": "cat", "step": 5})
    whole = embedding_bytes(
        Embedding("<cat>", "cat", {"text_encoder": ROWS}), "automatic1111", ".png", image=plain_card("", "")
    )
    return (
        Sample(tree, ".png", _text_in_image),
        Sample(tree, ".png", _bytes_in_image),
        Sample(whole, ".png"),
    )


# -- text ---------------------------------------------------------------------------------------------

_CONFIG = b"""# a run
pretrained_model_name_or_path: model
train_data_dir: [images, "more images"]
placeholder_token: "<cat>"
initializer_token: toy
learning_rate: 5e-4
num_vectors: 2
seed: 3
max_train_steps: 10
lr_scheduler: cosine
lr_warmup_steps: 0
mixed_precision: no
"""


def _check_config(path: Path) -> None:
    require(isinstance(parse_config(["--config", str(path)]), RunConfig), "a configuration")


_CONFIGS = {
    "text_encoder": {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "unet": {
        "block_out_channels": [32, 64],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
        "attention_head_dim": [2, 4],
        "cross_attention_dim": 32,
        "norm_num_groups": 8,
        "norm_eps": 1e-5,
    },
    "vae": {"block_out_channels": [32, 64], "down_block_types": ["DownEncoderBlock2D"] * 2}
    | {"up_block_types": ["UpDecoderBlock2D"] * 2, "scaling_factor": 0.18, "latent_channels": 4},
    "scheduler": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    | {"num_train_timesteps": 1000, "prediction_type": "epsilon", "trained_betas": None},
}


def _check_model_config(path: Path) -> None:
    part, content = path.stem.rpartition("-")[2], read_json(path)
    if part == "scheduler":
        schedule = NoiseSchedule.from_config(content, str(path))
        require(bool(np.isfinite(schedule.alphas_cumprod).all()), "a finite schedule")
    else:
        kinds = {"text_encoder": CLIPTextConfig, "unet": UNet2DConditionConfig, "vae": AutoencoderKLConfig}
        kinds[part].from_dict(content, str(path))


_MODEL_YAML = b"""model:
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    timesteps: 1000
    parameterization: "v"
    scale_factor: 0.18215
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        num_head_channels: 64
        num_heads: 8
"""
_SDXL_YAML = b"""model:
  params:
    scale_factor: 0.13025
    denoiser_config:
      params:
        scaling_config:
          target: sgm.modules.diffusionmodules.denoiser_scaling.EpsScaling
    network_config:
      params:
        num_head_channels: 64
"""


def _check_model_yaml(path: Path) -> None:
    configs = {
        "scheduler": {"beta_start": 0.1, "beta_end": 0.2, "num_train_timesteps": 10},
        "unet": {"block_out_channels": [64, 128]},
        "vae": {},
    }
    written = read_description(path)
    require(predicted(written, path) in (None, "epsilon", "v_prediction"), "a known prediction")
    apply_description(configs, written, path)


_PROMPTS = (
    b"a photo of a <cat> --n dogs --w 512 --h 768 --d 1 --s 20 --l 7.5\n# no\n\na <cat>, red --ss ddim\n"
)


def _check_prompts(path: Path) -> None:
    lines = read_prompt_file(path)
    require(bool(lines) and all(isinstance(line, PromptLine) and line.prompt for line in lines), "prompts")


_CAPTIONS = (
    (b'{"1.png": "a cat", "2.png": {"caption": "a dog"}}', ".json"),
    (b'{"file_name": "1.png", "text": "a cat"}\n{"file_name": "2.png", "text": "a dog"}\n', ".jsonl"),
    (b'file_name,text\n1.png,"a cat, red"\n2.png,a dog\n', ".csv"),
    ('\ufefffile_name;text\r\n.\\1.png;"a cat; red"\r\nC:\\x\\2.PNG;a dog\r\n'.encode(), ".csv"),
    (b"1.png|a cat\n2.png|a dog\n", ".txt"),
)


def _check_captions(path: Path) -> None:
    images = [captions.CaptionedImage(name, f"/x/{name}") for name in ("1.png", "2.png")]
    found = captions.captions_in_file(images, str(path))
    require(len(found) == 2 and all(isinstance(each, str) for each in found), "a caption each")
    for each in found:
        each.encode()


def _check_table(path: Path) -> None:
    for row in read_rows(path, ALL_AS_FOUND)[0]:
        require(isinstance(row.file_name, str), "names")
        (row.caption or "").encode()


def _check_list(path: Path) -> None:
    for image in find_images(str(path), ALL_AS_FOUND).images:
        require(isinstance(image.name, str), "names")


@functools.cache
def _images() -> tuple[Sample, ...]:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 4)).astype(np.uint8)
    rgba, made = Image.fromarray(pixels), []
    for kind, suffix in (
        *(("PNG", ".png"), ("JPEG", ".jpg"), ("GIF", ".gif"), ("BMP", ".bmp"), ("TIFF", ".tif")),
        *(("WEBP", ".webp"), ("TGA", ".tga"), ("ICO", ".ico"), ("PPM", ".ppm"), ("PCX", ".pcx")),
    ):
        image, saved = (
            rgba if kind in ("PNG", "TIFF", "WEBP", "TGA", "ICO") else rgba.convert("RGB"),
            io.BytesIO(),
        )
        image.save(saved, kind)
        made.append(Sample(saved.getvalue(), suffix))
    for kind, suffix in (("PNG", ".png"), ("TIFF", ".tif"), ("JPEG", ".jpg")):
        saved = io.BytesIO()
        rgba.convert("RGB").save(saved, kind, icc_profile=rgb_profile(DISPLAY_P3))
        made.append(Sample(saved.getvalue(), suffix))
    return tuple(made)


def _check_image(path: Path) -> None:
    found = load_images(str(path), resolution=16)
    require(found.pixels.shape == (1, 16, 16, 3) and found.pixels.dtype == np.uint8, "a square")


def _always(*samples: tuple[bytes, str]) -> Callable[[], tuple[Sample, ...]]:
    made = tuple(Sample(content, suffix) for content, suffix in samples)
    return lambda: made


READERS = {
    "safetensors": Reader(_safetensors, lambda path: _check_tensors(tensor_files.index_safetensors(path))),
    "msgpack": Reader(_msgpack, lambda path: _check_tensors(tensor_files.index_msgpack(path))),
    "torch": Reader(_torch, _check_torch),
    "numpy": Reader(_numpy, _check_numpy),
    "embedding": Reader(_embeddings, _check_embeddings),
    "embedding_pair": Reader(_halves, _check_pair),
    "embedding_picture": Reader(_embedding_images, _check_embeddings),
    "config": Reader(_always((_CONFIG, ".yaml")), _check_config),
    "model_config": Reader(
        _always(*((json.dumps(each).encode(), f"-{part}.json") for part, each in _CONFIGS.items())),
        _check_model_config,
    ),
    "model_yaml": Reader(_always((_MODEL_YAML, ".yaml"), (_SDXL_YAML, ".yaml")), _check_model_yaml),
    "prompt_file": Reader(_always((_PROMPTS, ".txt")), _check_prompts),
    "caption_file": Reader(_always(*_CAPTIONS), _check_captions),
    "metadata": Reader(_always(*_CAPTIONS[1:4]), _check_table),
    "picture_list": Reader(_always((f"# no\n{__file__}\n{__file__}\n".encode(), ".txt")), _check_list),
    "picture": Reader(_images, _check_image),
}
