"""Many concepts in one run: which, and how many at a time."""

import dataclasses

from ti_flax.config.concept_entry import ConceptEntry
from ti_flax.config.options.group import Options
from ti_flax.config.values import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConceptListOptions(Options):
    """Many concepts in one run."""

    concepts: str | tuple[ConceptEntry, ...] | None = option(
        None,
        metavar="FOLDER_OR_FILE",
        path="input",
        when_unset="one concept",
        help="Concepts to teach: a folder with a sub-folder for each, a YAML or JSON file with a list, or, "
        "in a configuration file, the list itself.",
    )
    concepts_at_once: int | None = option(
        None,
        at_least=1,
        when_unset="as many as fit",
        help="Concepts that learn at the same time; the others wait for their turn.",
        needs=("concepts",),
    )
    skip_bad_concepts: bool = option(
        False,
        help="Leave out concepts that cannot be learned as they are written, each with a warning, and teach "
        "the others.",
        needs=("concepts",),
    )
    save_joint_pipeline: bool = option(
        False,
        help="Write one pipeline that knows the words of all concepts into output_dir.",
        needs=("concepts",),
    )
