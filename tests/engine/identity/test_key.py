"""The stage key: the same for the same parts, another for any other."""

import copy

from hypothesis import given
from hypothesis import strategies as st

from engine.identity.key import KEY_LENGTH, flatten, stage_key

PARTS = {
    "code": {"definitions": {"m.f": "1"}, "files": {}, "catalog": {"d": "2"}, "distributions": {"torch": "2.13.0"}},
    "parameters": {"sft": {"lr": 0.1, "model": {"layers": 2}}},
    "inputs": {"shards": "abc"},
}


def test_key_depends_on_each_part_and_not_on_order() -> None:
    key = stage_key(**PARTS)
    assert len(key) == KEY_LENGTH
    for path in (("code", "definitions", "m.f"), ("code", "distributions", "torch"), ("inputs", "shards")):
        other = copy.deepcopy(PARTS)
        target = other
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = "changed"
        assert stage_key(**other) != key
    other = copy.deepcopy(PARTS)
    other["parameters"]["sft"]["model"]["layers"] = 3
    assert stage_key(**other) != key
    backwards = {name: dict(reversed(list(value.items()))) for name, value in PARTS.items()}
    assert stage_key(**backwards) == key


@given(
    st.dictionaries(
        st.text("abc", min_size=1), st.integers() | st.dictionaries(st.text("abc", min_size=1), st.integers())
    )
)
def test_flatten_keeps_every_leaf(nested: dict[str, object]) -> None:
    leaves = sum(max(len(value), 1) if isinstance(value, dict) else 1 for value in nested.values())
    assert len(flatten(nested)) == leaves
