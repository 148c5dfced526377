"""What to teach which model: model, word and prompts."""

import dataclasses
import typing
from typing import Literal

from ti_flax.config.options.group import Options
from ti_flax.config.options.word import WordOptions, of_word
from ti_flax.config.values import option

# Tokens of a prompt that CLIP's text encoders read at once, beside a begin and an end.
CHUNK_TOKENS = 75
# The most chunks of a prompt, as in kohya's scripts.
MOST_CHUNKS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """The Stable Diffusion model to teach, and its precision."""

    pretrained_model_name_or_path: str = option(
        metavar="ID_OR_PATH",
        path="input",
        brief="Stable Diffusion 1.x, 2.x or XL: a Hub id, folder or .safetensors file",
        help="Stable Diffusion 1.x, 2.x or XL model: a Hub repository id, a folder in diffusers' layout, or "
        "one .safetensors or .ckpt file in the original layout.",
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
        excludes=("prediction_type epsilon",),
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = option(
        "no",
        help='Precision of the frozen model: "no" is float32, bf16 halves memory; fp16 runs as bf16.',
        changes_bits=True,
    )

    attention: Literal["auto", "plain", "blockwise", "cudnn", "flash"] = option(
        "auto",
        metavar="NAME",
        help="Implementation of attention; auto chooses by device, precision and size",
        changes_bits=True,
        value_needs={"cudnn": "mixed_precision bf16|fp16"},
    )

    @property
    def compute_dtype(self) -> Literal["float32", "bfloat16"]:
        """The dtype of frozen parameters and activations; learned rows are always float32."""
        return "float32" if self.mixed_precision == "no" else "bfloat16"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConceptOptions(Options):
    """The new word or words, and what they start from."""

    placeholder_token: tuple[str, ...] = option(
        (),
        metavar="TOKEN",
        when_unset="required, unless concepts is given",
        brief='the new word, such as "<my-cat>"',
        help='The new word, unknown to the tokenizer, such as "<cat-toy>"; several are learned together',
        excludes=("concepts",),
        required_unless="concepts",
        per_concept=True,
        per_word=True,
    )
    initializer_token: tuple[str | None, ...] | None = option(
        None,
        metavar="TEXT",
        when_unset="required, unless init_embeds or initializer_mode random says what to start from, or "
        "concepts is given",
        brief="a known word that it starts as, such as cat",
        help='Known word or words that the new word starts as, such as "toy" or "blue bmw": '
        "each of k tokens starts an equal share of the vectors, in order",
        needs=("initializer_mode spread|mean",),
        required_unless="init_embeds or initializer_mode random or concepts",
        per_concept=True,
        per_word=True,
    )
    initializer_mode: tuple[Literal["spread", "mean", "random"], ...] = option(
        ("spread",),
        help="Start every vector at its share of the words (spread), at their mean, or at a normal draw with "
        "the vocabulary's mean and deviation in each dimension (random)",
        changes_bits=True,
        per_concept=True,
        per_word=True,
    )
    init_embeds: tuple[str | None, ...] | None = option(
        None,
        metavar="FILE",
        path="input",
        when_unset="the words of initializer_token",
        help="Embedding file to start from, of any trainer's format, in place of initializer_token",
        needs=("initializer_mode spread|mean",),
        excludes=("initializer_token",),
        per_concept=True,
        per_word=True,
    )
    num_vectors: tuple[int | None, ...] | None = option(
        (1,),
        at_least=1,
        at_most=CHUNK_TOKENS,  # what a prompt has room for
        when_unset="as many as initializer_token or init_embeds has",
        help="Embedding vectors the new word consists of; null takes as many as the start has",
        per_concept=True,
        per_word=True,
    )
    extra_embeds: tuple[str, ...] | None = option(
        None,
        metavar="[TOKEN=]FILE",
        path="input",
        when_unset="none",
        help="Existing embedding that prompts may use and that stays as it is; "
        "without TOKEN=, the file says its token",
    )
    learned_text_encoders: Literal["both", "first", "second"] = option(
        "both",
        help="Whose vectors are learned, of SDXL's two text encoders: those of the other keep their start.",
        changes_bits=True,
    )
    learnable_property: Literal["object", "style"] = option(
        "object",
        brief="what the images have in common",
        help="What the images have in common, which chooses the built-in prompt templates.",
        per_concept=True,
    )

    @property
    def words(self) -> tuple[str, ...]:
        """The placeholder tokens."""
        return self.placeholder_token

    @property
    def each(self) -> tuple[WordOptions, ...]:
        """What is said of each word, in order."""
        names = [field.name for field in dataclasses.fields(WordOptions)]
        return tuple(
            WordOptions(
                **{name: typing.cast(typing.Any, of_word(getattr(self, name), place)) for name in names}
            )
            for place in range(len(self.words))
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptOptions(Options):
    """Prompt templates and captions."""

    templates: Literal["object", "style", "caption"] | None = option(
        None,
        when_unset="the set of learnable_property",
        help="Built-in prompt templates; caption is the caption and nothing else, so it must name the word.",
        value_needs={"caption": "captions"},
        per_concept=True,
    )
    template_file: str | None = option(
        None,
        metavar="FILE",
        path="input",
        when_unset="the built-in templates",
        help="Text file of prompt templates, one a line: [name] or {} is the word, [filewords] the caption.",
        excludes=("templates",),
        per_concept=True,
    )
    prompt_template: tuple[str, ...] | None = option(
        None,
        metavar="TEXT",
        when_unset="the built-in templates",
        help='Prompt template of your own, such as "a photo of a {} cat": [name] or {} is the word, '
        "[filewords] the caption",
        excludes=("templates", "template_file"),
        per_concept=True,
    )
    max_token_length: int = option(
        CHUNK_TOKENS,
        at_least=CHUNK_TOKENS,
        at_most=MOST_CHUNKS * CHUNK_TOKENS,
        multiple_of=CHUNK_TOKENS,
        help="Tokens of a prompt, in training and previews: 75, 150 or 225, in chunks of 75 that the text "
        "encoder reads one by one; ends of longer prompts are cut off.",
        changes_bits=True,
    )
    captions: Literal["none", "files", "filename", "metadata", "caption_file"] = option(
        "none",
        metavar="NAME",
        help="Where captions come from: files beside the images, their names, their dataset, one file",
        value_needs={"caption_file": "caption_file"},
        per_concept=True,
    )
    caption_extension: tuple[str, ...] | None = option(
        None,
        metavar=".EXT",
        when_unset=".txt, .caption",
        help="Suffix of the text files beside the images",
        only_with="captions files",
        per_concept=True,
    )
    caption_file: str | None = option(
        None,
        metavar="FILE",
        path="input",
        when_unset="no such file",
        help="JSON Lines, table or lines `name|caption` with the captions of all images.",
        needs=("captions caption_file",),
        per_concept=True,
    )
    filename_pattern: str | None = option(
        None,
        metavar="REGEX",
        when_unset="all but a number in front, with _ as blanks",
        help="Which part of a file name is the caption: group `words`, the first group, or each match.",
        only_with="captions filename",
        per_concept=True,
    )
    caption_prefix: str | None = option(
        None,
        when_unset="nothing",
        help="Text to put before every caption, with any comma and blank of its own.",
        only_with="captions",
        per_concept=True,
    )
    caption_suffix: str | None = option(
        None,
        when_unset="nothing",
        help="Text to put after every caption.",
        only_with="captions",
        per_concept=True,
    )
    caption_separator: str = option(
        ",",
        help="What separates the tags of a caption.",
        only_with="shuffle_caption or caption_tag_dropout_rate",
        per_concept=True,
    )
    shuffle_caption: bool = option(
        False,
        help="Shuffle the tags of a caption for every sample.",
        only_with="captions",
        per_concept=True,
    )
    keep_tokens: int = option(
        0,
        at_least=0,
        help="Tags at the beginning that shuffling and dropout leave alone.",
        only_with="shuffle_caption or caption_tag_dropout_rate",
        per_concept=True,
    )
    caption_tag_dropout_rate: float = option(
        0.0,
        at_least=0,
        at_most=1,
        help="Probability of leaving out each tag, but for one that names the word.",
        only_with="captions",
        per_concept=True,
    )
    caption_dropout_rate: float = option(
        0.0,
        at_least=0,
        at_most=1,
        help="Probability of leaving out the caption of a sample; the word stays.",
        only_with="captions",
        per_concept=True,
    )
    enable_wildcard: bool = option(
        False,
        help="For every sample, choose one of a caption's lines and one of each {a|b} in it.",
        only_with="captions",
        per_concept=True,
    )

    @property
    def chunks(self) -> int:
        """How often the text encoder's length each prompt has."""
        return self.max_token_length // CHUNK_TOKENS
