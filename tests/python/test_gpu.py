"""torch tensors on a GPU: results, streams, graphs, bits, and what is refused. Skipped where there is
none."""

import pytest
import torch

import octavo
from octavo import _octavo

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

DEVICE = "cuda:0"
KERNELS = ["", *octavo.kernels(DEVICE)]
PAGE = 16


class Batch:
    """Random requests in pages of one pool, drawn in random order, and NaN in all unused slots."""

    def __init__(self, q_lens, kv_lens, hq=14, hkv=2, d=64, dtype=torch.bfloat16, seed=0, page=PAGE,
                 columns=None, device=DEVICE):  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(shape, generator=generator).to(dtype)  # noqa: E731
        self.page, self.group = page, hq // hkv
        self.q_lens, self.kv_lens = list(q_lens), list(kv_lens)
        columns = columns or max(1, -(-max(kv_lens) // page))
        pages = columns * len(q_lens) + 3
        self.q = draw(sum(q_lens), hq, d).to(device)
        self.k, self.v = draw(pages, page, hkv, d).to(device), draw(pages, page, hkv, d).to(device)
        order = torch.randperm(pages, generator=generator)
        self.table = order[: columns * len(q_lens)].reshape(len(q_lens), columns).int().to(device)
        used = torch.zeros(pages, page, dtype=torch.bool, device=device)
        for row, length in zip(self.table.long(), kv_lens):
            tokens = torch.arange(length, device=device)
            used[row[tokens // page], tokens % page] = True
        for pool in (self.k, self.v):
            pool[~used] = float("nan")
        self.lens = {
            "q_lens": torch.tensor(q_lens, dtype=torch.int32, device=device),
            "kv_lens": torch.tensor(kv_lens, dtype=torch.int32, device=device),
        }

    def attention(self, **keywords):
        given = self.lens | {"page_table": self.table, "mask": "causal"} | keywords
        return octavo.attention(self.q, self.k, self.v, **given)

    def expected(self):
        """Causal attention in double precision."""
        outs, first = [], 0
        for row, q_len, kv_len in zip(self.table.long(), self.q_lens, self.kv_lens):
            tokens = torch.arange(kv_len, device=self.q.device)
            keys, values = (
                pool[row[tokens // self.page], tokens % self.page].double()
                .repeat_interleave(self.group, dim=1)
                for pool in (self.k, self.v)
            )  # fmt: skip
            q = self.q[first : first + q_len].double()
            scores = torch.einsum("ihd,jhd->hij", q, keys) / q.shape[-1] ** 0.5
            positions = torch.arange(q_len, device=q.device)[:, None] + kv_len - q_len
            scores.masked_fill_(tokens > positions, float("-inf"))
            weights = torch.nan_to_num(scores.softmax(-1))
            outs.append(torch.einsum("hij,jhd->ihd", weights, values))
            first += q_len
        return torch.cat(outs)


def assert_right(out, expected):
    bound = 2e-6 if out.dtype == torch.float32 else 3 * torch.finfo(out.dtype).eps
    torch.testing.assert_close(out.double(), expected, rtol=bound, atol=bound)


def poisoned(batch):
    return torch.full_like(batch.q, float("nan"))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kv_len", [1, 5, 8, 9, 15, 16, 17, 25, 33])
def test_short_paged_prompts(kernel, kv_len):
    batch = Batch([min(8, kv_len)], [kv_len], seed=kv_len)
    out = poisoned(batch)
    assert batch.attention(out=out, kernel=kernel) is out
    assert_right(out, batch.expected())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("growth", [5, 40, 130, 1000, -1000])
@pytest.mark.parametrize("course", ["ramp", "step", "peak"])
def test_logits_far_above_those_before(kernel, dtype, growth, course):
    """Keys whose logits are `growth` above those of the first."""
    batch = Batch([200, 1, 20], [700, 700, 300], hq=8, hkv=2, d=64, dtype=dtype)
    batch.q[..., 0] = 8  # and so the first column of a key is added to its logits
    for row, kv_len in zip(batch.table.long(), batch.kv_lens):
        tokens = torch.arange(kv_len, device=DEVICE)
        share = {"ramp": tokens / kv_len, "step": tokens >= kv_len // 2, "peak": tokens == kv_len // 2}
        added = (growth * share[course]).to(dtype)
        batch.k[row[tokens // PAGE], tokens % PAGE, :, 0] = added[:, None]
    out = poisoned(batch)
    batch.attention(out=out, kernel=kernel)
    assert_right(out, batch.expected())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("hq, hkv, d, page", [(32, 8, 128, 16), (9, 3, 64, 1), (5, 1, 256, 7)])
def test_mixed_batches(kernel, dtype, hq, hkv, d, page):
    batch = Batch([1, 300, 7, 0, 33, 1], [700, 300, 7, 9, 500, 1], hq, hkv, d, dtype, page=page)
    out = poisoned(batch)
    batch.attention(out=out, kernel=kernel)
    assert_right(out, batch.expected())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("hq, hkv, d", [(32, 8, 128), (14, 2, 64), (4, 2, 256)])
def test_values_that_only_later_rows_see(kernel, value, hq, hkv, d):
    batch = Batch([300, 40, 200], [500, 40, 200], hq, hkv, d)
    expected = batch.attention(kernel=kernel)
    for request, token in ((0, 450), (2, 100)):
        batch.v[batch.table[request, token // PAGE], token % PAGE, :, 3] = value
    expected[250:300, :, 3] = expected[440:540, :, 3] = value
    out = batch.attention(kernel=kernel)
    torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_bits_repeat(kernel):
    batch = Batch([1, 60, 9], [3000, 900, 9])
    first = batch.attention(kernel=kernel)
    for _ in range(1000 if kernel != "cuda_reference" else 50):
        assert torch.equal(batch.attention(kernel=kernel), first)


@pytest.mark.parametrize("kernel", KERNELS)
def test_bits_of_a_request_do_not_depend_on_the_batch(kernel):
    batch = Batch([1, 200, 9, 40], [5000, 900, 9, 40])
    together, first = batch.attention(kernel=kernel), 0
    for r, q_len in enumerate(batch.q_lens):
        alone = octavo.attention(
            batch.q[first : first + q_len], batch.k, batch.v, mask="causal", kernel=kernel,
            page_table=batch.table[r : r + 1], **{n: x[r : r + 1] for n, x in batch.lens.items()},
        )  # fmt: skip
        assert torch.equal(alone, together[first : first + q_len])
        first += q_len


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("chunk", [1, 7, 16, 64, 100])
def test_invariant_rows_agree_however_the_prompt_is_cut(kernel, chunk):
    batch = Batch([200], [1200], hq=6, hkv=2)
    call = {"mask": "causal", "kernel": kernel, "invariant": True, "page_table": batch.table}
    at_once = octavo.attention(batch.q, batch.k, batch.v, **call, **batch.lens)
    for begin in range(0, 200, chunk):
        rows = batch.q[begin : begin + chunk]
        out = octavo.attention(
            rows, batch.k, batch.v, q_lens=[len(rows)], kv_lens=[1000 + begin + len(rows)], **call
        )
        assert torch.equal(out, at_once[begin : begin + chunk])


@pytest.mark.parametrize("kernel", KERNELS)
def test_graph_replays_with_other_lengths(kernel):
    captured = Batch([1, 40, 9], [500, 300, 100], columns=40)
    out = poisoned(captured)
    run = lambda: captured.attention(  # noqa: E731
        out=out, kernel=kernel, max_q_len=64, max_kv_len=640
    )
    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    for q_lens, kv_lens in [([1, 40, 9], [500, 300, 100]), ([50, 0, 0], [640, 0, 0]),
                            ([7, 7, 7], [9, 7, 33]), ([0, 1, 1], [0, 600, 1])]:  # fmt: skip
        new = Batch(q_lens, kv_lens, columns=40, seed=sum(kv_lens))
        for mine, other in ((captured.k, new.k), (captured.v, new.v), (captured.table, new.table),
                            *((captured.lens[n], new.lens[n]) for n in new.lens)):  # fmt: skip
            mine.copy_(other)
        rows = sum(q_lens)
        captured.q[:rows] = new.q
        out.fill_(float("nan"))
        graph.replay()
        assert_right(out[:rows], new.expected())
        assert out[rows:].isnan().all()


def test_two_streams_at_once():
    batches = [Batch([100 + i], [900 + i], seed=i) for i in range(4)]
    streams = [torch.cuda.Stream() for _ in batches]
    torch.cuda.synchronize()
    outs = []
    for _ in range(20):
        for batch, stream in zip(batches, streams):
            with torch.cuda.stream(stream):
                outs.append((batch, batch.attention()))
    torch.cuda.synchronize()
    expected = {id(batch): batch.expected() for batch in batches}
    for batch, out in outs:
        assert_right(out, expected[id(batch)])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_two_devices():
    batches = [Batch([9], [33], device=f"cuda:{i}") for i in range(2)]
    for batch in batches:
        assert_right(batch.attention(), batch.expected())
    with pytest.raises(octavo.InvalidArgumentError, match="memory of cuda:1"):
        octavo.attention(batches[0].q, batches[1].k, batches[1].v, mask="causal",
                         page_table=batches[0].table, **batches[0].lens)  # fmt: skip


def test_compiles_whole():
    batch = Batch([1, 40], [500, 300])

    def layer(q, k, v, table, q_lens, kv_lens):
        lens = {"q_lens": q_lens, "kv_lens": kv_lens}
        return octavo.attention(q * 2, k, v, page_table=table, mask="causal", **lens) + 1

    inputs = (batch.q, batch.k, batch.v, batch.table, *batch.lens.values())
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*inputs), layer(*inputs))


def test_unaligned_views():
    """Rows of which no element but the first has the address that 16-byte loads want."""
    batch = Batch([20], [40], hq=4, hkv=2, d=64)
    aligned = batch.attention()
    wide = lambda x: torch.nn.functional.pad(x, (3, 2))[..., 3:-2]  # noqa: E731
    batch.q, batch.k, batch.v = wide(batch.q), wide(batch.k), wide(batch.v)
    assert torch.equal(batch.attention(), aligned)


def test_a_mask_of_booleans():
    batch = Batch([20], [40])
    positions = torch.arange(20, device=DEVICE)[:, None] + 20
    seen = torch.arange(40, device=DEVICE) <= positions
    assert_right(batch.attention(mask="none", mask_bits=seen), batch.expected())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("q_len", "kv_len"), [(19, 11), (19, 3), (33, 1)])
def test_more_queries_than_keys(dtype, q_len, kv_len):
    batch = Batch([q_len], [kv_len], dtype=dtype)
    assert_right(batch.attention(), batch.expected())


def test_lists_of_lengths_and_dense_batches():
    q, k, v = (torch.randn(2, n, 4, 64, device=DEVICE, dtype=torch.float16) for n in (9, 33, 33))
    swapped = (x.double().transpose(1, 2) for x in (q, k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(*swapped).transpose(1, 2)
    assert_right(octavo.attention(q, k, v), expected)
    batch = Batch([3, 4], [9, 17])
    assert_right(batch.attention(q_lens=[3, 4], kv_lens=[9, 17]), batch.expected())


def test_what_is_refused():
    batch = Batch([8], [9])
    plan = octavo.plan(
        "paged pool=split q=bf16 kv=bf16 hq=14 hkv=2 d=64 page=16 mask=causal q_len=8 kv_len=9",
        device=DEVICE,
    )
    out = poisoned(batch)
    workspace = torch.empty(plan.workspace_size, dtype=torch.uint8, device=DEVICE)
    call = {"page_table": batch.table, "out": out, "workspace": workspace} | batch.lens
    refused = [
        ({"page_table": batch.table.cpu()}, "page_table .* is in host memory"),
        ({"kv_lens": batch.lens["kv_lens"].cpu()}, "kv_lens .* is in host memory"),
        ({"out": out.cpu()}, "out .* is in host memory"),
        ({"out": out[:, :7]}, "out.shape"),
    ]
    if plan.workspace_size:
        refused.append(({"workspace": workspace[:-1]}, "workspace has .* bytes"))
        refused.append(({"workspace": None}, "workspace has 0 bytes"))
    for change, message in refused:
        with pytest.raises(octavo.InvalidArgumentError, match=message):
            plan.run(batch.q, batch.k, batch.v, **(call | change))
    assert out.isnan().all()
    plan.run(batch.q, batch.k, batch.v, **call)
    assert_right(out, batch.expected())


@pytest.mark.parametrize("framework", ["cupy", "jax"])
def test_other_frameworks(framework):
    module = pytest.importorskip(framework)
    if framework == "jax":
        with torch.cuda.device(DEVICE):  # its beginning leaves the last device as the current one
            module.devices()
    batch = Batch([5, 1], [9, 40], dtype=torch.float16)
    make = module.from_dlpack if framework == "cupy" else module.dlpack.from_dlpack
    q, k, v, table = (make(x) for x in (batch.q, batch.k, batch.v, batch.table))
    lens = {name: make(x) for name, x in batch.lens.items()}
    torch.cuda.synchronize()
    out = octavo.attention(q, k, v, page_table=table, mask="causal", **lens)
    assert type(out).__module__.partition(".")[0] == type(q).__module__.partition(".")[0]
    if framework == "cupy":
        module.cuda.runtime.deviceSynchronize()
    assert_right(torch.from_dlpack(out), batch.expected())


def test_a_plan_on_the_cpu_refuses_what_is_on_a_gpu():
    batch = Batch([8], [9])
    with pytest.raises(octavo.InvalidArgumentError, match="k is on cuda:0: the plan runs on cpu"):
        octavo.attention(batch.q.cpu(), batch.k, batch.v.cpu(), mask="causal",
                         page_table=batch.table, **batch.lens)  # fmt: skip


def test_explain_and_kernels():
    text = octavo.explain("paged q=f32 hq=4 hkv=2 d=64 q_len=8 kv_len=9", device=DEVICE)
    assert all(kernel in text for kernel in octavo.kernels(DEVICE))
    assert _octavo.kernels(DEVICE) == octavo.kernels(DEVICE)
