"""Pipeline schedules as data: each action once, torch's own order, no deadlock, and the bubbles of the papers."""

from collections import Counter, defaultdict
from itertools import accumulate, pairwise
from types import SimpleNamespace

import pytest
from torch.distributed.pipelining import ScheduleInterleaved1F1B, ScheduleInterleavedZeroBubble

from engine.parallel.pipeline_table import SCHEDULES, Action, forward_table, in_flight, inputs, rounds, table
from engine.parallel.pipeline_time import complete, idle, pairs, timeline, window

SIZES = [(pp, vpp) for pp in (2, 3, 4, 7, 8, 16) for vpp in (1, 2, 3, 4)]
SPLIT = {"interleaved_1f1b": "B", "interleaved_1f1b_warmup": "IW", "zero_bubble": "IW"}


def counts(pp):
    """Numbers of micro-batches: too few, a round, rounds of unequal length, whole rounds."""
    return [1, pp - 1, pp, pp + 1, 2 * pp, 3 * pp - 1]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("pp", "vpp"), SIZES)
def test_each_stage_computes_each_micro_batch_once(schedule, pp, vpp):
    for micro_batches in counts(pp):
        done = Counter(action for actions in table(schedule, pp, vpp, micro_batches) for action in actions)
        expected = {
            Action(stage, kind, micro)
            for stage in range(pp * vpp)
            for kind in "F" + SPLIT[schedule]
            for micro in range(micro_batches)
        }
        assert done.keys() == expected
        assert set(done.values()) == {1}


def run_with_waiting(lists, pp, stages):
    """Run a table in which who sends waits until the other receives: the strictest network; the actions in order."""
    places, done, order = [0] * pp, set(), []
    moved = True
    while moved:
        moved = False
        for rank in range(pp):
            if places[rank] == len(lists[rank]):
                continue
            action = lists[rank][places[rank]]
            if "SEND" in action.kind:
                to = action.stage + (1 if action.kind == "SEND_F" else -1)
                peer, receipt = to % pp, Action(to, action.kind.replace("SEND", "RECV"), action.micro)
                waits = places[peer] == len(lists[peer]) or lists[peer][places[peer]] != receipt
                if not waits:
                    places[rank] += 1
                    places[peer] += 1
                    order += [action, receipt]
            elif "RECV" in action.kind:
                waits = True  # until the sender is there
            else:
                for needed in inputs(action, stages):
                    kind = "RECV_F" if needed.kind == "F" else "RECV_B"
                    own = needed.stage % pp == rank
                    assert (needed if own else Action(action.stage, kind, action.micro)) in done, f"{action} too early"
                waits = False
                places[rank] += 1
                order.append(action)
            done.update(order[-2:])
            moved |= not waits
    assert all(place == len(of) for place, of in zip(places, lists, strict=True)), "a deadlock"
    return order


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("pp", "vpp"), SIZES)
def test_no_order_of_messages_is_a_deadlock_even_where_a_sender_waits(schedule, pp, vpp):
    for micro_batches in counts(pp):
        lists = complete(table(schedule, pp, vpp, micro_batches))
        order = run_with_waiting(lists, pp, pp * vpp)
        assert len(order) == sum(map(len, lists))
        run_with_waiting(complete(forward_table(pp, vpp, micro_batches)), pp, pp * vpp)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("pp", "vpp"), SIZES)
def test_so_many_forwards_wait_for_their_backwards_at_once(schedule, pp, vpp):
    for rank, actions in enumerate(table(schedule, pp, vpp, 6 * pp)):
        steps = ({"F": 1, "B": -1, "I": -1}.get(action.kind, 0) for action in actions)
        assert max(accumulate(steps)) == in_flight(schedule, pp, vpp, rank)


def test_a_deadlock_is_named():
    actions = table("interleaved_1f1b", 2, 1, 2)
    actions[1][0], actions[1][1] = actions[1][1], actions[1][0]
    with pytest.raises(ValueError, match="deadlock: 0B0, 1B0 wait for ever"):
        complete(actions)


@pytest.mark.parametrize(
    ("schedule", "kind"),
    [("interleaved_1f1b", ScheduleInterleaved1F1B), ("zero_bubble", ScheduleInterleavedZeroBubble)],
)
@pytest.mark.parametrize(("pp", "vpp"), SIZES)
def test_the_order_is_that_of_torch(schedule, kind, pp, vpp):
    for micro_batches in counts(pp):
        turns = max(1, micro_batches // pp)
        if micro_batches % turns:
            continue  # torch refuses rounds of unequal length
        own = SimpleNamespace(
            n_local_stages=vpp, microbatches_per_round=micro_batches // turns, pp_group_size=pp,
            _n_microbatches=micro_batches,
        )  # fmt: skip
        for rank, actions in enumerate(table(schedule, pp, vpp, micro_batches)):
            theirs = kind._calculate_single_rank_operations(own, rank)
            assert list(map(str, actions)) == [str(action) for action in theirs if action is not None]


@pytest.mark.parametrize(("pp", "vpp"), SIZES)
def test_bubbles_in_unit_time(pp, vpp):
    """F = 1, B = 2, and I = W = 1 where it is split."""
    for micro_batches in (pp, 2 * pp - 1, 2 * pp, 5 * pp):
        bubble = {
            schedule: idle(timeline(table(schedule, pp, vpp, micro_batches))) * vpp * micro_batches
            for schedule in SCHEDULES
        }
        assert bubble["interleaved_1f1b"] == pytest.approx(pp - 1)
        assert bubble["interleaved_1f1b_warmup"] == pytest.approx(2 * (pp - 1) / 3)
        assert bubble["zero_bubble"] == pytest.approx((pp - 1) / 3)


@pytest.mark.parametrize(("pp", "vpp"), SIZES)
def test_with_the_extra_forward_a_backward_runs_at_once_with_each_forward_after_the_warm_up(pp, vpp):
    for micro_batches in (2 * pp, 2 * pp + 1, 5 * pp):
        given = ("interleaved_1f1b_warmup", pp, vpp, micro_batches)
        times = timeline(table(*given), paired=pairs(*given))
        assert idle(times) * vpp * micro_batches == pytest.approx((2 * pp - 1) / 3)
        spans = defaultdict(list)
        for of in times:
            for timed in of:
                spans[timed.action.stage % pp, timed.start].append(timed.action.kind)
        at_once = sum(kinds == ["F", "I", "W"] for kinds in spans.values())
        assert at_once == len(pairs(*given)) > 0
        first_round = len(rounds(micro_batches, pp)[0])
        alone = (vpp - 1) * first_round + 2 * (pp - 1) + 1
        assert window(*given) == pytest.approx(1 - alone / (vpp * micro_batches))


def test_without_the_extra_forward_forward_and_backward_wait_for_each_other():
    actions = table("interleaved_1f1b", 4, 2, 8)
    turns = [pair for of in actions for pair in pairwise(of) if [action.kind for action in pair] == ["F", "B"]]
    with pytest.raises(ValueError, match="deadlock"):
        timeline(actions, paired=frozenset(forward for forward, _ in turns))
    assert window("interleaved_1f1b", 4, 2, 8) == window("zero_bubble", 4, 2, 8) == 0


def test_uneven_stages_and_slow_messages_lengthen_the_step():
    actions = table("zero_bubble", 4, 1, 8)

    def end(**changes):
        return max(timed.end for of in timeline(actions, **changes) for timed in of)

    assert end() == 27
    assert end(seconds=lambda action: 2.0 if action.stage == 3 else 1.0) > 27
    assert end(hop=0.5) > 27
