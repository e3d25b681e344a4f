"""torch's function behind our AdamW takes what it is given; its bits are tested in test_muonclip.py."""

import inspect

import torch
from torch.optim.adam import adam

ARGUMENTS = {
    *(
        "params",
        "grads",
        "exp_avgs",
        "exp_avg_sqs",
        "max_exp_avg_sqs",
        "state_steps",
        "fused",
        "decoupled_weight_decay",
    ),
    *("amsgrad", "beta1", "beta2", "lr", "weight_decay", "eps", "maximize"),
}


def test_torch_s_function_takes_these_arguments() -> None:
    known = inspect.signature(adam).parameters
    required = {name for name, one in known.items() if one.default is inspect.Parameter.empty}
    assert required <= ARGUMENTS <= set(known), (
        f"torch {torch.__version__} has another torch.optim.adam.adam than torch 2.13.0: write `AdamW.step` of "
        f"engine/optim/adamw.py anew for {sorted(ARGUMENTS ^ required)}."
    )
    assert list(known)[:6] == ["params", "grads", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs", "state_steps"], (
        "the lists are given by their order"
    )
