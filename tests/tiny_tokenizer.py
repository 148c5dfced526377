"""A real CLIP tokenizer with a small vocabulary, for tests."""

from pathlib import Path

from make_demo_model import END, write_tokenizer

WORDS = "a an the cat dog toy painting red blue small on in of and table"
PAD_TOKENS = {"sd1": END, "sd2": "!"}


def write_tiny_tokenizer(folder: Path, family: str = "sd1") -> int:
    """Write the files of a `CLIPTokenizer` into a folder and return the size of its vocabulary.

    The words above and those of the prompt templates are one token each; "table" is, "tables" is not.

    Args:
      folder: made where it does not exist; `<model>/tokenizer` for a whole model.
      family: "sd1" pads with the end token, "sd2" with "!".
    """
    return len(write_tokenizer(Path(folder), words=WORDS, pad_token=PAD_TOKENS[family]))
