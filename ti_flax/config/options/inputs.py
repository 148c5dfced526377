"""What is taught to which model: model, word, pictures and what is said about them."""

import dataclasses
from typing import Literal

from ti_flax.config.options.group import Options
from ti_flax.config.values import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """The Stable Diffusion model to teach, and its precision."""

    pretrained_model_name_or_path: str = option(
        metavar="ID_OR_PATH",
        path="input",
        help="Stable Diffusion 1.x or 2.x model: a Hub repository id, a folder in diffusers' layout, or one "
        ".safetensors or .ckpt file in the original layout.",
    )
    revision: str | None = option(
        None, when_unset="the main branch", help="Branch, tag or commit of the Hub repository."
    )
    variant: str | None = option(
        None, when_unset="the plain files", help='Variant of the weight files, such as "fp16".'
    )
    tokenizer_name: str | None = option(
        None,
        metavar="ID_OR_FOLDER",
        path="input",
        when_unset="the model's own; openai/clip-vit-large-patch14 for a single file",
        help="Tokenizer to use in place of the model's.",
    )
    config_name: str | None = option(
        None,
        metavar="ID_OR_FOLDER",
        path="input",
        when_unset="worked out from the tensors",
        help="Model folder or Hub id whose config files and tokenizer describe a single-file model.",
    )
    pretrained_vae_model_name_or_path: str | None = option(
        None,
        metavar="ID_OR_PATH",
        path="input",
        when_unset="the model's own",
        help="VAE to use in place of the model's: a Hub repository id, a folder, or one file.",
        changes_bits=True,
    )
    clip_skip: int = option(
        0,
        at_least=0,
        help="Layers left out at the end of the text encoder, one less than the Web UI's and kohya's number.",
        changes_bits=True,
    )
    prediction_type: Literal["epsilon", "v_prediction"] | None = option(
        None,
        when_unset="what the model's scheduler says",
        help="What the UNet was trained to predict: noise or velocity.",
        changes_bits=True,
    )
    rescale_betas_zero_snr: bool | None = option(
        None,
        when_unset="what the model's scheduler says",
        help="Make the last timestep pure noise (zero terminal SNR), for models trained so.",
        changes_bits=True,
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = option(
        "no",
        help='Precision of the frozen model: "no" is float32, bf16 halves memory; fp16 runs as bf16.',
        changes_bits=True,
    )

    attention: Literal["auto", "plain", "blockwise", "cudnn", "flash"] = option(
        "auto",
        metavar="NAME",
        help="How attention is computed; auto chooses by machine, precision and size",
        changes_bits=True,
    )

    @property
    def compute_dtype(self) -> Literal["float32", "bfloat16"]:
        """The dtype of frozen parameters and activations; learned rows are always float32."""
        return "float32" if self.mixed_precision == "no" else "bfloat16"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConceptOptions(Options):
    """The new word, and what it starts from."""

    placeholder_token: str = option(
        metavar="TOKEN", help='The new word, unknown to the tokenizer, such as "<cat-toy>".'
    )
    initializer_token: str | None = option(
        None,
        metavar="TEXT",
        when_unset="required, unless init_embeds or initializer_mode random says what to start from",
        help='Known word or words that the new word starts as, such as "toy" or "blue bmw": '
        "each of k tokens starts an equal share of the vectors, in order.",
    )
    initializer_mode: Literal["spread", "mean", "random"] = option(
        "spread",
        help="Start every vector at its share of the words (spread), at their mean, or at a normal draw with "
        "the vocabulary's mean and deviation in each dimension (random).",
        changes_bits=True,
    )
    init_embeds: str | None = option(
        None,
        metavar="FILE",
        path="input",
        when_unset="the words of initializer_token",
        help="Embedding file to start from, of any trainer's format, in place of initializer_token.",
    )
    num_vectors: int | None = option(
        1,
        at_least=1,
        at_most=75,  # what a prompt has room for
        when_unset="as many as initializer_token or init_embeds has",
        help="Embedding vectors the new word consists of; null takes as many as the start has.",
    )
    extra_embeds: tuple[str, ...] | None = option(
        None,
        metavar="[TOKEN=]FILE",
        path="input",
        when_unset="none",
        help="Existing embedding that prompts may name, and that stays as it is; "
        "its token is the file's own unless one is given",
    )
    learnable_property: Literal["object", "style"] = option(
        "object", help="What the pictures have in common; chooses the built-in prompt templates."
    )

    @property
    def start(self) -> str:
        """What the vectors start as, in a few words."""
        if self.initializer_mode == "random":
            return "random vectors"
        source = repr(self.initializer_token) if self.init_embeds is None else self.init_embeds
        return f"the mean of {source}" if self.initializer_mode == "mean" else source


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageOptions(Options):
    """The pictures to learn from, their shapes and their masks."""

    train_data_dir: tuple[str, ...] = option(
        metavar="SOURCE",
        path="input",
        help="Where the pictures are: a folder with its sub-folders, a picture, a text file with a path or "
        "link a line, a link, a dataset on disk, or a Hub dataset id such as diffusers/cat_toy_example",
    )
    image_column: str | None = option(
        None,
        metavar="NAME",
        when_unset="the first column of pictures",
        help="Column of a dataset or metadata file that holds the pictures.",
    )
    caption_column: str | None = option(
        None,
        metavar="NAME",
        when_unset="text, caption or txt, if there is one",
        help="Column of a dataset or metadata file that holds the captions.",
    )
    dataset_config_name: str | None = option(
        None, metavar="NAME", when_unset="the only one", help="Configuration of a dataset that has several."
    )
    dataset_split: str | None = option(
        None, metavar="NAME", when_unset="train, else the first", help="Split of a dataset to learn from."
    )
    allow_private_links: bool = option(
        False,
        help="Download images from links to this machine and to its private network too, "
        "which are refused otherwise.",
    )
    resolution: int = option(
        512, above=0, multiple_of=8, help="Side of the square training pictures, in pixels, a multiple of 8."
    )
    center_crop: bool = option(
        False, help="Crop to the central square before resizing, instead of squeezing the whole picture."
    )
    enable_bucket: bool = option(
        False, help="Train in a few shapes near the pictures' own, instead of squares; nothing is squeezed."
    )
    bucket_reso_steps: int = option(
        64,
        above=0,
        multiple_of=8,
        help="Sides of shapes other than the square are multiples of it, in pixels.",
    )
    max_buckets: int = option(
        4,
        at_least=1,
        help="Shapes of enable_bucket at most; each is compiled, and those that crop least win.",
    )
    alpha_mask: bool = option(
        False, help="Count each part of a picture in the loss as far as it is opaque, by its alpha channel."
    )
    mask_dir: str | None = option(
        None,
        metavar="FOLDER",
        path="input",
        when_unset="everything counts",
        help="Folder of masks, white where a picture counts in the loss: NAME.png or NAME-masklabel.png.",
    )
    unmasked_weight: float = option(
        0.0, at_least=0, at_most=1, help="What the black or transparent part of a mask still counts."
    )
    interpolation: Literal["nearest", "linear", "bilinear", "bicubic", "lanczos"] = option(
        "bicubic", metavar="NAME", help="Filter used to resize the pictures"
    )
    flip_p: float = option(
        0.5, at_least=0, at_most=1, help="Probability that a sample is mirrored.", changes_bits=True
    )
    repeats: tuple[int, ...] = option(
        (100,),
        at_least=1,
        help="How often an epoch shows every picture: one number, or one for each train_data_dir",
    )
    latents_cache_dir: str | None = option(
        None,
        metavar="FOLDER",
        path="output",
        when_unset="the user's cache folder",
        help="Where encoded pictures are kept for the next run; a folder that others can write to is used "
        "with a warning, since whoever writes there decides what is learned.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptOptions(Options):
    """Templates and captions, and what is drawn about them."""

    templates: Literal["object", "style", "caption"] | None = option(
        None,
        when_unset="the set of learnable_property",
        help="Built-in prompt templates; caption is the caption and nothing else, so it must name the word.",
    )
    template_file: str | None = option(
        None,
        metavar="FILE",
        path="input",
        when_unset="the built-in templates",
        help="Text file of prompt templates, one a line: [name] or {} is the word, [filewords] the caption.",
    )
    captions: Literal["none", "files", "filename", "metadata", "caption_file"] = option(
        "none",
        metavar="NAME",
        help="Where captions come from: files beside the pictures, their names, their dataset, one file",
    )
    caption_extension: tuple[str, ...] | None = option(
        None,
        metavar=".EXT",
        when_unset=".txt, .caption",
        help="Suffix of the text files beside the pictures, for captions files",
    )
    caption_file: str | None = option(
        None,
        metavar="FILE",
        path="input",
        when_unset="no such file",
        help="JSON Lines, table or lines `name|caption` with the captions of all pictures.",
    )
    filename_pattern: str | None = option(
        None,
        metavar="REGEX",
        when_unset="all but a number in front, with _ as blanks",
        help="What of a file name is the caption: group `words`, else the first group, else each match.",
    )
    caption_prefix: str | None = option(
        None, when_unset="nothing", help="Text put before every caption, tags and commas included."
    )
    caption_suffix: str | None = option(None, when_unset="nothing", help="Text put behind every caption.")
    caption_separator: str = option(",", help="What the tags of a caption are apart by.")
    shuffle_caption: bool = option(
        False, help="Put the tags of a caption into another order for every sample."
    )
    keep_tokens: int = option(
        0, at_least=0, help="Tags at the beginning that shuffling and dropping leave alone."
    )
    caption_tag_dropout_rate: float = option(
        0.0, at_least=0, at_most=1, help="Chance of every tag, but one that names the word, to be left out."
    )
    caption_dropout_rate: float = option(
        0.0, at_least=0, at_most=1, help="Share of samples whose caption is left out; the word stays."
    )
    enable_wildcard: bool = option(
        False, help="Take one of a caption's lines, and one of each {a|b} in it, for every sample."
    )
