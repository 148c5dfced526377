"""Rows by text encoder: those of one text encoder as a tree, and back."""

ENCODER, SECOND_ENCODER = "text_encoder", "text_encoder_2"


def tree(values):
    """What belongs to the only text encoder, by its name."""
    return {ENCODER: values}


def only(values):
    """What belongs to the only text encoder of a tree."""
    assert list(values) == [ENCODER]
    return values[ENCODER]


def bits(rows):
    """The bytes of rows, by text encoder."""
    return {encoder: each.tobytes() for encoder, each in rows.items()}
