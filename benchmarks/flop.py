"""Counts the floating-point operations of a JAX program from its mathematics, before a compiler sees it."""

from typing import Any

import numpy as np
from jax.extend.core import jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr


def count_flop(jaxpr: Any) -> int:
    """Counts products and sums of matrix products and convolutions, two for each multiply-add.

    Elementwise work is not counted, as is usual for model FLOP utilisation (arXiv:2204.02311, appendix B),
    nor is what no result depends on. A scan counts as often as it runs, a while loop once, a conditional as
    its most expensive branch.

    Args:
      jaxpr: as of `jax.make_jaxpr(...)(...).jaxpr`.
    """
    needed, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return sum(_of_equation(equation) for equation in needed.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * _size(equation.outvars[0].aval.shape) * _size(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, layout = equation.invars[1].aval.shape, params["dimension_numbers"].rhs_spec
        taps = _size(kernel[axis] for axis in layout[1:])
        # The zeros that a transposed convolution puts between its inputs are nobody's work.
        return 2 * _size(equation.outvars[0].aval.shape) * taps // _size(params["lhs_dilation"])
    inner = [count_flop(getattr(sub, "jaxpr", sub)) for sub in jaxprs_in_params(params)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _size(shape: Any) -> int:
    return int(np.prod(list(shape), dtype=np.int64))
