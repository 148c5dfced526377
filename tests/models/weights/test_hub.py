"""Finding a model: folders, repositories with only the needed files, and a Hub that does not answer."""

import json
import types

import huggingface_hub
import pytest
from huggingface_hub import errors

from ti_flax.errors import WeightsError
from ti_flax.models.weights.hub import needed_files, needed_vae_files, resolve_vae
from ti_flax.models.weights.parameters import resolve_model

COMPONENTS = ("tokenizer", "scheduler", "text_encoder", "unet", "vae")
# What stable-diffusion-v1-5/stable-diffusion-v1-5 holds, shortened.
REPOSITORY = [
    "README.md",
    "model_index.json",
    "v1-5-pruned.ckpt",
    "v1-5-pruned.safetensors",
    "feature_extractor/preprocessor_config.json",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "safety_checker/pytorch_model.bin",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder/pytorch_model.bin",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
]


def test_one_format_of_weights_is_chosen():
    chosen = needed_files(REPOSITORY, variant=None, components=COMPONENTS, where="model")
    weights = [name for name in chosen if not name.endswith((".json", ".txt"))]
    assert weights == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert {name for name in chosen if name not in weights} == {
        name
        for name in REPOSITORY
        if name.endswith((".json", ".txt")) and not name.startswith(("safety", "feature"))
    }


def test_variants_and_further_components():
    parts = ("unet", "safety_checker", "feature_extractor")
    assert needed_files(REPOSITORY, variant="fp16", components=("unet",), where="model") == [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
    ]
    chosen = needed_files(REPOSITORY, variant=None, components=parts, where="model")
    assert {"safety_checker/model.safetensors", "feature_extractor/preprocessor_config.json"} <= set(chosen)


@pytest.mark.parametrize("has", ["unet", "vae", "text_encoder", "safety_checker"])
def test_a_variant_that_one_part_has_is_taken_there_and_plain_files_elsewhere(has):
    names = [name for name in REPOSITORY if ".fp16." not in name]
    stem = f"{has}/diffusion_pytorch_model" if has in ("unet", "vae") else f"{has}/model"
    names[names.index(f"{stem}.safetensors")] = f"{stem}.fp16.safetensors"
    parts = (*COMPONENTS, "safety_checker")
    chosen = needed_files(names, variant="fp16", components=parts, where="model a/b")
    assert {name for name in chosen if name.endswith(".safetensors")} == {
        name for name in names if "/" in name and name.endswith(".safetensors") and ".non_ema." not in name
    }


def test_a_variant_that_no_part_has_is_refused_before_a_download():
    known = "model a/b: expected the variant bf16 .* found only fp16, non_ema. Set variant to fp16."
    with pytest.raises(WeightsError, match=known):
        needed_files(REPOSITORY, variant="bf16", components=("tokenizer",), where="model a/b")
    names = [name for name in REPOSITORY if not name.endswith(("fp16.safetensors", "ema.safetensors"))]
    with pytest.raises(WeightsError, match="found files without a variant. Leave variant out."):
        needed_files(names, variant="fp16", components=("tokenizer",), where="model a/b")


def test_config_files_alone():
    chosen = needed_files(REPOSITORY, variant=None, components=("unet",), where="model", weights=False)
    assert chosen == ["model_index.json", "unet/config.json"]


def test_flax_weights_where_there_are_no_others():
    names = ["model_index.json", "unet/config.json", "unet/diffusion_flax_model.msgpack"]
    assert needed_files(names, variant=None, components=("unet",), where="model") == names
    shards = [f"unet/diffusion_pytorch_model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    names += [*shards, "unet/diffusion_pytorch_model.safetensors.index.json"]
    chosen = needed_files(names, variant=None, components=("unet",), where="model")
    assert chosen == ["model_index.json", "unet/config.json", *shards]


# What stabilityai/stable-diffusion-xl-base-1.0 holds, shortened.
XL_REPOSITORY = [
    "README.md",
    "model_index.json",
    "sd_xl_base_1.0.safetensors",
    "scheduler/scheduler_config.json",
    *(
        f"{part}/{name}"
        for part in ("text_encoder", "text_encoder_2")
        for name in (
            "config.json",
            "flax_model.msgpack",
            "model.fp16.safetensors",
            "model.onnx",
            "model.safetensors",
            "openvino_model.xml",
        )
    ),
    *(
        f"{part}/{name}"
        for part in ("tokenizer", "tokenizer_2")
        for name in ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")
    ),
    *(
        f"{part}/{name}"
        for part in ("unet", "vae", "vae_1_0")
        for name in (
            "config.json",
            "diffusion_pytorch_model.fp16.safetensors",
            "diffusion_pytorch_model.safetensors",
        )
    ),
    "vae_decoder/model.onnx",
]


@pytest.mark.parametrize(
    ("components", "second"),
    [
        (("tokenizer",), ("tokenizer_2",)),
        (("text_encoder",), ("text_encoder_2",)),
        (("unet", "vae"), ()),
        (COMPONENTS, ("tokenizer_2", "text_encoder_2")),
    ],
)
@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("weights", [True, False])
def test_of_an_sdxl_repository_the_second_parts_come_with_the_first(components, second, variant, weights):
    chosen = needed_files(XL_REPOSITORY, variant=variant, components=components, where="m", weights=weights)
    kind = ".fp16.safetensors" if variant else ".safetensors"
    expected = {
        name
        for name in XL_REPOSITORY
        if name.partition("/")[0] in (*components, *second)
        if name.endswith((".json", ".txt"))
        or (weights and name.endswith(kind) and (variant is not None or ".fp16." not in name))
    }
    assert len(chosen) == len(set(chosen)) and set(chosen) == {"model_index.json", *expected}


@pytest.mark.parametrize("missing", ["tokenizer_2", "text_encoder_2"])
def test_a_second_part_that_is_missing_is_said_before_a_download(missing):
    names = [name for name in XL_REPOSITORY if not name.startswith(f"{missing}/")]
    with pytest.raises(
        WeightsError, match=f"expected the folder {missing}/ of a diffusers model, found none"
    ):
        needed_files(names, variant=None, components=COMPONENTS, where="model a/b")


def test_a_variant_of_one_part_of_an_sdxl_repository():
    names = [name for name in XL_REPOSITORY if ".fp16." not in name or name.startswith("text_encoder_2/")]
    names.remove("text_encoder_2/model.safetensors")
    names.remove("text_encoder_2/flax_model.msgpack")
    chosen = needed_files(names, variant="fp16", components=COMPONENTS, where="model a/b")
    assert (
        "text_encoder_2/model.fp16.safetensors" in chosen
        and "unet/diffusion_pytorch_model.safetensors" in chosen
    )


def test_other_kinds_are_refused_before_a_download():
    with pytest.raises(
        WeightsError, match=r"the SDXL refiner \(it has text_encoder_2 alone\). .* base model"
    ):
        needed_files(["text_encoder_2/config.json"], variant=None, components=COMPONENTS, where="model a/b")
    with pytest.raises(WeightsError, match=r"a diffusion transformer.* \(it has transformer\)"):
        needed_files(["transformer/config.json"], variant=None, components=COMPONENTS, where="model a/b")
    with pytest.raises(WeightsError, match=r"model a/b: expected the folder tokenizer/ .* found none"):
        needed_files(["unet/config.json"], variant=None, components=COMPONENTS, where="model a/b")


def test_a_folder_is_used_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text("{}")
    assert resolve_model(str(tmp_path / "model")) == tmp_path / "model"
    monkeypatch.chdir(tmp_path)
    assert resolve_model("model").resolve() == tmp_path / "model"
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="expected a diffusers model folder with model_index.json"):
        resolve_model("empty")


@pytest.mark.parametrize(
    "name", ["./model", "/no/such/folder", "models/sd/1-5", "model", "~/model", "../a", ""]
)
def test_a_path_that_is_not_there_is_no_repository(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(
        WeightsError, match="a diffusers model folder|a model folder, a file, or a Hub repository"
    ):
        resolve_model(name)


def test_a_single_file_is_used_as_it_is(tmp_path):
    file = tmp_path / "v1-5.safetensors"
    with pytest.raises(WeightsError, match=r"v1-5.safetensors: expected .* found no such file"):
        resolve_model(str(file))
    file.write_bytes(b"")
    assert resolve_model(str(file)) == file


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (REPOSITORY, ["vae/config.json", "vae/diffusion_pytorch_model.fp16.safetensors"]),
        (
            [
                "README.md",
                "config.json",
                "diffusion_pytorch_model.bin",
                "diffusion_pytorch_model.safetensors",
            ],
            ["config.json", "diffusion_pytorch_model.safetensors"],
        ),
    ],
)
def test_another_vae_is_a_repository_or_a_part_of_one(names, chosen):
    assert needed_vae_files(names, variant="fp16", where="model a/b") == chosen
    with pytest.raises(
        WeightsError, match="model a/b: expected a VAE's config.json, or one in vae/, found none"
    ):
        needed_vae_files(["unet/config.json"], variant=None, where="model a/b")


def test_another_vae_in_a_folder(tmp_path):
    for folder in (tmp_path / "alone", tmp_path / "model" / "vae"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    for name in ("alone", "model"):
        assert resolve_vae(str(tmp_path / name)) == tmp_path / name
    (tmp_path / "other").mkdir()
    with pytest.raises(
        WeightsError, match="pretrained_vae_model_name_or_path .*other: expected a folder with"
    ):
        resolve_vae(str(tmp_path / "other"))
    with pytest.raises(WeightsError, match="VAE .*nothing: expected a VAE folder, a file, or a Hub"):
        resolve_vae(str(tmp_path / "nothing"))


def test_the_needed_files_are_downloaded(tmp_path, monkeypatch):
    asked = {}

    def model_info(self, repository, revision):
        asked["listed"] = (repository, revision)
        return types.SimpleNamespace(siblings=[types.SimpleNamespace(rfilename=name) for name in REPOSITORY])

    def snapshot_download(repository, *, revision, allow_patterns):
        asked["downloaded"] = (repository, revision, allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    found = resolve_model("owner/name", revision="main", variant="fp16", components=("unet",))
    assert found == tmp_path
    assert asked["listed"] == ("owner/name", "main")
    expected = ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors"]
    assert asked["downloaded"] == ("owner/name", "main", expected)


def refuse_connection(monkeypatch, error):
    def model_info(*arguments, **options):
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Name or service not known"),
        TimeoutError("timed out"),
        errors.HTTPError("[Errno -2] Name or service not known"),
        errors.OfflineModeIsEnabled("offline mode is enabled"),
        errors.LocalEntryNotFoundError("cannot find the files"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_hub_that_cannot_be_reached_names_the_demo(error, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    refuse_connection(monkeypatch, error)
    with pytest.raises(WeightsError) as caught:
        resolve_model("owner/name")
    message = str(caught.value)
    assert message.startswith("model owner/name: expected the Hugging Face Hub or a downloaded copy")
    assert "python train_flax.py --config configs/demo.yaml needs no download" in message
    assert "\n" not in message


def test_the_real_client_is_understood_when_offline():
    """No stand-ins: what the installed huggingface_hub raises without a network or in offline mode."""
    with pytest.raises(WeightsError, match=r"no connection .* and no copy.*configs/demo.yaml"):
        resolve_model("ti-flax-tests/no-such-model")


def test_a_copy_downloaded_before_is_used(tmp_path, monkeypatch):
    refuse_connection(monkeypatch, ConnectionError("no route"))
    for name in REPOSITORY:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({}))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **options: str(tmp_path))
    assert resolve_model("owner/name") == tmp_path
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(WeightsError, match="no connection .* and no copy"):
        resolve_model("owner/name")
    assert resolve_model("owner/name", weights=False) == tmp_path


def answer(kind, status):
    """Build an error of the Hub's answer without a network; its constructor asks for a response."""
    error = kind.__new__(kind)
    Exception.__init__(error, f"{status} Client Error. (Request ID: 1)\n\nmore lines")
    return error


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [
        (
            errors.GatedRepoError,
            403,
            "a gated repository. Accept its terms on https://huggingface.co/owner/name",
        ),
        (errors.RepositoryNotFoundError, 401, "a repository on the Hub, found none. Check the spelling"),
        (errors.RevisionNotFoundError, 404, "expected the revision v9, found none"),
        (errors.HfHubHTTPError, 503, "found 503 Client Error"),
    ],
)
def test_a_refusal_is_told_in_one_line(kind, status, words, monkeypatch):
    refuse_connection(monkeypatch, answer(kind, status))
    with pytest.raises(WeightsError) as caught:
        resolve_model("owner/name", revision="v9")
    assert words in str(caught.value)
    assert "more lines" not in str(caught.value)


def test_a_safety_checker_in_pickled_files_only_is_no_reason_to_stop():
    names = [name for name in REPOSITORY if name != "safety_checker/model.safetensors"]
    chosen = needed_files(names, variant=None, components=("unet", "safety_checker"), where="model a/b")
    assert "safety_checker/config.json" in chosen
    assert not any(name.startswith("safety_checker/") and name.endswith(".bin") for name in chosen)
