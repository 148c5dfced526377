"""Attention weights as the Web UI reads and applies them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import SMALL

from ti_flax.embedding.conditioning import encode_with_rows
from ti_flax.models.prompt_encoding import SpecialTokens, weighed
from ti_flax.models.prompts.attention_weights import parse_weights, plain_text
from ti_flax.models.prompts.encode import PromptRules, cut_off_note, encode_each, same_length
from ti_flax.models.stable_diffusion import random_stable_diffusion
from ti_flax.models.tokenizer import add_word, encode_prompts

WEIGHING = PromptRules(None, weights=True)
# What a note shows of many times the same word.
RED = f"{'red ' * 10} ... {' red' * 10}"


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a cat", [("a cat", 1)]),
        ("", []),
        ("a (cat) here", [("a ", 1), ("cat", 1.1), (" here", 1)]),
        ("[a cat]", [("a cat", 1 / 1.1)]),
        ("(a:0.5)(b : -2 )(c:+.3)", [("a", 0.5), ("b ", -2), ("c", 0.3)]),
        ("((a) b [c])", [("a", 1.21), (" b ", 1.1), ("c", 1)]),
        ("(a (b:1.5):2)", [("a ", 2), ("b", 3)]),
        (r"a \(b\) \[c\] \\ \d", [(r"a (b) [c] \ d", 1)]),
        # Not closed: at the end of the prompt. Not opened: text.
        ("a (b [c", [("a ", 1), ("b ", 1.1), ("c", 1)]),
        ("a) b] c:1.2)", [("a) b] c:1.2)", 1)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("[a:1.2]", [("a:1.2", 1 / 1.1)]),
        ("a BREAK b, BREAKS", [("a", 1), (None, 1), ("b, BREAKS", 1)]),
    ],
)
def test_prompts_are_taken_apart_as_by_the_web_ui(prompt, parts):
    found = parse_weights(prompt)
    assert [part.text for part in found] == [text for text, _ in parts]
    np.testing.assert_allclose([part.weight for part in found], [weight for _, weight in parts], rtol=1e-12)


def test_the_plain_text_is_what_the_tokenizer_reads():
    assert plain_text(r"a ((red) cat:1.5) BREAK \(b\)") == "a red cat (b)"


def test_weights_go_to_the_tokens_and_to_all_vectors_of_a_word(tokenizer):
    word = add_word(tokenizer, placeholder_token="<my-cat>", num_vectors=2)
    (found,) = encode_each(tokenizer, ["red (<My-Cat>:1.5) [dog]"], WEIGHING)
    plain = encode_prompts(tokenizer, ["red <my-cat> dog"])[0]
    np.testing.assert_array_equal(found.token_ids, plain)
    assert found.token_ids[2] == word.token_ids[0] and not found.cut_off
    expected = [1, 1, 1.5, 1.5, 1 / 1.1, *[1] * 72]
    np.testing.assert_allclose(found.weights, expected, rtol=1e-6)


def test_without_the_option_brackets_are_signs_of_the_prompt(tokenizer):
    prompts = ["a (cat:1.2) \\(b\\)", "red " * 80]
    ids = encode_prompts(tokenizer, prompts)
    found = encode_each(tokenizer, prompts, PromptRules())
    np.testing.assert_array_equal(np.stack([each.token_ids for each in found]), ids)
    assert [(each.weights, each.cut_off) for each in found] == [(None, False), (None, True)]
    assert found[0].read == found[0].tokens < 75
    assert (found[1].read, found[1].tokens, found[1].rest) == (75, 80, " ".join(["red"] * 5))
    # Of a prompt that is cut off at the same place, chunks hold the same.
    (cut,) = encode_each(tokenizer, prompts[1:], PromptRules(1, weights=True))
    np.testing.assert_array_equal(cut.token_ids, ids[1])
    assert cut.cut_off


def test_every_prompt_has_as_many_chunks_as_it_needs(tokenizer):
    prompts = ["cat", "cat BREAK (dog)", "red " * 200, "red " * 300]
    found = encode_each(tokenizer, prompts, WEIGHING)
    assert [len(each.token_ids) // 77 for each in found] == [1, 2, 3, 4]
    assert not any(each.cut_off for each in found)
    limited = encode_each(tokenizer, prompts, PromptRules(2))
    assert [len(each.token_ids) // 77 for each in limited] == [1, 1, 2, 2]
    assert [each.cut_off for each in limited] == [False, False, True, True]
    ids, weights = same_length(tokenizer, found[:2])
    np.testing.assert_array_equal(ids[0], encode_prompts(tokenizer, ["cat"], chunks=2)[0])
    assert weights.shape == (2, 154) and (weights[0] == 1).all() and weights[1, 78] == np.float32(1.1)


def of_the_web_ui(torch, states, weights):
    """Emphasis "Original", for one chunk of one prompt."""
    z = torch.from_numpy(np.array(states))
    before = z.mean()
    z = z * torch.from_numpy(weights)[:, None]
    return (z * (before / z.mean())).numpy()


def test_hidden_states_are_weighed_as_by_the_web_ui():
    """Those of each of SDXL's encoders and each chunk by themselves; what is pooled is not."""
    torch = pytest.importorskip("torch")
    model = random_stable_diffusion(SMALL["sdxl"], seed=0, components=("text_encoder", "text_encoder_2"))
    ids = np.array([[97, 5, 6, 98, 98, 97, 7, 98, 98, 98], [97, 5, 5, 5, 98, 97, 98, 98, 98, 98]], np.int32)
    weights = np.ones(ids.shape, np.float32)
    weights[0, [1, 2, 6]] = 1.5, 0.7, 2.0
    rows = {name: np.ones((1, width), np.float32) for name, width in model.widths.items()}
    given = {"first_added_id": 100, "special": SpecialTokens(98, length=5)}

    @jax.jit
    def encode(weights):
        plain = encode_with_rows(model, model.params, rows, jnp.asarray(ids), **given)
        return plain, encode_with_rows(model, model.params, rows, jnp.asarray(ids), **given, weights=weights)

    plain, found = jax.tree.map(np.asarray, encode(weights))
    begin = 0
    for width in model.widths.values():
        for chunk in (slice(0, 5), slice(5, 10)):
            states, ours = (each.hidden_states[0, chunk, begin : begin + width] for each in (plain, found))
            expected = of_the_web_ui(torch, states, weights[0, chunk])
            np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=1e-5)
            assert np.abs(ours - states).max() > 0.1
        begin += width
    np.testing.assert_allclose(found.hidden_states[1], plain.hidden_states[1], rtol=1e-6)
    np.testing.assert_array_equal(found.pooled, plain.pooled)


def test_a_mean_of_zero_is_left():
    states = jnp.array([[[1.0, -1.0], [2.0, -2.0]]])
    np.testing.assert_array_equal(weighed(states, jnp.array([[1.0, 1.0]])), states)
    np.testing.assert_array_equal(weighed(states, jnp.array([[2.0, 1.0]]))[0, 0], [2, -2])


@pytest.mark.parametrize(
    ("count", "rules", "most", "expected"),
    [
        (75, PromptRules(), 3, ""),
        (76, PromptRules(), 3, "after 75 of its 76 tokens, before 'red'; set n to 150"),
        (76, PromptRules(), None, "after 75 of its 76 tokens, before 'red'; set n to 150"),
        (160, PromptRules(2), 3, f"after 150 of its 160 tokens, before 'red{' red' * 9}'; set n to 225"),
        (226, PromptRules(2), None, f"after 150 of its 226 tokens, before '{RED}'; set n to 300"),
        (
            226,
            PromptRules(2),
            3,
            f"after 150 of its 226 tokens, before '{RED}'; set n to 225, the most, or shorten it",
        ),
        (226, PromptRules(3), 3, "after 225 of its 226 tokens, before 'red'; shorten it"),
    ],
)
def test_a_note_says_what_is_cut_off_and_what_to_do(tokenizer, count, rules, most, expected):
    prompt = ("red " * count).strip()
    note = noted(tokenizer, [prompt], rules, most)
    assert note == (f"x '{RED}' is cut off {expected}" if expected else "")


def test_one_note_counts_the_other_prompts_that_are_cut_off(tokenizer):
    note = noted(tokenizer, ["cat", "cat BREAK dog", "red " * 76, "a BREAK b"], PromptRules(1, True), 3)
    expected = "after 1 of its 2 tokens, before 'dog' (so are 2 more); set n to 150"
    assert note == f"x 'cat BREAK dog' is cut off {expected}"


def noted(tokenizer, prompts, rules, most):
    encoded = encode_each(tokenizer, prompts, rules)
    return cut_off_note(tokenizer, dict.fromkeys(prompts, "x"), encoded, "n", most=most)
