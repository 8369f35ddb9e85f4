"""octavo.transformers.PagedCache, against transformers' own attention and cache."""

import gc
import random
import re
import runpy
import weakref
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

import tiny_models  # noqa: E402
from tiny_models import CLOSE, DEVICE, batch, generated, logits, models  # noqa: E402

import octavo  # noqa: E402
from octavo.transformers import PagedCache  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def cache_of(model, **changes):
    return PagedCache(model, **{"pages": 64, "page_size": 4} | changes)


def followed(sequences, inputs, lengths, seed):
    """A batch that goes on where another ended: what it read and wrote, and new tokens."""
    more = batch(lengths, seed=seed)
    written = sequences.shape[1] - inputs["attention_mask"].shape[1]
    seen = torch.nn.functional.pad(inputs["attention_mask"], (0, written), value=1)
    return {
        "input_ids": torch.cat([sequences, more["input_ids"]], dim=1),
        "attention_mask": torch.cat([seen, more["attention_mask"]], dim=1),
    }


def assert_same(actual, expected):
    assert torch.equal(actual[0], expected[0])
    torch.testing.assert_close(actual[1], expected[1], **CLOSE)


@pytest.mark.parametrize("name", tiny_models.CONFIGS)
def test_generation_with_prefixes_from_earlier_calls(name):
    plain, paged = models(name)
    cache = cache_of(paged)
    inputs = batch([19, 11])
    assert cache.start(**inputs) == 0
    expected = generated(plain, inputs)
    assert_same(generated(paged, inputs, past_key_values=cache), expected)

    going_on = followed(expected[0], inputs, [5, 5], seed=1)
    # Of the 19 + 7 and 11 + 7 tokens that have keys, whole pages: 24 and 16, after 8 of padding.
    assert cache.start(**going_on) == 24
    assert_same(generated(paged, going_on, past_key_values=cache), generated(plain, going_on))

    alone = {key: value[:1] for key, value in inputs.items()}
    assert cache.start(**alone) == 16
    assert_same(generated(paged, alone, past_key_values=cache), generated(plain, alone))


@pytest.mark.parametrize("page_size", [1, 7, 16])
def test_page_sizes(page_size):
    plain, paged = models("gemma3")
    inputs = batch([19, 11, 3])
    cache = cache_of(paged, pages=128, page_size=page_size)
    for _ in range(2):
        cache.start(**inputs)
        assert_same(generated(paged, inputs, past_key_values=cache), generated(plain, inputs))


def test_without_a_start_nothing_is_left_out():
    plain, paged = models("gpt-oss")
    cache = cache_of(paged)
    for side in ("left", "right"):
        inputs = batch([19, 11, 3], side)
        seen = inputs["attention_mask"].bool()
        actual = logits(paged, inputs, past_key_values=cache)
        torch.testing.assert_close(actual[seen], logits(plain, inputs)[seen], **CLOSE)
        cache.reset()


def test_all_columns_after_the_cached_ones_are_computed():
    plain, paged = models("gemma3")
    cache = cache_of(paged)
    first = batch([16])
    cache.start(**first)
    logits(paged, first, past_key_values=cache)
    inputs = {key: value.repeat(2, 1) for key, value in first.items()}
    inputs["input_ids"][1, 6:] = 5  # one page is known of this row, three of the other
    begin = cache.start(**inputs)
    assert begin == 4
    with torch.no_grad():
        actual = paged(
            input_ids=inputs["input_ids"][:, begin:],
            attention_mask=inputs["attention_mask"],
            position_ids=torch.arange(begin, 16, device=DEVICE).expand(2, -1),
            past_key_values=cache,
        ).logits
    torch.testing.assert_close(actual, logits(plain, inputs)[:, begin:], **CLOSE)


def test_batches_at_random_in_few_pages():
    plain, paged = models("gemma3")
    cache = cache_of(paged, pages=34)
    chance = random.Random(1)
    beginnings = [[chance.randrange(2, 96) for _ in range(40)] for _ in range(3)]
    columns = full = 0
    for _ in range(15):
        prompts = [
            chance.choice(beginnings)[: chance.randrange(1, 40)]
            + [chance.randrange(2, 96) for _ in range(chance.randrange(1, 9))]
            for _ in range(chance.randrange(1, 4))
        ]
        longest = max(map(len, prompts))
        padded = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
        ids = torch.tensor(padded, device=DEVICE)
        inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
        columns += cache.start(**inputs)
        tokens = chance.randrange(1, 8)
        try:
            actual = generated(paged, inputs, tokens, past_key_values=cache)
        except octavo.CacheFullError:
            full += 1
        else:
            assert_same(actual, generated(plain, inputs, tokens))
    assert columns > 0 and full < 5
    assert all(statistics.evictions > 0 for statistics in cache.statistics().values())


def test_salts():
    paged = models("llama")[1]
    cache = cache_of(paged)
    inputs = batch([19])
    cache.start(**inputs, salt="one adapter")
    generated(paged, inputs, past_key_values=cache)
    assert cache.start(**inputs, salt="another") == 0
    assert cache.start(**inputs, salt="one adapter") == 16


def test_tokens_given_as_embeddings():
    plain, paged = models("llama")
    inputs = batch([19, 11])
    embedded = inputs | {"inputs_embeds": plain.get_input_embeddings()(inputs["input_ids"]).detach()}
    del embedded["input_ids"]
    cache = cache_of(paged)
    expected, actual = generated(plain, embedded), generated(paged, embedded, past_key_values=cache)
    assert_same(actual, expected)
    assert cache.start(**inputs) == 0  # nobody knows which tokens they were


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 4}])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_beams_share_pages(name, options):
    plain, paged = models(name)
    inputs = batch([19, 11])
    options = {"max_new_tokens": 8, "do_sample": False} | options
    cache = cache_of(paged, pages=100)
    expected = plain.generate(**inputs, **options)
    assert torch.equal(paged.generate(**inputs, past_key_values=cache, **options), expected)
    statistics = cache.statistics()["causal"]
    assert statistics.copies > 0
    assert statistics.in_use < sum(options["num_beams"] * ((n + 8) // 4) for n in (19, 11))


def test_prefill_in_chunks():
    plain, paged = models("gpt-oss")
    inputs = batch([19, 11])
    cache = cache_of(paged)
    cache.start(**inputs)
    actual = generated(paged, inputs, past_key_values=cache, prefill_chunk_size=5)
    assert_same(actual, generated(plain, inputs))


def test_drafts_that_are_taken_back():
    plain, paged = models("gemma3")
    inputs = batch([19])
    inputs["input_ids"][0, 9:18] = inputs["input_ids"][0, :9]  # so that there is something to look up
    cache = cache_of(paged)
    cache.start(**inputs)
    actual = generated(paged, inputs, past_key_values=cache, prompt_lookup_num_tokens=3)
    assert torch.equal(actual[0], generated(plain, inputs)[0])


def test_crop():
    plain, paged = models("llama")
    inputs = batch([19, 11])
    cache = cache_of(paged)
    logits(paged, inputs, past_key_values=cache)
    cache.crop(-5)
    assert cache.get_seq_length() == 14
    assert_same(generated(paged, inputs, past_key_values=cache), generated(plain, inputs))


def test_a_crop_that_is_refused_changes_nothing():
    plain, paged = models("gemma3")
    inputs = batch([4, 19])
    cache = cache_of(paged)
    position_ids = tiny_models.position_ids(inputs["attention_mask"])
    for columns in (slice(0, 17), slice(17, 18)):
        with torch.no_grad():
            paged(
                input_ids=inputs["input_ids"][:, columns],
                attention_mask=inputs["attention_mask"][:, : columns.stop],
                position_ids=position_ids[:, columns],
                past_key_values=cache,
            )
    with pytest.raises(octavo.InvalidArgumentError, match="tokens=8"):
        cache.crop(-10)
    assert cache.get_seq_length() == 18
    assert_same(generated(paged, inputs, past_key_values=cache), generated(plain, inputs))


def test_rows_that_are_chosen_and_repeated():
    plain, paged = models("gemma3")
    inputs = batch([19, 11, 3])
    cache = cache_of(paged)
    shorter = {key: value[:, :-1] for key, value in inputs.items()}
    logits(paged, shorter, past_key_values=cache)
    cache.batch_select_indices(torch.tensor([2, 0]))
    cache.batch_repeat_interleave(2)
    assert cache.batch_size == 4
    chosen = {key: value[[2, 2, 0, 0]] for key, value in inputs.items()}
    assert_same(generated(paged, chosen, past_key_values=cache), generated(plain, chosen))


class Rounded(transformers.DynamicCache):
    """What pages of bf16 keep."""

    def update(self, key_states, value_states, *args, **kwargs):
        rounded = (x.bfloat16().float() for x in (key_states, value_states))
        return super().update(*rounded, *args, **kwargs)


def test_pages_of_another_dtype():
    plain, paged = models("llama")
    inputs = batch([19, 11])
    exact = generated(plain, inputs)[1]
    rounded = generated(plain, inputs, past_key_values=Rounded(config=plain.config))[1]
    actual = generated(paged, inputs, past_key_values=cache_of(paged, dtype=torch.bfloat16))[1]
    error, own_error = ((x - exact).square().mean() for x in (actual, rounded))
    assert 0 < error < 1.2 * own_error


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_loses_no_more_than_in_transformers_own_attention(dtype):
    inputs = batch([19, 11])
    seen = inputs["attention_mask"].bool()
    exact = logits(models("llama")[0], inputs)[seen]
    paged, plain = (tiny_models.model("llama", attention, dtype) for attention in ("octavo", "sdpa"))
    actual = logits(paged, inputs, past_key_values=cache_of(paged))[seen]
    error, own_error = ((x - exact).square().mean() for x in (actual, logits(plain, inputs)[seen]))
    assert 0 < error < 1.2 * own_error


def test_pages_that_no_later_query_sees_are_given_back():
    paged = models("gemma3")[1]
    inputs = batch([19])
    cache = cache_of(paged)
    generated(paged, inputs, tokens=40, past_key_values=cache)
    statistics = cache.statistics()
    assert statistics["causal"].in_use == 15  # of 58 tokens
    assert statistics["window:5,0"].in_use <= 3
    cache.reset()
    assert all(s.in_use == 0 and s.requests == 0 for s in cache.statistics().values())


def test_what_does_not_fit_changes_nothing():
    plain, paged = models("gemma3")
    cache = cache_of(paged, pages=12)
    with pytest.raises(octavo.CacheFullError) as error:
        logits(paged, batch([30, 30, 30]), past_key_values=cache)
    assert error.value.missing == 24 - 12
    inputs = batch([19, 11])
    cache.start(**inputs)
    with pytest.raises(octavo.CacheFullError) as error:
        generated(paged, inputs, tokens=30, past_key_values=cache)
    assert error.value.missing == 2  # one for each row
    assert cache.get_seq_length() == 28
    cache.crop(-1)
    longer = generated(plain, inputs, tokens=12)[0][:, :28]
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 9), value=1)
    inputs = {"input_ids": longer, "attention_mask": mask}
    assert_same(generated(paged, inputs, 1, past_key_values=cache), generated(plain, inputs, 1))


def test_a_shared_page_outlives_a_step_that_did_not_fit():
    plain, paged = models("llama")
    inputs = batch([6])
    cache = cache_of(paged, pages=4)
    logits(paged, {key: value[:, :5] for key, value in inputs.items()}, past_key_values=cache)
    cache.batch_repeat_interleave(2)
    inputs = {key: value.repeat(2, 1) for key, value in inputs.items()}
    too_much = followed(inputs["input_ids"], inputs, [3, 3], seed=2)
    with pytest.raises(octavo.CacheFullError):
        generated(paged, too_much, past_key_values=cache)
    assert cache.statistics()["causal"].copies == 1  # the first row had its own page already
    assert_same(generated(paged, inputs, 3, past_key_values=cache), generated(plain, inputs, 3))


def test_a_call_that_failed_can_be_repeated():
    plain, paged = models("gemma3")
    inputs = batch([19, 11])
    cache = cache_of(paged)
    cache.start(**inputs)

    def fail(*_):
        raise KeyboardInterrupt

    handle = paged.model.layers[2].register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        generated(paged, inputs, past_key_values=cache)
    handle.remove()
    assert_same(generated(paged, inputs, past_key_values=cache), generated(plain, inputs))


def test_the_model_does_not_keep_the_cache():
    paged = models("llama")[1]
    gc.collect()
    hooks = len(paged._forward_pre_hooks)
    cache = cache_of(paged)
    assert len(paged._forward_pre_hooks) == hooks + 1
    known = weakref.ref(cache)
    del cache
    gc.collect()
    assert known() is None
    assert len(paged._forward_pre_hooks) == hooks


def paged():
    return models("llama")[1]


def two_rows(**changes):
    return batch([19, 11]) | changes


def longer(**changes):
    return followed(two_rows()["input_ids"], two_rows(), [2, 1], seed=1) | changes


def call_after_start(given):
    cache = cache_of(paged())
    cache.start(**two_rows())
    logits(paged(), given, past_key_values=cache)


def generate_after_a_call(given):
    cache = cache_of(paged())
    logits(paged(), two_rows(), past_key_values=cache)
    generated(paged(), given, past_key_values=cache)


REFUSALS = {
    "other tokens than started": (
        lambda: call_after_start(two_rows(input_ids=two_rows()["input_ids"] + 1)),
        "differ from those given to start",
    ),
    "another padding than started": (
        lambda: call_after_start(two_rows(attention_mask=torch.ones(2, 19))),
        "differ from those given to start",
    ),
    "another batch than started": (lambda: call_after_start(batch([19])), "the batch has 1 rows"),
    "another padding than before": (
        lambda: generate_after_a_call(longer(attention_mask=torch.ones(2, 21))),
        "attention_mask differs from before",
    ),
    "padding between tokens": (lambda: generate_after_a_call(longer()), "padding between tokens"),
    "a mask for the new tokens alone": (
        lambda: paged()(
            input_ids=two_rows()["input_ids"],
            attention_mask=torch.ones(2, 18),
            past_key_values=cache_of(paged()),
        ),
        r"attention_mask has the shape \(2, 18\): must be \[2, 19\]",
    ),
    "a mask of one's own": (
        lambda: paged()(
            input_ids=two_rows()["input_ids"],
            attention_mask=torch.ones(2, 1, 19, 19, dtype=torch.bool).tril(),
            past_key_values=cache_of(paged()),
        ),
        "attention_mask: pages need one of",
    ),
    "a module inside the model": (
        lambda: paged().model(**two_rows(), past_key_values=cache_of(paged())),
        "call the module that the cache was made for",
    ),
    "a gradient": (
        lambda: paged()(**two_rows(), past_key_values=cache_of(paged())),
        "requires a gradient",
    ),
    "another attention": (lambda: cache_of(models("llama")[0]), 'attn_implementation="eager"'),
    "fp8": (lambda: cache_of(paged(), dtype=torch.float8_e4m3fn), "dtype=torch.float8_e4m3fn"),
    "no pages": (lambda: cache_of(paged(), pages=0), "pages=0"),
    "cropping to a length": (lambda: cache_of(paged()).crop(3), "tokens_to_remove=3"),
    "shapes that differ": (
        lambda: cache_of(paged()).start(two_rows()["input_ids"], torch.ones(1, 19)),
        r"have the shapes \(2, 19\) and \(1, 19\)",
    ),
    "ids that are no int32": (
        lambda: cache_of(paged()).start(torch.tensor([[1, 2], [3, 2**31]])),
        "prompt has 2147483648",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_refused(name):
    call, reason = REFUSALS[name]
    with pytest.raises(octavo.Error, match=reason):
        call()


@pytest.mark.parametrize(
    "config, reason",
    [
        ({"layer_types": ["linear_attention"] * 4}, "layer_types has 'linear_attention'"),
        ({"num_kv_shared_layers": 2}, "num_kv_shared_layers=2"),
        ({"is_encoder_decoder": True}, "an encoder and a decoder"),
    ],
)
def test_models_that_are_refused(config, reason):
    model = tiny_models.model("llama", "octavo")
    for name, value in config.items():
        setattr(model.config, name, value)
    with pytest.raises(octavo.UnsupportedError, match=reason):
        cache_of(model)


def test_a_config_that_contradicts_the_mask_is_refused():
    model = tiny_models.model("mistral", "octavo")
    model.config.sliding_window = 3
    cache = cache_of(model)
    model.config.sliding_window = 5
    reason = "mask=window:4,0: the model's config says window:2,0"
    with pytest.raises(octavo.UnsupportedError, match=reason):
        logits(model, batch([19]), past_key_values=cache)


def test_the_example_of_the_documentation(capsys):
    text = (Path(__file__).parents[2] / "docs/transformers.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(example, "docs/transformers.md", "exec"), {})
    assert "0 of 53 columns were cached\n80 of 96 columns were cached" in capsys.readouterr().out


def test_the_example_script(monkeypatch, capsys):
    script = Path(__file__).parents[2] / "examples/generate_transformers.py"
    monkeypatch.setattr("sys.argv", [str(script)])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(script), run_name="__main__")
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    assert "368 of 403 columns were cached" in printed
    assert printed.endswith("the same tokens\n")
