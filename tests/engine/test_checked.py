"""What a model refuses is one sentence that names the place, the field and what to write."""

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.checked import checked, suggestion
from engine.errors import UserError


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    width: int
    from_: str = Field("", alias="from")


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["a", "b"] = "a"
    parts: dict[str, Inner] = {}
    rest: list[Inner] = []
    last: Inner | None = None

    @model_validator(mode="after")
    def _has_a_last(self) -> "Outer":
        if self.kind == "b" and not self.last:
            raise ValueError("kind b needs a last part")
        return self


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"kid": "a"}, "the field kid is unknown; did you mean kind?"),
        ({"else": "a"}, "the field else is unknown; choose one of kind, parts, rest, last."),
        ({"parts": {"x": {}}}, "the field parts.x.width is missing; add it."),
        ({"parts": {"kind": {"width": 1, "form": ""}}}, "the field parts.kind.form is unknown; did you mean from?"),
        ({"rest": [{"width": 1}, {"widht": 1}]}, "the field rest.1.width is missing; add it."),
        ({"rest": [{"width": 1, "x": 2}]}, "the field rest.0.x is unknown; choose one of width, from."),
        ({"last": {"width": 1, "x": 2}}, "the field last.x is unknown; choose one of width, from."),
        ({"kind": "c"}, "the field kind is 'c': input should be 'a' or 'b'."),
        ({"kind": "b"}, "kind b needs a last part."),
        ({"parts": {"x": 3}}, "the field parts.x is 3, not names with values; correct it."),
        ({"parts": []}, "the field parts is [], not names with values; correct it."),
        ({"rest": "x"}, "the field rest is 'x', not a list; write one, such as [first, second]."),
        (None, "it is None, not names with values; correct it."),
    ],
)
def test_what_is_wrong_is_one_sentence(content: Any, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        checked(Outer, content, "conf/x.yml")
    assert str(error.value) == f"conf/x.yml: {sentence}"


def test_what_is_right_comes_back_as_an_object() -> None:
    assert checked(Outer, {"last": {"width": 1}}, "conf/x.yml").last == Inner(width=1)


def test_nothing_is_suggested_where_nothing_is_known() -> None:
    assert suggestion("x", []) == "remove it."
