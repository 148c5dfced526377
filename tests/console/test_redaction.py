"""What is secret in a text, and what is not."""

import pytest

from ti_flax.errors import redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("401 for hf_abcDEF123 here", "401 for *** here"),
        ("{'authorization': 'Bearer xyz-1'}", "{'authorization': 'Bearer ***"),
        ("at https://me:pass@host/a/b?", "at https://***@host/a/b?"),
        ("put https://host/a?X-Signature=1&b=2 failed", "put https://host/a?*** failed"),
        ("('https://host/a?key=1', 3)", "('https://host/a?***', 3)"),
        ("my own secret", "my own ***"),
        ("me/thing: is it? yes, hf_x", "me/thing: is it? yes, hf_x"),
    ],
)
def test_secrets_go_and_the_rest_stays(text, shown):
    assert redacted(text, "secret", None, "") == shown
