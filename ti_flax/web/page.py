"""The page's fields and buttons, one column from top to bottom; `events.py` says what they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from ti_flax.config.presets import PRESETS
from ti_flax.config.run_config import OPTIONS
from ti_flax.web.faults import PLACES
from ti_flax.web.image_sets import MOST_FILES
from ti_flax.web.runs.results import READERS
from ti_flax.web.work_folder import DEMO_IMAGES, DEMO_MODEL, WorkFolder

NO_PRESET = "diffusers' defaults"
POPULAR = ("stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-xl-base-1.0")
CROPS = {"cut to its middle": "center_crop", "squeezed": "", "kept in its shape": "enable_bucket"}
# Options with a field among the settings: name to label and what is in it at first.
SETTINGS: dict[str, tuple[str, str]] = {
    "learning_rate": ("Learning rate", ""),
    "max_train_steps": ("Steps", ""),
    "train_batch_size": ("Batch size", ""),
    "resolution": ("Resolution", ""),
    "seed": ("Seed", "0"),
    "validation_steps": ("Steps between previews", "25"),
    "num_validation_images": ("Images of each preview", "4"),
    "save_steps": ("Steps between saved words", "25"),
}
# What suits the demo's model where a field is empty: the side of its images, and its configuration's batch.
OF_DEMO = {"resolution": "64", "train_batch_size": "8"}
NO_CAPTIONS = "Without them, built-in sentences are used."
_PREVIEWS = "a photo of a {}\na {} on a beach"
# Of images; Gradio's button to share them would send them elsewhere.
_BUTTONS: Any = ["download", "fullscreen"]


@dataclass
class Fields:
    """Everything on the page that events read or change, by name."""

    part: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.part[name]
        except KeyError:
            raise AttributeError(name) from None

    def some(self, *names: str) -> list[Any]:
        return [self.part[name] for name in names]


def fields(work: WorkFolder) -> Fields:
    """Lays out the page inside of a `gr.Blocks`."""
    part: dict[str, Any] = {}
    gr.Markdown(
        "# Teach Stable Diffusion a new word\nFill in from top to bottom, then press Start. A run goes on "
        "when you close this page; open it again and it is found."
    )
    _model(part, work)
    _images(part, work)
    _word(part)
    _settings(part)
    _buttons(part)
    _watching(part)
    _results(part)
    _others(part)
    part["seen"], part["started"] = gr.State({}), gr.State("")
    part["timer"] = gr.Timer(3)
    return Fields(part)


def _fault(part: dict[str, Any], place: str) -> None:
    """Room for a message beside a field."""
    part[f"fault_{place}"] = gr.HTML(elem_id=f"fault-{place}", js_on_load=None, visible=False)


def _html(name: str, **more: Any) -> gr.HTML:
    return gr.HTML(elem_id=name, js_on_load=None, **more)


def _model(part: dict[str, Any], work: WorkFolder) -> None:
    gr.Markdown("## 1. Base model")
    part["model"] = gr.Dropdown(
        [DEMO_MODEL, *POPULAR, *work.models_here()],
        value=DEMO_MODEL,
        allow_custom_value=True,
        label="Base model",
        info="The demo's is small and needs no download. Or write owner/name of the Hugging Face Hub, or a "
        "folder or file below the work folder.",
        elem_id="model",
    )
    _fault(part, "model")


def _images(part: dict[str, Any], work: WorkFolder) -> None:
    gr.Markdown("## 2. Images")
    part["drop"] = gr.File(
        file_count="multiple",
        file_types=["image", ".txt"],
        label=f"Drop 3 to 10 images of one thing or one style (at most {MOST_FILES} files)",
        height=140,
        elem_id="drop",
    )
    part["images"] = gr.Dropdown(
        [*work.image_sets(), DEMO_IMAGES],
        value=None,
        allow_custom_value=True,
        label="Or a folder of the work folder",
        elem_id="images",
    )
    _fault(part, "images")
    _captions(part)
    with gr.Row():
        part["crop"] = gr.Radio(
            [*CROPS],
            value=next(iter(CROPS)),
            label="An image that is not square is",
            elem_id="crop",
            scale=2,
        )
        part["focal"] = gr.Button("Cut all to what stands out in them", elem_id="focal", min_width=200)
    part["mirror"] = gr.Checkbox(
        value=True,
        label="A mirror image shows the same thing",
        info="Untick it for writing, a parting in the hair, or stripes that lean to one side.",
        elem_id="mirror",
    )
    part["look"] = gr.Button("Show what training will see", elem_id="look")
    part["sheet"] = gr.Image(
        label="Images as training sees them",
        visible=False,
        interactive=False,
        format="png",
        buttons=_BUTTONS,
        elem_id="sheet",
    )
    part["report"] = gr.Textbox(
        label="What the run would do",
        lines=12,
        max_lines=24,
        visible=False,
        elem_classes="ti-log",
        elem_id="report",
    )


def _captions(part: dict[str, Any]) -> None:
    part["captions"] = gr.Dataframe(
        headers=["image", "caption"],
        datatype="str",
        type="array",
        column_count=2,
        static_columns=[0],
        interactive=True,
        wrap=True,
        show_search="none",
        label="Captions: click to write one; each is kept as a .txt file beside its image",
        visible=False,
        elem_id="captions",
    )
    part["use_captions"] = gr.Checkbox(
        label="Learn with the captions", info=NO_CAPTIONS, visible=False, elem_id="use-captions"
    )


def _word(part: dict[str, Any]) -> None:
    gr.Markdown("## 3. The word")
    with gr.Row():
        part["placeholder_token"] = gr.Textbox(
            label="New word", placeholder="<my-cat>", max_lines=1, elem_id="placeholder", scale=2
        )
        part["num_vectors"] = gr.Textbox(
            label="Vectors", placeholder="1", max_lines=1, elem_id="vectors", scale=1, min_width=90
        )
    _fault(part, "word")
    part["initializer_token"] = gr.Textbox(
        label="Starts as",
        info="A word that the model knows and that comes close, such as cat, ring or painting.",
        placeholder="cat",
        max_lines=1,
        elem_id="initializer",
    )
    _fault(part, "start")
    part["look_at_word"] = _html("word-look")
    part["learnable_property"] = gr.Radio(
        ["object", "style"], value="object", label="It is an object or a style", elem_id="kind"
    )


def _settings(part: dict[str, Any]) -> None:
    gr.Markdown("## 4. How it learns")
    part["preset"] = gr.Radio(
        [*PRESETS, NO_PRESET],
        value="balanced",
        label="Preset",
        info="careful goes on until the evaluations say that it is done.",
        elem_id="preset",
    )
    part["validation_prompt"] = gr.Textbox(
        _PREVIEWS, label="Previews: a prompt a line; {} is the word", lines=2, elem_id="previews"
    )
    with gr.Accordion("Settings", open=False):
        gr.Markdown("An empty field leaves what is shown in it in gray.")
        names = [*SETTINGS]
        for row in (names[:4], names[4:]):
            with gr.Row():
                for name in row:
                    label, value = SETTINGS[name]
                    part[name] = gr.Textbox(
                        value,
                        label=label,
                        placeholder=default_text(name, "balanced", DEMO_MODEL),
                        max_lines=1,
                        min_width=130,
                        elem_id=name,
                    )
        part["whole_model"] = gr.Checkbox(label="Also write the whole model with the word (gigabytes)")
    _fault(part, "settings")
    part["further"] = gr.Textbox(
        label="Further flags, as of ti-flax train",
        placeholder="--flip_p 0 --enable_bucket",
        max_lines=3,
        elem_id="further",
    )
    _fault(part, "further")


def default_text(name: str, preset: str, model: str) -> str:
    """What an option is where its field is empty."""
    given = PRESETS.get(preset, {}).get(name)
    if model == DEMO_MODEL:
        given = OF_DEMO.get(name, given)
    return OPTIONS[name].default_text if given is None else str(given)


def _buttons(part: dict[str, Any]) -> None:
    gr.Markdown("## 5. Run")
    with gr.Row():
        part["start"] = gr.Button("Start", variant="primary", elem_id="start", min_width=100)
        part["stop"] = gr.Button("Stop", variant="stop", interactive=False, elem_id="stop", min_width=100)
        part["go_on"] = gr.Button("Go on", interactive=False, elem_id="go-on", min_width=100)
    _fault(part, "run")
    with gr.Accordion("The command line that does the same", open=False):
        part["command"] = gr.Code(
            language="shell", interactive=False, show_label=False, wrap_lines=True, elem_id="command"
        )


def _watching(part: dict[str, Any]) -> None:
    gr.Markdown("## 6. How it goes")
    part["run"] = gr.Dropdown([], label="Run", allow_custom_value=True, elem_id="run")
    part["concept"] = gr.Dropdown([], label="Concept", visible=False, elem_id="concept")
    part["status"] = _html("status")
    part["preview_step"] = gr.Slider(
        1, 2, value=1, step=1, label="Preview", visible=False, elem_id="preview-step"
    )
    part["preview"] = gr.Image(
        label="Previews",
        visible=False,
        interactive=False,
        format="png",
        buttons=_BUTTONS,
        elem_id="preview",
    )
    part["preview_rows"] = _html("preview-rows")
    part["charts"] = _html("charts")
    part["log"] = gr.Textbox(
        label="What the run says, its last lines",
        lines=12,
        max_lines=12,
        elem_classes="ti-log",
        interactive=False,
        elem_id="log",
    )
    with gr.Row(equal_height=True):
        part["prompt"] = gr.Textbox(
            label="Draw now; {} is the word",
            placeholder="a {} in the snow",
            max_lines=2,
            scale=4,
            elem_id="prompt",
        )
        part["count"] = gr.Slider(1, 8, value=4, step=1, label="Images", scale=1, min_width=130)
    part["draw"] = gr.Button("Draw", elem_id="draw")
    part["drawing"] = _html("drawing")
    part["samples"] = gr.Gallery(
        label="Drawn",
        columns=1,
        object_fit="contain",
        height="auto",
        visible=False,
        format="png",
        buttons=_BUTTONS,
        elem_id="samples",
    )


def _results(part: dict[str, Any]) -> None:
    gr.Markdown("## 7. Use it")
    with gr.Row():
        part["vectors"] = gr.Dropdown([], label="The word as it was at", elem_id="use-step", min_width=240)
        part["reader"] = gr.Radio([*READERS], label="For", elem_id="reader", min_width=240)
    part["files"] = gr.File(
        label="Click a size to download",
        file_count="multiple",
        interactive=False,
        visible=False,
        elem_id="files",
    )
    part["download_fault"] = _html("download-fault")


def _others(part: dict[str, Any]) -> None:
    gr.Markdown("## 8. All runs of the work folder")
    part["queue"] = gr.Dataframe(
        headers=["run", "word", "state", "step"],
        datatype="str",
        type="array",
        interactive=False,
        show_search="none",
        label="Runs, and the concepts of runs of many",
        elem_id="queue",
    )


def faults_cleared() -> dict[str, Any]:
    """Takes all messages away."""
    return {f"fault_{place}": gr.update(value="", visible=False) for place in PLACES}
