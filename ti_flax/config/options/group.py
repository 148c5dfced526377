"""What all groups of options have in common."""

from ti_flax.config.values import checked, options_of


class Options:
    """Base of the groups: a value of the wrong type or range cannot be constructed."""

    def __post_init__(self):
        for each in options_of(type(self)):
            value = getattr(self, each.name)
            value = value if each.left_out(value) else checked(each, value, each.name)
            object.__setattr__(self, each.name, value)  # frozen: the one place a value is normalised
