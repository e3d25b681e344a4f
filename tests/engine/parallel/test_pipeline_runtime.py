"""What torch's runtime wraps comes out as it was raised, and its log of the whole table stays out of the way."""

import logging

import pytest

from engine.errors import UserError
from engine.parallel.data import RankLost
from engine.parallel.pipeline_runtime import _own_errors


def wrapped(error):
    """Raise as torch's stages do: with the shapes of their tensors, from what went wrong; twice, as nested ones do."""
    try:
        try:
            raise error
        except Exception as inner:
            raise RuntimeError("[Stage 1] failed to run forward: args: ('Tensor(torch.Size([2, 3]))',)") from inner
    except RuntimeError as outer:
        raise RuntimeError("Failed to run stage backward") from outer


@pytest.mark.parametrize("error", [UserError("the file is gone"), RankLost("rank 0: another rank is gone")], ids=repr)
def test_an_error_of_ours_is_raised_itself(error):
    with pytest.raises(type(error), match=f"^{error}$"), _own_errors():
        wrapped(error)


def test_a_defect_keeps_torchs_words_and_its_cause():
    with pytest.raises(RuntimeError, match="Failed to run stage backward") as caught, _own_errors():
        wrapped(KeyError("weight"))
    assert isinstance(caught.value.__cause__.__cause__, KeyError)


def test_torchs_log_is_silent_within_and_as_before_after():
    log = logging.getLogger("torch.distributed.pipelining.schedules")
    before = log.disabled
    with _own_errors():
        assert log.disabled
    assert log.disabled == before
