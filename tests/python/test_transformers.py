"""transformers on Octavo: tiny random models, against transformers' own attention."""

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

import tiny_models  # noqa: E402
from tiny_models import CLOSE, DEVICE, generated, logits, models  # noqa: E402

import octavo  # noqa: E402
import octavo.transformers  # noqa: E402
from octavo.transformers import Mask  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTHS = {"left": [19, 11, 3], "right": [19, 11, 3], "none": [19, 19]}


@pytest.mark.parametrize("side", LENGTHS)
@pytest.mark.parametrize("name", tiny_models.CONFIGS)
def test_logits_of_a_batch(name, side):
    plain, on_octavo = models(name)
    inputs = tiny_models.batch(LENGTHS[side], side)
    seen = inputs["attention_mask"].bool()
    expected, actual = logits(plain, inputs), logits(on_octavo, inputs)
    torch.testing.assert_close(actual[seen], expected[seen], **CLOSE)


@pytest.mark.parametrize("cache", ["dynamic", "all keys", "static", "none"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "gpt-oss", "llama4"])
def test_generation(name, cache):
    if (name, cache) == ("llama4", "static"):
        pytest.skip("transformers' generate fails there on any attention")
    plain, on_octavo = models(name)
    inputs = tiny_models.batch(LENGTHS["left"])
    options = {
        "dynamic": {},
        "all keys": {"past_key_values": transformers.DynamicCache()},  # in layers with a window too
        "static": {"cache_implementation": "static"},
        "none": {"use_cache": False},
    }[cache]
    expected, actual = generated(plain, inputs), generated(on_octavo, inputs, **options)
    assert torch.equal(actual[0], expected[0])
    torch.testing.assert_close(actual[1], expected[1], **CLOSE)


def test_queries_after_cached_keys():
    plain, on_octavo = models("gemma3")
    inputs = tiny_models.batch([19, 11])
    position_ids = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    results = []
    for model in (plain, on_octavo):
        cache = transformers.DynamicCache(config=model.config)
        for begin, end in [(0, 9), (9, 12), (12, 19)]:
            with torch.no_grad():
                out = model(
                    input_ids=inputs["input_ids"][:, begin:end],
                    attention_mask=inputs["attention_mask"][:, :end],
                    position_ids=position_ids[:, begin:end],
                    past_key_values=cache,
                )
        results.append(out.logits)
    torch.testing.assert_close(results[1], results[0], **CLOSE)


def test_beams():
    plain, on_octavo = models("gemma3")
    inputs = tiny_models.batch(LENGTHS["left"])
    sequences = [
        m.generate(**inputs, max_new_tokens=8, num_beams=3, do_sample=False) for m in (plain, on_octavo)
    ]
    assert torch.equal(*sequences)


def test_sequences_packed_in_one_row():
    plain, on_octavo = models("llama")
    inputs = {
        "input_ids": tiny_models.batch([19])["input_ids"],
        "position_ids": torch.tensor([[*range(8), *range(11)]], device=DEVICE),
        "use_cache": False,
    }
    with torch.no_grad():
        torch.testing.assert_close(on_octavo(**inputs).logits, plain(**inputs).logits, **CLOSE)


def test_a_mask_of_the_callers_own():
    plain, on_octavo = models("llama")
    generator = torch.Generator().manual_seed(3)
    seen = torch.rand((2, 1, 19, 19), generator=generator) < 0.5
    seen = (seen | torch.eye(19, dtype=torch.bool)).to(DEVICE)
    hidden = torch.zeros(seen.shape, device=DEVICE).masked_fill(~seen, torch.finfo(torch.float32).min)
    ids = tiny_models.batch([19, 19])["input_ids"]
    with torch.no_grad():
        expected = plain(input_ids=ids, attention_mask=hidden).logits
        for mask in (seen, hidden, hidden.masked_fill(~seen, -torch.inf)):
            actual = on_octavo(input_ids=ids, attention_mask=mask).logits
            torch.testing.assert_close(actual, expected, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_loses_no_more_than_in_transformers_own_attention(dtype):
    exact = models("llama")[0]
    inputs = tiny_models.batch([19, 11])
    seen = inputs["attention_mask"].bool()
    expected = logits(exact, inputs)[seen]
    errors = [
        (logits(tiny_models.model("llama", attention, dtype), inputs)[seen] - expected).square().mean()
        for attention in ("octavo", "sdpa")
    ]
    assert 0 < errors[0] < 1.2 * errors[1]


def test_encoders():
    config = transformers.BertConfig(
        vocab_size=97, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, initializer_range=0.2,
    )  # fmt: skip
    results = []
    inputs = tiny_models.batch([19, 11, 3], "right")
    for attention in ("eager", "octavo"):
        torch.manual_seed(7)
        model = transformers.BertModel._from_config(config, attn_implementation=attention).eval()
        with torch.no_grad():
            results.append(model.to(DEVICE)(**inputs).last_hidden_state)
    torch.testing.assert_close(results[1], results[0], **CLOSE)


def mask_of(**changes):
    return octavo.transformers.mask(**{"batch_size": 2, "q_length": 8, "kv_length": 8} | changes)


def test_masks_that_have_a_word():
    from transformers.masking_utils import (
        bidirectional_mask_function,
        chunked_causal_mask_function,
        sliding_window_bidirectional_mask_function,
        sliding_window_causal_mask_function,
    )

    padding = torch.tensor([[True] * 8, [False] * 3 + [True] * 5])
    assert mask_of().word == "causal"
    assert mask_of(q_offset=5, kv_length=13).word == "causal"
    window = sliding_window_causal_mask_function(3)
    assert mask_of(mask_function=window, local_size=3).word == "window:2,0"
    assert mask_of(mask_function=window, local_size=3, attention_mask=padding).word == "window:2,0"
    assert mask_of(mask_function=sliding_window_causal_mask_function(8), local_size=8).word == "causal"
    both = sliding_window_bidirectional_mask_function(3)
    assert mask_of(mask_function=both, local_size=3).word == "window:3,3"
    chunks = chunked_causal_mask_function(3, torch.tensor([0, 3]))
    mask = mask_of(mask_function=chunks, local_size=3, attention_mask=padding)
    assert mask.word == "chunked:3"
    assert [(span.start, span.stop, span.rows) for span in mask.spans] == [(0, 8, 8), (3, 8, 8)]
    assert mask_of(mask_function=bidirectional_mask_function) is None


def test_masks_that_have_none_stay_tensors():
    from transformers.masking_utils import sdpa_mask, sliding_window_causal_mask_function

    window = sliding_window_causal_mask_function(3)
    holes = torch.tensor([[True, False] * 4, [True] * 8])
    odd = lambda b, h, q, kv: (kv <= q) & (kv != 2)  # noqa: E731
    for changes in (
        {"mask_function": window},  # not told its size
        {"mask_function": window, "local_size": 4},  # told a wrong one
        {"mask_function": odd},
        {"attention_mask": holes},
        {"allow_is_causal_skip": False},
        {"q_offset": torch.tensor(0)},
    ):
        mask = mask_of(**changes)
        assert not isinstance(mask, Mask)
        sizes = {"batch_size": 2, "q_length": 8, "kv_length": 8, "allow_is_causal_skip": False}
        assert torch.equal(mask, sdpa_mask(**sizes | changes | {"allow_is_causal_skip": False}))


def call(**changes):
    q, kv = torch.zeros(2, 4, 5, 16), torch.zeros(2, 2, 5, 16)
    arguments = {"query": q, "key": kv, "value": kv, "attention_mask": None} | changes
    return octavo.transformers.attention(torch.nn.Module(), **arguments)[0]


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"dropout": 0.1}, "dropout=0.1"),
        ({"output_attentions": True}, "output_attentions=True"),
        ({"position_bias": torch.zeros(1, 4, 5, 5)}, "position_bias"),
        ({"cu_seq_lens_q": torch.tensor([0, 5])}, "cu_seq_lens_q"),
        ({"attention_mask": torch.full((2, 1, 5, 5), -1.0)}, "adds numbers to the scores"),
        ({"attention_mask": torch.ones(2, 4, 5, 5, dtype=torch.bool)}, "a mask for each head"),
        ({"attention_mask": torch.ones(2, 1, 5, 4, dtype=torch.bool)}, r"must be \[2 or 1, 1, 5, 5\]"),
        ({"query": torch.zeros(2, 4, 3, 16)}, "3 causal queries of 5 keys"),
        ({"is_causal": False, "sliding_window": 2}, "sliding_window=2"),
        ({"query": torch.zeros(2, 4, 5, 16, requires_grad=True)}, "requires a gradient"),
    ],
)
def test_what_is_refused(changes, reason):
    with pytest.raises(octavo.Error, match=reason):
        call(**changes)


def test_what_needs_no_mask():
    assert call().shape == (2, 5, 4, 16)
    assert call(is_causal=False, sliding_window=5).shape == (2, 5, 4, 16)
    assert call(position_ids=torch.arange(5), position_bias=None).shape == (2, 5, 4, 16)
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, 5, 16)
    window = call(query=q, key=k, value=v, sliding_window=2)
    last = call(query=q[..., 4:, :], key=k[..., 3:, :], value=v[..., 3:, :])
    # One row may be summed in another order than five: only `invariant` plans promise equal bits.
    torch.testing.assert_close(window[0, 4], last[0, 0], atol=1e-6, rtol=0)


def test_attentions_that_do_not_know_octavos_masks_fail():
    with pytest.raises(TypeError):
        torch.zeros(2, 4, 8, 8) + mask_of()
    with pytest.raises(TypeError):
        torch.nn.functional.scaled_dot_product_attention(*torch.zeros(3, 2, 4, 8, 16), mask_of())
