"""What a run with SDXL leaves, through the loaders of those who use it: StableDiffusionXLPipeline."""

import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sdxl_place import Told, learned_rows, write_place
from sdxl_rows import sdxl_rows
from tiny_folder import write_folder
from tiny_run import configure

from ti_flax.commands import convert_pipeline
from ti_flax.embedding.usage import pipeline_code
from ti_flax.export.pipeline import save_pipeline
from ti_flax.generation import generator as generator_module
from ti_flax.generation.generator import ImageGenerator, starting_noise
from ti_flax.models.base_model import base_tokenizers
from ti_flax.models.tokenizer import add_word
from ti_flax.models.weights.model_source import ModelSource
from ti_flax.run import train as run

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "a photo of a <thing> on a beach"
SIZE, STEPS = (32, 32), 4
# Of diffusers' schedulers and of its pipeline.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_place(tmp_path_factory.mktemp("place"), least=False)


@pytest.fixture(scope="module")
def finished(place):
    """The folders of whole runs by the number of vectors; one with four holds the whole pipeline."""
    folders = {}
    for vectors in (1, 4):
        changes = {"num_vectors": vectors, "only_save_embeds": vectors == 1, "max_train_steps": 2}
        config = configure(place, place / f"out-{vectors}", **changes, learning_rate=0.05)
        folders[vectors] = run.train(config)
    return folders


def relative(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def code_of(place, *, end_of_text=True):
    """The lines that the card and the page show, but for the drawing; without the line on the end of text."""
    lines = pipeline_code(str(place / "model"), PROMPT, sdxl=True).splitlines()
    assert [line.partition("(")[0] for line in lines[-1:]] == ["pipe"]
    assert sum("eos_token_id" in line for line in lines) == 1
    return "\n".join(line for line in lines[:-1] if end_of_text or "eos_token_id" not in line)


def loaded(folder, code):
    """The pipeline that some lines make in a folder."""
    pytest.importorskip("torch")
    names = {}
    with contextlib.chdir(folder):
        exec(code, names)
    names["pipe"].set_progress_bar_config(disable=True)
    return names["pipe"]


def encoded_by(pipeline, prompt=PROMPT):
    import torch

    with torch.no_grad():
        hidden_states, _, pooled, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
    return hidden_states.numpy(), pooled.numpy()


def drawn_by(pipeline, latents, prompt=PROMPT):
    """An image in levels, `[height, width, 3]` float32."""
    import torch

    given = {"latents": torch.tensor(latents), "num_inference_steps": STEPS, "guidance_scale": 7.5}
    images = pipeline(prompt, height=SIZE[0], width=SIZE[1], output_type="np", **given).images
    return images[0] * 255


def drawn_by_us(told, *, sampler="euler", steps=STEPS, prompt=PROMPT, guidance_scale=7.5):
    """The same image by our sampler, `[height, width, 3]` float32."""
    generator = ImageGenerator(
        told.model, first_added_id=told.first_added_id, steps=steps, sampler=sampler, special=told.special
    )
    images = generator.generate(
        told.model.params,
        told.rows,
        prompt_ids=told.ids(prompt),
        negative_ids=told.ids(""),
        seeds=[5],
        size=SIZE,
        guidance_scale=guidance_scale,
    )
    return images[0].astype(np.float32)


def latents_of(told):
    """What `drawn_by_us` starts from, `[1, channels, height, width]`."""
    return np.asarray(starting_noise(told.model, [5], SIZE)).transpose(0, 3, 1, 2).copy()


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("vectors", [1, 4])
def test_the_shown_lines_give_our_hidden_states_and_pooled_output(place, finished, vectors, suffix):
    told = Told(place / "model", finished[vectors] / "learned_embeds.safetensors")
    assert {len(rows) for rows in told.rows.values()} == {vectors}
    ours = told.encoded(PROMPT)
    code = code_of(place)
    assert code.count(".safetensors") == 2
    pipeline = loaded(finished[vectors], code.replace(".safetensors", suffix))
    hidden_states, pooled = encoded_by(pipeline)
    np.testing.assert_allclose(hidden_states, ours.hidden_states, atol=1e-5)
    np.testing.assert_allclose(pooled, ours.pooled, atol=1e-5)
    # Of other rows they would not: what was learned is in there.
    start = Told(place / "model", finished[vectors] / "learned_embeds.safetensors")
    start.rows = {name: rows * 0 for name, rows in start.rows.items()}
    assert relative(start.encoded(PROMPT).hidden_states, ours.hidden_states) > 0.01


@pytest.mark.parametrize("vectors", [1, 4])
def test_without_the_line_on_the_end_of_text_pytorch_draws_something_else(place, finished, vectors):
    told = Told(place / "model", finished[vectors] / "learned_embeds.safetensors")
    ours, latents = told.encoded(PROMPT), latents_of(told)
    by_the_lines, without = (
        loaded(finished[vectors], code_of(place, end_of_text=end_of_text)) for end_of_text in (True, False)
    )
    hidden_states, pooled = encoded_by(without)
    np.testing.assert_allclose(hidden_states, ours.hidden_states, atol=1e-5)
    apart = relative(pooled, ours.pooled)
    image, other = drawn_by(by_the_lines, latents), drawn_by(without, latents)
    levels = np.abs(image - other)
    print(
        f"\n{vectors} vectors, without the line: pooled {apart:.2f} apart, image {relative(other, image):.3f}"
        f" apart, by {levels.mean():.1f} levels and at most {levels.max():.0f}"
    )
    assert apart > 0.1 and levels.max() > 2
    assert np.abs(drawn_by_us(told) - image).max() <= 1


def test_the_code_of_the_card_draws_our_image(place, finished, tmp_path, monkeypatch):
    """Run as it stands, beside the files of the run and a copy of the model."""
    torch = pytest.importorskip("torch")
    card = (finished[4] / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0]
    assert code.count("load_textual_inversion") == 2
    for name in ("learned_embeds.safetensors", "learned_embeds_2.safetensors"):
        shutil.copy(finished[4] / name, tmp_path)
    (tmp_path / "model").symlink_to(place / "model")
    monkeypatch.chdir(tmp_path)
    names = {}
    before, _, call = code.rpartition("pipe(")
    exec(before, names)
    torch.manual_seed(0)
    exec(f"pipe({call}", names)
    shown = np.asarray(Image.open(tmp_path / "picture.png")).astype(np.float32)
    assert shown.shape == (*SIZE, 3) and np.ptp(shown) > 50

    # The pipeline draws its latents from that seed, and guides less than we do by default.
    prompt = json.loads(call.partition(")")[0])
    assert "<thing>" in prompt
    torch.manual_seed(0)
    latents = torch.randn((1, 4, 8, 8)).numpy().transpose(0, 2, 3, 1)
    monkeypatch.setattr(generator_module, "starting_noise", lambda *_: latents)
    told = Told(place / "model", finished[4] / "learned_embeds.safetensors")
    image = drawn_by_us(told, prompt=prompt, steps=50, guidance_scale=5.0)
    assert np.abs(image - shown).max() <= 1


def test_the_converted_pipeline_of_a_run_draws_our_image(finished, tmp_path):
    torch = pytest.importorskip("torch")
    from diffusers import StableDiffusionXLPipeline

    assert convert_pipeline.main([str(finished[4]), str(tmp_path / "torch")]) == 0
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "torch", add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    told = Told(finished[4])
    end = told.tokenizer.eos_token_id
    assert pipeline.text_encoder_2.config.eos_token_id == told.special.end_of_text == end != 2
    table = pipeline.text_encoder_2.get_input_embeddings().weight.detach().numpy()
    rows = learned_rows(finished[4])["text_encoder_2"]
    np.testing.assert_array_equal(table[-4:], rows)
    hidden_states, pooled = encoded_by(pipeline)
    ours = told.encoded(PROMPT)
    np.testing.assert_allclose(hidden_states, ours.hidden_states, atol=1e-5)
    np.testing.assert_allclose(pooled, ours.pooled, atol=1e-5)
    image = drawn_by_us(told)
    difference = np.abs(drawn_by(pipeline, latents_of(told)) - image).max()
    print(f"\nimage spans {np.ptp(image):.0f} levels, largest difference {difference:.3f}")
    assert np.ptp(image) > 50 and difference <= 1
    assert all(parameter.dtype == torch.float32 for parameter in pipeline.unet.parameters())


def exported(base, out, layout):
    """The base with a word of two vectors as a pipeline, and its token ids and rows."""
    tokenizers = base_tokenizers(ModelSource(base))
    concept = add_word(tokenizers.tokenizer, placeholder_token="<thing>", num_vectors=2)
    rows = {name: 0.1 * each for name, each in sdxl_rows(2, (24, 40)).items()}
    first = concept.token_ids[0]
    save_pipeline(base, out, tokenizers=tokenizers, rows=rows, first_added_id=first, layout=layout)
    return first, rows


def changed_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("layout", ["flax", "torch"])
def test_settings_of_the_base_and_both_text_encoders_are_in_the_pipeline(tmp_path, layout):
    base, out = write_folder(tmp_path / "base", "sdxl", least=False), tmp_path / "out"
    changed_json(base / "model_index.json", force_zeros_for_empty_prompt=False)
    changed_json(base / "scheduler" / "scheduler_config.json", timestep_spacing="trailing", steps_offset=0)
    exported(base, out, layout)
    index = json.loads((out / "model_index.json").read_text())
    flax = "Flax" if layout == "flax" else ""
    assert index["_class_name"] == f"{flax}StableDiffusionXLPipeline"
    assert index["force_zeros_for_empty_prompt"] is False
    assert index["text_encoder"] == ["transformers", f"{flax}CLIPTextModel"]
    assert index["text_encoder_2"] == ["transformers", f"{flax}CLIPTextModelWithProjection"]
    assert index["tokenizer"] == index["tokenizer_2"] == ["transformers", "CLIPTokenizer"]
    written, read = (
        json.loads((each / "scheduler" / "scheduler_config.json").read_text()) for each in (out, base)
    )
    assert written == read | {"_class_name": f"{flax}EulerDiscreteScheduler"}
    for part in ("tokenizer", "tokenizer_2"):
        words = json.loads((out / part / "added_tokens.json").read_text())
        assert {"<thing>", "<thing>_1"} <= {*words}


def test_pytorch_takes_the_settings_and_pads_as_the_base_does(tmp_path):
    pytest.importorskip("torch")
    from diffusers import StableDiffusionXLPipeline

    base, out = write_folder(tmp_path / "base", "sdxl", least=False), tmp_path / "out"
    changed_json(base / "model_index.json", force_zeros_for_empty_prompt=False)
    changed_json(base / "scheduler" / "scheduler_config.json", timestep_spacing="trailing", steps_offset=0)
    first, rows = exported(base, out, "torch")
    pipeline = StableDiffusionXLPipeline.from_pretrained(out, add_watermarker=False)
    assert pipeline.config.force_zeros_for_empty_prompt is False
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
    pads = {tokenizer.pad_token for tokenizer in (pipeline.tokenizer, pipeline.tokenizer_2)}
    assert pipeline.tokenizer_2.pad_token == "!" and len(pads) == 2
    for name in ("text_encoder", "text_encoder_2"):
        table = getattr(pipeline, name).get_input_embeddings().weight.detach().numpy()
        assert len(table) == first + 2
        np.testing.assert_array_equal(table[first:], rows[name])


@pytest.mark.skipif(
    "TI_FLAX_DIFFUSERS_039" not in os.environ,
    reason="TI_FLAX_DIFFUSERS_039 names a python with diffusers 0.39 and transformers 4.57.6",
)
def test_the_last_flax_pipeline_of_diffusers_draws_the_same_image(tmp_path):
    base = write_folder(tmp_path / "base", "sdxl", wide=True, least=False)
    out = tmp_path / "out"
    exported(base, out, "flax")
    told = Told(out)
    image = drawn_by_us(told, sampler="ddim", steps=20)
    second = np.where(
        np.cumsum(np.cumsum(told.ids(PROMPT) == told.special.end_of_text, axis=1), axis=1) > 1,
        told.special.second_pad,
        told.ids(PROMPT),
    )
    prompt_ids = np.stack([told.ids(PROMPT), second], axis=1)
    np.savez(tmp_path / "given.npz", latents=latents_of(told), prompt_ids=prompt_ids)
    script = ROOT / "tests" / "support" / "draw_with_diffusers_flax.py"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run(
        [os.environ["TI_FLAX_DIFFUSERS_039"], str(script), str(tmp_path)], check=True, env=environment
    )
    theirs = np.load(tmp_path / "image.npy")
    difference = np.abs(theirs[0] * 255 - image)
    print(f"\nsdxl: image spans {np.ptp(image):.0f} levels, largest difference {difference.max():.3f}")
    assert np.ptp(image) > 50
    assert difference.max() <= 1
