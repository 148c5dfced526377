"""Entries of the concepts_list.json of Custom Diffusion (arXiv:2212.04488) and of the scripts after it."""

import dataclasses
import re

from ti_flax.config.concept_entry import ConceptEntry
from ti_flax.config.concept_list.names import words_of

_WORD = re.compile(r"<[^<>\s]+>")
_NEXT = re.compile(r"\s+([^\W\d_][\w'-]*)(\s+\w)?")
_KEYS = ("instance_prompt", "instance_data_dir")
# Keys of such lists that have nothing to set here, and why.
_WITHOUT_MEANING = {
    "prompt_filename": "prompts to compare methods with; validation_prompt asks for previews",
    "num_class_images": "class images are used as they are, and none are drawn",
    "n_save_sample": "num_validation_images of the run says how many previews are drawn",
    "save_sample_prompt": "validation_prompt asks for previews",
}
# All keys that are no options of this program.
OTHER_KEYS = (*_KEYS, *_WITHOUT_MEANING)
_STARTS = ("initializer_token", "init_embeds", "initializer_mode")
_TEMPLATES = ("templates", "template_file", "prompt_template")


@dataclasses.dataclass(frozen=True)
class Translated:
    """An entry in our words.

    Args:
      entry: with the keys of this program alone, as far as the others are understood.
      notes: sentences on what the user might expect otherwise.
    """

    entry: ConceptEntry
    notes: tuple[str, ...] = ()


def translated(entry: ConceptEntry) -> Translated:
    """Put an entry of another script's list into our words; one of our own stays as it is.

    The new word is what stands in angle brackets in instance_prompt, its initializer the word that follows,
    and instance_prompt becomes the template. Keys of ours in the same entry win.
    """
    values = dict(entry.values)
    if not any(key in values for key in _KEYS):
        return Translated(entry)
    faults = list(entry.faults)
    notes = [f"{key} does nothing here: {_WITHOUT_MEANING[key]}" for key in values if key in _WITHOUT_MEANING]
    places = dict(entry.places)
    for other, own in (("instance_data_dir", "train_data_dir"), ("instance_prompt", "prompt_template")):
        if other in places:
            places[own] = places[other]
    if "instance_data_dir" in values:
        values.setdefault("train_data_dir", values.pop("instance_data_dir"))
    if "instance_prompt" in values:
        place = entry.place("instance_prompt")
        problem = _use_prompt(values, notes)
        faults += [(place, f"instance_prompt: {problem}")] if problem else []
    words, class_prompt = words_of(values.get("placeholder_token")), values.get("class_prompt")
    if isinstance(class_prompt, str) and not any(word in class_prompt for word in words):
        del values["class_prompt"]
        notes.append(
            "class_prompt is left out, as it does not name the new word, which alone learns; class images "
            "have the prompts of the training images"
        )
    kept = tuple((key, value) for key, value in values.items() if key not in (*_KEYS, *_WITHOUT_MEANING))
    entry = ConceptEntry(kept, entry.where, tuple(places.items()), tuple(faults))
    return Translated(entry, tuple(notes))


def _use_prompt(values: dict[str, object], notes: list[str]) -> str:
    """Take word, start and template from instance_prompt; return what is wrong with it, if anything."""
    prompt, words = values["instance_prompt"], words_of(values.get("placeholder_token"))
    if not isinstance(prompt, str):
        return f"expected text, found {prompt!r}"
    named = list(dict.fromkeys(_WORD.findall(prompt)))
    if words[1:]:
        return _use_prompt_of_several(values, prompt, words)
    (word,) = words or ("",)
    if not word:
        if len(named) != 1:
            found = f"{' and '.join(named)} in {prompt!r}" if named else repr(prompt)
            return (
                f'expected one new word in angle brackets, as in "photo of a <new1> cat", found {found}. '
                "Write it so, or give placeholder_token."
            )
        word = values["placeholder_token"] = named[0]
    _, there, after = prompt.partition(word)
    if not there:
        return f"expected a prompt with placeholder_token {word} in it, found {prompt!r}"
    following = _NEXT.match(after)
    if following and not any(key in values for key in _STARTS):
        values["initializer_token"] = following[1]
        if following[2]:
            notes.append(
                f"starts as {following[1]!r}, the first word after {word}; initializer_token sets another"
            )
    if not any(key in values for key in _TEMPLATES):
        values["prompt_template"] = prompt.replace(word, "{}")
    return ""


def _use_prompt_of_several(values: dict[str, object], prompt: str, words: tuple[str, ...]) -> str:
    """Take the template of words that are learned together; each says what it starts from."""
    if not any(word in prompt for word in words):
        return f"expected a prompt with placeholder_token {' or '.join(words)} in it, found {prompt!r}"
    if not any(key in values for key in _TEMPLATES):
        values["prompt_template"] = prompt
    return ""
