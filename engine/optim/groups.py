"""Decide which weights Muon updates and which AdamW, for K2 and for other models."""

from collections.abc import Callable

from torch import nn

from engine.errors import UserError
from engine.parallel.ownership import GATE_UP

MuonRule = Callable[[str, nn.Parameter], bool]

HEADS = ("lm_head", "head", "embed_out", "output_projection", "score", "classifier")
"""Names that models give the layer that computes logits, of tokens or of classes."""
DOWN = "down_proj"
"""Name of the stack next to it that leads back: (…, D, F)."""
QK_NORMS = {
    name
    for projection in ("q", "k", "qk", "query", "key")
    for norm in ("norm", "ln", "layernorm", "layer_norm", "rmsnorm", "rms_norm")
    for name in (f"{projection}_{norm}", f"{norm}_{projection}")
}
"""Names of a normalisation of queries or keys after their projection (before it: MLA's `q_a_layernorm`)."""


def is_muon(name: str, parameter: nn.Parameter) -> bool:
    """Return whether Muon updates this weight: at least 2-D, neither embedding nor head (Moonlight's rule)."""
    parts = name.split(".")
    return parameter.ndim >= 2 and parts[0] != "embed_tokens" and (len(parts) < 2 or parts[-2] not in HEADS)


def split(model: nn.Module, rule: MuonRule) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Return the trained weights by name, Muon's and AdamW's; an nn.Embedding's weight, even if tied, is AdamW's.

    Raises UserError if the rule gives Muon a weight that is neither a matrix nor a stack of matrices, or that its name
    says is gate and up together although its rows are odd or its sibling `down_proj` has another layout.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    convolutions = {id(m.weight) for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd)}
    muon, rest = {}, {}
    named = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if not rule(name, parameter) or id(parameter) in embeddings:
            rest[name] = parameter
        elif parameter.ndim not in (2, 3) or id(parameter) in convolutions:
            raise UserError(
                f"MuonClip: {name} has shape {tuple(parameter.shape)}, neither a matrix nor a stack of matrices; "
                "leave it to AdamW with is_muon"
            )
        else:
            if name.endswith(GATE_UP):
                _refuse_other_layout(name, parameter, named)
            muon[name] = parameter
    return muon, rest


def _refuse_other_layout(name: str, gate_up: nn.Parameter, named: dict[str, nn.Parameter]) -> None:
    """Raise UserError if `gate_up` cannot be (…, 2F, D), judged by itself and by a sibling down_proj (…, D, F)."""
    remedy = "so it is not gate above up as the name says; rename it, or leave it to AdamW with is_muon"
    if gate_up.shape[-2] % 2:
        raise UserError(
            f"MuonClip: {name} has shape {tuple(gate_up.shape)}, whose second-to-last axis is odd, {remedy}"
        )
    sibling = name.removesuffix(GATE_UP) + DOWN
    down = named.get(sibling, named.get(f"{sibling}.weight"))
    if down is not None and down.ndim >= 2 and tuple(gate_up.shape[-2:]) != (2 * down.shape[-1], down.shape[-2]):
        raise UserError(
            f"MuonClip: {name} has shape {tuple(gate_up.shape)} beside {sibling} of shape {tuple(down.shape)}, {remedy}"
        )


def refuse_qk_norm(model: nn.Module) -> None:
    """Raise UserError if queries or keys are normalised after their projection, since scaling it has no effect then."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in QK_NORMS and not isinstance(module, nn.Identity):
            raise UserError(
                f"MuonClip: {name} normalises queries or keys after their projection, which undoes QK-Clip (and bounds "
                "the logits by itself); give tau=0"
            )
