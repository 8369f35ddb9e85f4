"""`octavo.KVCache`: a paged cache of keys and values that shares prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from . import _octavo
from ._arrays import (
    as_array,
    current_stream,
    describe,
    device_of,
    dtype_name,
    empty,
    is_gpu_array,
    require_writable,
    vector,
)
from ._errors import CacheFullError, InvalidArgumentError


class Admission(NamedTuple):
    """A request, and how many leading tokens of its prompt need not be computed."""

    request: int
    cached: int


class CacheStatistics(NamedTuple):
    """How a cache stands, in pages, and what it did since it was made."""

    pages: int  # free + cached + in_use
    free: int
    cached: int  # that no request uses, kept for prefixes to come
    in_use: int  # by one request or several
    requests: int  # not freed yet
    prompt_tokens: int  # of requests that were admitted
    cached_tokens: int  # of those: found in the cache
    evictions: int  # cached pages that were given to others
    copies: int  # shared last pages that were copied before a write
    refusals: int  # for want of pages

    @property
    def hit_rate(self) -> float:
        """The share of the prompts' tokens that were found in the cache."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


class Rope(NamedTuple):
    """A rotary embedding.

    table      float32 [positions, rotary]: of each position rotary / 2 cosines, then as many sines
    style      which of a head's first `rotary` dims turn together: "halves" (c and c + rotary / 2)
               or "interleaved" (c and c + 1)
    """

    table: Any
    style: str = "halves"


def rope_table(positions: int, rotary: int, base: float = 10000.0, *, like: Any = None) -> Any:
    """The table of a `Rope`: cos and sin of position * base ** (-2 * i / rotary), float32 [positions,
    rotary]; of numpy, or of `like`'s framework."""
    table = _octavo.rope_table(positions, rotary, base)
    return table if like is None else vector(table, "f32", like)


def rotate(x: Any, rope: Rope, positions: Any) -> None:
    """Turns the rows of `x` [rows, heads, d] in place, on the CPU: queries, as `KVCache.append` turns
    keys."""
    require_writable("x", x)
    positions, table = _integers("positions", positions), as_array(rope.table)
    _octavo.rotate(
        (rope.style, _host("rope.table", table), _host("positions", positions)),
        _host("x", x),
    )


def store(
    new_k: Any,
    new_v: Any,
    k: Any,
    v: Any,
    slots: Any,
    *,
    order: str = "nhd",
    k_scale: Any = 1.0,
    v_scale: Any = 1.0,
) -> None:
    """Stores keys and values in pages on the CPU, for engines that have a slot for each token.

    new_k, new_v    [rows, hkv, d] and [rows, hkv, dv], of any dtypes
    k, v         [pages, page, hkv, d] and [..., dv], or with order="hnd" [pages, hkv, page, d]
    slots        int64 [rows]: slot s is s % page of page s // page. Rows with a negative one are left
                 out; no two others may have the same
    k_scale, v_scale    as in KVCache.append

    Raises InvalidArgumentError before anything is stored.
    """
    if order not in ("nhd", "hnd"):
        raise InvalidArgumentError(f"order={order!r}: must be 'nhd' or 'hnd'")
    for name, array in (("k", k), ("v", v)):
        require_writable(name, array)
    arrays = {"new_k": new_k, "new_v": new_v, "k": k, "v": v, "slots": slots}
    kept = {name: as_array(array) for name, array in arrays.items()}
    factors = []
    for name, scale in (("k_scale", k_scale), ("v_scale", v_scale)):
        if not isinstance(scale, (int, float)):
            kept[name] = as_array(scale)
        factors.append(_host(name, kept[name]) if name in kept else float(scale))
    described = [_host(name, kept[name]) for name in arrays]
    _octavo.store(*described[:4], order, described[4], *factors)


class KVCache:
    """A paged cache of keys and values, on the CPU or a GPU. A step of an engine:

        admit, reserve    pages for the tokens to come, or CacheFullError, which changes nothing
        append            their K and V into the pages, layer after layer
        tables            the page table and lengths that octavo.attention takes, for all layers

    Requests that begin with the same tokens, and the same salt, share the pages that those fill. A
    page can be found once K and V of all its tokens are written in all layers, and stays when its
    requests are gone until its room is needed: least recently used first.

    On a GPU, `append` enqueues its work on the cache's stream; page tables and lengths are kept in
    host memory.

    Threads may share a cache; a request is used by one of them at a time. Methods raise
    InvalidArgumentError for a request that was freed or never was, and what raises has changed
    nothing.
    """

    def __init__(
        self,
        *,
        pages: int,
        page_size: int = 16,
        layers: int = 1,
        hkv: int,
        d: int,
        dv: int | None = None,
        dtype: Any = "f32",
        order: str = "nhd",
        pool: str = "split",
        mask: str = "causal",
        share_prefixes: bool = True,
        like: Any = None,
        k: Sequence[Any] | None = None,
        v: Sequence[Any] | None = None,
        device: str | None = None,
        stream: int | None = None,
    ) -> None:
        """
        pages, page_size    of the pool; tokens of a page
        layers     each has K and V of its own; all share one page table
        hkv, d, dv          KV heads, head dims of K and V; dv is d by default
        dtype      of what is stored, by a short or a framework's name; fp8 goes with scales
        order      "nhd": [pages, page, hkv, d]; "hnd": [pages, hkv, page, d]
        pool       "split": K and V apart; "joint": in one array [pages, 2, ...]
        mask       what queries see, as in octavo.attention. With "window:L,0" and "chunked:C" pages
                   that no later query sees are given back
        share_prefixes      if not, requests share pages only when they are forked
        like       an array of the framework that `k` and `v` shall be of; default: numpy
        k, v       memory to use instead of the cache's own: an array a layer, in `order`
        device     "cpu" or "cuda:N": whose memory holds K and V, as torch tensors on a GPU unless `like`
                   is another framework's; default: that of `k` or `like`, else the CPU
        stream     on a GPU, the address of the stream where K and V are stored: where attention runs,
                   or one that it waits for; default: the framework's current one
        """
        if (k is None) != (v is None):
            raise InvalidArgumentError("k and v: give both or none of them")
        short = dtype_name(dtype)
        dv = d if dv is None else dv
        if k is None:
            like = _like(like, device)
            k, v = _pools(pages, page_size, layers, hkv, d, dv, short, order, pool, like)
        self._k, self._v = list(k), list(v)
        if len(self._k) != layers or len(self._v) != layers:
            raise InvalidArgumentError(
                f"k and v have {len(self._k)} and {len(self._v)} arrays: layers={layers}"
            )
        self._device = device or (device_of(self._k[0]) if self._k else "cpu")
        for name, arrays in (("k", self._k), ("v", self._v)):
            for array in arrays:
                if not is_gpu_array(array):
                    require_writable(name, array)
        if stream is not None and self._device == "cpu":
            raise InvalidArgumentError(f"stream={stream}: a cache on cpu has none")
        if stream is None:
            stream = 0 if self._device == "cpu" else current_stream(self._k[0])
        self._cache = _octavo.KvCache.make(
            f"paged pool=split order={order} page={page_size} q=f32 kv={short} hq={hkv} hkv={hkv} "
            f"d={d} dv={dv} mask={mask} q_len=1 kv_len=1",
            pages,
            share_prefixes,
            order,
            [self._describe("k", array) for array in self._k],
            [self._describe("v", array) for array in self._v],
            self._device,
            stream,
        )

    @property
    def device(self) -> str:
        """Whose memory holds it: "cpu" or "cuda:N"."""
        return self._device

    def k(self, layer: int = 0) -> Any:
        """The keys of a layer, as octavo.attention takes them."""
        return self._k[layer]

    def v(self, layer: int = 0) -> Any:
        """The values of a layer, as octavo.attention takes them."""
        return self._v[layer]

    def admit(
        self, prompt: Any = (), *, salt: str | bytes = b"", tokens: int | None = None
    ) -> Admission:
        """A new request, with the pages of as many leading tokens of its prompt as the cache has:
        whole pages, and never all tokens, so that the last one gives logits.

        Of the tokens after those it reserves up to `tokens`, by default all; the others are reserved
        later. Requests of different salts (a LoRA adapter's name, an image's digest, a tenant) share
        nothing. Raises CacheFullError if it does not fit.
        """
        salt = salt.encode() if isinstance(salt, str) else salt
        prompt = _integers("prompt", prompt)
        count = len(prompt) if tokens is None else tokens
        request, cached, missing = self._cache.admit(_host("prompt", prompt), salt, count)
        if request == 0:
            raise CacheFullError(missing)
        return Admission(request, cached)

    def reserve(self, request: int, tokens: Any) -> None:
        """Makes room for the request's next tokens: token ids, or how many. Tokens that the cache is
        not told share their pages with no other request. Raises CacheFullError."""
        if isinstance(tokens, int):
            missing = self._cache.reserve_unnamed(request, tokens)
        else:
            ids = _integers("tokens", tokens)
            missing = self._cache.reserve(request, _host("tokens", ids))
        if missing:
            raise CacheFullError(missing)

    def append(
        self,
        requests: Sequence[int],
        k: Any,
        v: Any,
        *,
        layer: int = 0,
        k_scale: Any = 1.0,
        v_scale: Any = 1.0,
        rope: Rope | None = None,
        positions: Any = None,
    ) -> None:
        """Stores K and V of tokens that were reserved, in one layer.

        requests    each once
        k, v        [rows, hkv, d] and [rows, hkv, dv], of any dtypes: of each request in turn, all
                    tokens that were reserved and not yet written in this layer
        k_scale, v_scale    x / scale is stored, rounded to nearest even, and fp8 saturates: a number,
                    or an array of one value or of one value per KV head. octavo.attention takes the same
        rope        turns K before it is stored
        positions   [rows] for `rope`; by default each token's place in its request

        On a GPU all arrays are there, and are used on the cache's stream.
        """
        k, v = as_array(k), as_array(v)
        scales = []
        for name, scale in (("k_scale", k_scale), ("v_scale", v_scale)):
            number = isinstance(scale, (int, float))
            scales.append((name, float(scale) if number else as_array(scale)))
        turned = None
        if rope is not None:
            table = as_array(rope.table)
            ids = None if positions is None else self._positions(positions)
            place = None if ids is None else self._describe("positions", ids)
            turned = (rope.style, self._describe("rope.table", table), place)
        elif positions is not None:
            raise InvalidArgumentError("positions are given: they are for a rope")
        self._cache.append(
            layer,
            list(requests),
            self._describe("k", k),
            self._describe("v", v),
            *(s if isinstance(s, float) else self._describe(name, s) for name, s in scales),
            turned,
        )

    def mark_written(self, request: int, tokens: int) -> None:
        """Says that K and V of the first `tokens` tokens were written in all layers, by others than
        `append`, which says so itself."""
        self._cache.mark_written(request, tokens)

    def fork(self, request: int) -> int:
        """A new request with the same tokens, in the same pages; all must be written. A last page that
        is not full is copied when one of the two goes on."""
        return self._cache.fork(request)

    def truncate(self, request: int, tokens: int) -> None:
        """Keeps the first `tokens` tokens. Refuses to go back so far that the next query would see
        tokens whose pages the mask let go."""
        self._cache.truncate(request, tokens)

    def free(self, request: int) -> None:
        """Ends a request. Its full pages stay until their room is needed."""
        self._cache.free(request)

    def length(self, request: int) -> int:
        """Tokens that were reserved."""
        return self._cache.length(request)

    def written(self, request: int) -> int:
        """Tokens that are written in all layers."""
        return self._cache.written(request)

    def tables(self, requests: Sequence[int]) -> tuple[Any, Any]:
        """The int32 page table [requests, columns] and lengths [requests], of k's framework and device."""
        page_table, kv_lens = self._cache.tables(list(requests))
        like = self._k[0]
        return vector(page_table, "i32", like), vector(kv_lens, "i32", like)

    def statistics(self) -> CacheStatistics:
        return CacheStatistics(**self._cache.statistics())

    def _describe(self, name: str, array: Any) -> Any:
        if device_of(array) != self._device:
            raise InvalidArgumentError(
                f"{name} is on {device_of(array)}: the cache is on {self._device}"
            )
        return describe(name, array)

    def _positions(self, positions: Any) -> Any:
        if self._device == "cpu":
            return _integers("positions", positions)
        return vector(positions, "i32", self._k[0])


def _pools(
    pages: int,
    page_size: int,
    layers: int,
    hkv: int,
    d: int,
    dv: int,
    dtype: str,
    order: str,
    pool: str,
    like: Any,
) -> tuple[list[Any], list[Any]]:
    """Memory for K and V of each layer. Sizes that make no sense are left to the cache to refuse."""
    if pool not in ("split", "joint"):
        raise InvalidArgumentError(f"pool={pool!r}: must be 'split' or 'joint'")
    if pool == "joint" and d != dv:
        raise InvalidArgumentError(f"dv={dv}: must equal d={d} in pool='joint'; use pool='split'")
    sizes = {"pages": pages, "page_size": page_size, "layers": layers, "hkv": hkv, "d": d, "dv": dv}
    for name, size in sizes.items():
        if size < 1:
            raise InvalidArgumentError(f"{name}={size}: must be at least 1")

    def shape(dim: int) -> tuple[int, ...]:
        return (hkv, page_size, dim) if order == "hnd" else (page_size, hkv, dim)

    if pool == "joint":
        joint = [empty((pages, 2, *shape(d)), dtype, like) for _ in range(layers)]
        return [array[:, 0] for array in joint], [array[:, 1] for array in joint]
    return (
        [empty((pages, *shape(d)), dtype, like) for _ in range(layers)],
        [empty((pages, *shape(dv)), dtype, like) for _ in range(layers)],
    )


def _like(like: Any, device: str | None) -> Any:
    """An array of the framework and on the device that the pools shall be on."""
    if device in (None, "cpu"):
        return like
    if like is None:
        import torch

        return torch.empty(0, device=device)
    if device_of(like) != device:
        raise InvalidArgumentError(f"like is on {device_of(like)}: device={device!r}")
    return like


def _host(name: str, array: Any) -> Any:
    device = device_of(array)
    if device != "cpu":
        raise InvalidArgumentError(f"{name} is on {device}: must be in host memory")
    return describe(name, array)


def _integers(name: str, values: Any) -> Any:
    """Integers of any kind in host memory, as a dense int32 numpy array."""
    import numpy

    if device_of(values) != "cpu":
        raise InvalidArgumentError(f"{name} is on {device_of(values)}: must be in host memory")
    array = numpy.asarray(values)
    if array.size == 0:
        return numpy.empty(0, numpy.int32)
    if array.dtype.kind not in "iu":
        raise InvalidArgumentError(f"{name} is {array.dtype}: must be integers")
    for extreme in (array.min(), array.max()):
        if not -(2**31) <= extreme < 2**31:
            raise InvalidArgumentError(f"{name} has {extreme}: must fit int32")
    return numpy.ascontiguousarray(array, numpy.int32)
