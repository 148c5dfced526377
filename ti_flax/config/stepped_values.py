"""Numbers that hold until a step: the Web UI's "0.05:50, 0.01:100, 0.005"."""

LARGEST_INT = 2**31 - 1  # step counters are int32 on the device
STEPS_EXAMPLE = "0.05:50, 0.01:100, 0.005"


def looks_stepped(text: str) -> bool:
    """Tell text of several numbers from that of a single one."""
    return ":" in text or "," in text


def parse_steps(text: str) -> tuple[tuple[float, int | None], ...]:
    """Read numbers and the steps until which they hold.

    Args:
      text: such as "0.05:50, 0.01:100, 0.005": 0.05 up to and with step 50 (counted from 1), 0.01 up to and
        with step 100, then 0.005. A last number without a step, or with -1, holds to the end.

    Returns:
      Pairs of a number and its last step, None for the end of the run.

    Raises:
      ValueError: says what is wrong, as a sentence without its full stop.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError("It holds no number")
    pairs: list[tuple[float, int | None]] = []
    for place, part in enumerate(parts):
        number, colon, step = (piece.strip() for piece in part.partition(":"))
        last = _last_step(part, step) if colon else None
        if last is None and place < len(parts) - 1:
            raise ValueError(f"Only the last number may do without a step, not {part!r}")
        reached = pairs[-1][1] if pairs else 0
        if last is not None and reached is not None and last <= reached:
            raise ValueError(f"Steps must rise, and {part!r} does not go beyond {reached}")
        pairs.append((_number(part, number), last))
    return tuple(pairs)


def _last_step(part: str, step: str) -> int | None:
    if step == "-1":
        return None
    if not step.isascii() or not step.isdigit():
        raise ValueError(f"After the colon of {part!r} belongs a whole number of steps")
    if len(step) > len(str(LARGEST_INT)) or int(step) > LARGEST_INT:
        raise ValueError(f"The largest step possible is {LARGEST_INT}")
    return int(step)


def _number(part: str, number: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise ValueError(f"{part!r} does not begin with a number") from None
