"""Attention: one function that every model calls, over implementations for different machines."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

IMPLEMENTATIONS = ("plain", "blockwise", "cudnn", "flash")

# Scores that `blockwise` holds at once. On a CPU they have to stay in the cache, elsewhere they have to be
# many enough to keep the device busy.
_CPU_BLOCK, _DEVICE_BLOCK = 2**20, 2**23
# Below so many scores of one head `plain` is as fast on a CPU (benchmarks/attention.py).
_CPU_PLAIN_SCORES = 2**14
# Above so many bytes of scores, `plain` is not worth its memory on a GPU or TPU.
_PLAIN_BYTES = 2**29
# The widest head of cuDNN's backward pass, before and since Hopper, and what widths are a multiple of.
_CUDNN_WIDTHS, _CUDNN_MULTIPLE = (128, 256), 8
# Tokens of the Pallas kernels are multiples of this: the lanes of a TPU's vector registers.
_TPU_LANES = 128
# Tokens that the Pallas kernels take at once; JAX's own 128 leave the matrix unit waiting.
_TPU_BLOCK = 512
# Bytes of keys that stay in a TPU's own memory in the backward pass, of which the kernel then takes about 14
# times as many; a kernel has 16 MiB on v4 and v5e.
_TPU_BACKWARD_BYTES = 2**20
# From so many scores of one head on the TPU compiler finds the Pallas kernel better than its own code.
_TPU_FLASH_SCORES = 2**20


@dataclasses.dataclass(frozen=True)
class Attention:
    """Softmax attention (arXiv:1706.03762, eq. 1) by the implementation that suits machine and shape.

    All of them accumulate and normalise in float32 whatever the inputs are: in bfloat16 the softmax over some
    thousand tokens loses most of its digits, and Stable Diffusion 2.1 overflows in float16.

    - `plain`: the formula; holds all scores, `[batch, heads, tokens, context_tokens]`.
    - `blockwise`: some heads or queries at a time, and again in the backward pass (arXiv:2205.14135).
    - `cudnn`: cuDNN's fused kernel on NVIDIA GPUs, for float16 and bfloat16.
    - `flash`: JAX's Pallas kernels for TPUs (arXiv:2205.14135, as its splash attention).

    Attributes:
      implementation: one of `IMPLEMENTATIONS`, for the shapes that it can compute; "auto" chooses.
      platform: that the program is compiled for, "cpu", "gpu" or "tpu"; None is JAX's default.
    """

    implementation: str = "auto"
    platform: str | None = None

    def __call__(
        self, query: jax.Array, key: jax.Array, value: jax.Array, *, causal: bool = False
    ) -> jax.Array:
        """Mix values by the softmax of scaled query-key products.

        Args:
          query: `[batch, tokens, heads, head_dim]`.
          key: `[batch, context_tokens, heads, head_dim]`.
          value: `[batch, context_tokens, heads, head_dim]`.
          causal: whether a token sees itself and those before it alone.

        Returns:
          `[batch, tokens, heads, head_dim]` in the dtype of `query`.
        """
        chosen = self.chosen(query, key, causal=causal)
        if chosen == "cudnn":
            return cudnn_attention(query, key, value, causal=causal)
        if chosen == "flash":
            return flash_attention(query, key, value)
        if chosen == "blockwise":
            block = _CPU_BLOCK if self._platform == "cpu" else _DEVICE_BLOCK
            return blockwise_attention(query, key, value, block)
        return plain_attention(query, key, value, causal=causal)

    def chosen(self, query: jax.Array, key: jax.Array, *, causal: bool = False) -> str:
        """Name the implementation that these shapes and dtypes get."""
        if self.implementation != "auto" and self._computes(self.implementation, query, key, causal):
            return self.implementation
        return next(name for name in self._order(query, key) if self._computes(name, query, key, causal))

    @property
    def _platform(self) -> str:
        return self.platform or jax.default_backend()

    def _order(self, query: jax.Array, key: jax.Array) -> tuple[str, ...]:
        """Preferences of the platform; `plain` computes everything."""
        scores = query.shape[1] * key.shape[1]
        if self._platform == "cpu":
            return ("blockwise", "plain") if scores >= _CPU_PLAIN_SCORES else ("plain",)
        large = 4 * scores * query.shape[0] * query.shape[2] > _PLAIN_BYTES
        by_itself = ("blockwise", "plain") if large else ("plain",)
        if self._platform == "tpu" and scores >= _TPU_FLASH_SCORES:
            return ("flash", *by_itself)
        return ("cudnn", *by_itself) if self._platform in ("gpu", "cuda") else by_itself

    def _computes(self, name: str, query: jax.Array, key: jax.Array, causal: bool) -> bool:
        """Whether an implementation takes these shapes and dtypes."""
        if name == "cudnn":
            return query.dtype in (jnp.bfloat16, jnp.float16) and query.shape[-1] <= _cudnn_width()
        if name == "flash":
            return not causal and query.shape[1] % _TPU_LANES == 0 and key.shape[1] % _TPU_LANES == 0
        return name == "plain" or not causal


AUTO = Attention()


def plain_attention(query: jax.Array, key: jax.Array, value: jax.Array, *, causal: bool = False) -> jax.Array:
    """Compute all scores at once; arguments and result as of `Attention`."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
    scores = scores * (query.shape[-1] ** -0.5)
    if causal:
        seen = jnp.tril(jnp.ones(scores.shape[-2:], dtype=bool))
        scores = jnp.where(seen, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def cudnn_attention(query: jax.Array, key: jax.Array, value: jax.Array, *, causal: bool = False) -> jax.Array:
    """Compute by cuDNN's fused kernel; arguments and result as of `Attention`."""
    width = query.shape[-1]
    missing = -width % _CUDNN_MULTIPLE
    if missing:
        query, key, value = (jnp.pad(x, ((0, 0),) * 3 + ((0, missing),)) for x in (query, key, value))
    mixed = jax.nn.dot_product_attention(
        query, key, value, scale=width**-0.5, is_causal=causal, implementation="cudnn"
    )
    return mixed[..., :width]


def flash_attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Compute by JAX's Pallas kernels for TPUs; arguments and result as of `Attention`.

    One kernel makes all three gradients. It writes the query's once for every block of keys, so these blocks
    are as large as the chip's memory lets them be.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as pallas

    (batch, tokens, heads, width), context_tokens = query.shape, key.shape[1]
    queries, at_once = _blocks(tokens, _TPU_BLOCK), _blocks(context_tokens, _TPU_BLOCK)
    # Squared, because the registers of a wider head spill into the same memory.
    key_bytes = key.dtype.itemsize * _TPU_LANES * math.ceil(width / _TPU_LANES) ** 2
    backward = at_once * _divisor(context_tokens // at_once, _TPU_BACKWARD_BYTES // key_bytes // at_once)
    sizes = pallas.BlockSizes(
        block_q=queries,
        block_kv=at_once,
        block_kv_compute=at_once,
        block_q_dkv=queries,
        block_kv_dkv=backward,
        block_kv_dkv_compute=at_once,
        use_fused_bwd_kernel=True,
    )
    mask = pallas.MultiHeadMask([pallas.FullMask((tokens, context_tokens))] * (batch * heads))
    attend = pallas.make_splash_mha_single_device(mask, block_sizes=sizes)
    scaled = (query.astype(jnp.float32) * width**-0.5).astype(query.dtype)
    heads_first = (jnp.swapaxes(x, 1, 2).reshape(-1, x.shape[1], width) for x in (scaled, key, value))
    mixed = jnp.asarray(attend(*heads_first)).reshape(batch, heads, tokens, width)
    return jnp.swapaxes(mixed, 1, 2)


def _blocks(tokens: int, most: int) -> int:
    """The largest multiple of the lanes that divides so many tokens, and is at most `most` or the lanes."""
    return _TPU_LANES * _divisor(tokens // _TPU_LANES, most // _TPU_LANES)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def blockwise_attention(query: jax.Array, key: jax.Array, value: jax.Array, block: int) -> jax.Array:
    """Compute some scores at a time, and again in the backward pass, instead of keeping them.

    Args:
      query: `[batch, tokens, heads, head_dim]`.
      key: `[batch, context_tokens, heads, head_dim]`.
      value: `[batch, context_tokens, heads, head_dim]`.
      block: scores to hold at once; at least those of one query are.

    Returns:
      `[batch, tokens, heads, head_dim]` in the dtype of `query`.
    """
    return _forward(query, key, value, block)[0]


def _forward(query, key, value, block):
    """The result, and the logarithm of each query's sum of exponentials, from which weights come back."""
    cut = _Cut.of(query, key, block)

    def attend(q, k, v):
        scores = _products(q, k) * cut.scale
        largest = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - largest)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        mixed = _mixed(weights.astype(v.dtype), v) / total
        return mixed.astype(query.dtype), largest + jnp.log(total)

    def group(parts):
        q, k, v = parts
        return jax.lax.map(lambda some: attend(some, k, v), q)

    mixed, log_sums = jax.lax.map(group, (cut.queries(query), cut.context(key), cut.context(value)))
    return cut.joined(mixed), (query, key, value, cut.joined(mixed), log_sums)


def _backward(block, kept, gradient):
    """Gradients by query, key and value (arXiv:2205.14135, appendix B.4).

    Those by key and value are summed up as `[head_dim, context_tokens]`: XLA's products on a CPU take eight
    times as long where the first axis of a large matrix is contracted and the result lies the other way.
    """
    query, key, value, mixed, log_sums = kept
    cut = _Cut.of(query, key, block)
    inner = jnp.sum(gradient.astype(jnp.float32) * mixed.astype(jnp.float32), axis=-1, keepdims=True)

    def step(total, parts, k, v):
        q, g, log_sum, dot = parts
        weights = jnp.exp(_products(q, k) * cut.scale - log_sum)
        slope = weights * (_products(g, v) - dot) * cut.scale
        by_key, by_value = _gathered(q, slope.astype(q.dtype)), _gathered(g, weights.astype(g.dtype))
        return (total[0] + by_key, total[1] + by_value), _mixed(slope.astype(k.dtype), k)

    def group(parts):
        *queries, k, v = parts
        zero = jnp.zeros((k.shape[0], k.shape[2], k.shape[1]), jnp.float32)
        (by_key, by_value), by_query = jax.lax.scan(
            lambda total, some: step(total, some, k, v), (zero, zero), tuple(queries)
        )
        return by_query, by_key, by_value

    parts = (cut.queries(query), cut.queries(gradient), log_sums, cut.queries(inner))
    by_query, *by_context = jax.lax.map(group, (*parts, cut.context(key), cut.context(value)))
    by_key, by_value = (cut.joined(jnp.swapaxes(found, -1, -2)[:, None]) for found in by_context)
    gradients = (cut.joined(by_query), by_key, by_value)
    return tuple(found.astype(x.dtype) for found, x in zip(gradients, (query, key, value)))


blockwise_attention.defvjp(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class _Cut:
    """How heads and queries are cut up: `[groups, blocks, heads at once, queries at once, head_dim]`."""

    batch: int
    groups: int
    blocks: int
    scale: float

    @classmethod
    def of(cls, query: jax.Array, key: jax.Array, block: int) -> "_Cut":
        batch, tokens, heads, width = query.shape
        scores = tokens * key.shape[1]
        at_once = _divisor(batch * heads, block // scores)
        rows = tokens if scores <= block else _divisor(tokens, block // key.shape[1])
        return cls(batch, batch * heads // at_once, tokens // rows, width**-0.5)

    def queries(self, x: jax.Array) -> jax.Array:
        grouped = self.context(x)
        groups, heads, tokens, width = grouped.shape
        cut = grouped.reshape(groups, heads, self.blocks, tokens // self.blocks, width)
        return jnp.swapaxes(cut, 1, 2)

    def context(self, x: jax.Array) -> jax.Array:
        """`[groups, heads at once, context_tokens, head_dim]`."""
        batch, tokens, heads, width = x.shape
        return jnp.swapaxes(x, 1, 2).reshape(self.groups, batch * heads // self.groups, tokens, width)

    def joined(self, x: jax.Array) -> jax.Array:
        """Undoes `queries`."""
        groups, blocks, heads, rows, width = x.shape
        whole = jnp.swapaxes(x, 1, 2).reshape(self.batch, groups * heads // self.batch, blocks * rows, width)
        return jnp.swapaxes(whole, 1, 2)


def _products(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum("hqd,hkd->hqk", x, y, preferred_element_type=jnp.float32)


def _mixed(weights: jax.Array, values: jax.Array) -> jax.Array:
    return jnp.einsum("hqk,hkd->hqd", weights, values, preferred_element_type=jnp.float32)


def _gathered(queries: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.einsum("hqd,hqk->hdk", queries, weights, preferred_element_type=jnp.float32)


def _divisor(number: int, most: int) -> int:
    """The largest divisor of a number that is at most `most`, and at least 1."""
    return next(d for d in range(max(1, min(number, most)), 0, -1) if number % d == 0)


@functools.cache
def _cudnn_width() -> int:
    """The widest head that cuDNN differentiates on this machine's GPU."""
    capability = getattr(jax.devices()[0], "compute_capability", "0")
    return _CUDNN_WIDTHS[math.floor(float(capability)) >= 9]
