"""K2's policy objective: a squared residual between the centred reward and the log-ratio of policies.

For each prompt x, K responses y_i are drawn from the policy at the start of the iteration, and [K2 section 3.2.2]

    L = E_x (1/K) sum_i (r_i - mean r - tau * log(pi(y_i|x) / pi_old(y_i|x)))^2

is minimised. The log-ratio is of the whole response (a sum over its tokens, its end included) and both policies are
taken at the temperature at which the responses were sampled, so that the sampled policy is the one improved.

The loss here is L / (2 tau). The gradients differ by that constant alone: grad L/(2 tau) is
-(1/K) sum_i (r_i - mean r - tau * ratio_i) grad log pi(y_i), K1.5's ascent direction, and so keeps its size when tau
changes, which matters when another loss (PTX) is added to it. Muon normalises its update, so for it this is irrelevant.

Names: N prompts, K responses each.
"""

import torch
from torch import Tensor


def advantages(rewards_NK: Tensor) -> Tensor:
    """Return the reward less the mean over the K responses of the same prompt, without value network or scaling."""
    return rewards_NK - rewards_NK.mean(dim=1, keepdim=True)


def informative(rewards_NK: Tensor) -> Tensor:
    """Return a mask over N: the prompts whose responses differ in reward.

    If all K rewards are equal, the residual is the log-ratio alone: there is nothing to learn, and at the first inner
    step there is no gradient. Such a prompt is left out.
    """
    return rewards_NK.amax(dim=1) > rewards_NK.amin(dim=1)


def squared_objective(
    logprobs_M: Tensor,
    old_logprobs_M: Tensor,
    advantages_M: Tensor,
    counts_M: Tensor,
    tau: float,
    *,
    total: float | Tensor,
) -> Tensor:
    """Return K2's objective over 2 tau; log-probabilities are sums over a response.

    Response m stands for `counts_M` equal draws for the same prompt, with the mean of their advantages: the gradient is
    that of the separate draws, at the cost of one forward (the loss omits the constant spread of advantages within such
    a set, which is zero if the reward is a function of the response). `total` is the number N*K of all draws, by which
    the sum is divided: prompts without signal are left out of M and count as zero in the mean.
    """
    residual_M = advantages_M - tau * (logprobs_M - old_logprobs_M)
    scale = torch.as_tensor(total * 2 * tau, dtype=logprobs_M.dtype, device=logprobs_M.device)
    return (counts_M * residual_M.square()).sum() / scale


def penalised(scores: list[float], truncated: list[bool], penalty: float) -> list[float]:
    """Return rewards under a token budget: a response cut off by it scores nothing and pays `penalty`."""
    return [-penalty if cut else score for score, cut in zip(scores, truncated, strict=True)]


def temperature_at(iteration: int, iterations: int, start: float, end: float) -> float:
    """Return an iteration's sampling temperature, falling from `start` to `end` linearly [K2 section 3.2.2]."""
    return start + (end - start) * iteration / max(iterations - 1, 1)
