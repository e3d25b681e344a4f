"""torch's own Muon beside ours, on the same model."""

import torch

from engine.optim.groups import is_muon
from engine.optim.muon import matrices

IDS = torch.randint(0, 61, (16, 33), generator=torch.Generator().manual_seed(0))


def backward(model, step):
    """Gradients of a language-modelling loss on text that changes with the step."""
    ids = IDS.roll(step, 1)
    torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1).float(), ids[:, 1:].flatten()).backward()


def draw_gradients(model, step):
    """Gaussian gradients: of full rank, as a loss's need not be."""
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def muon_matrices(model, gradients=False):
    """Each matrix that Muon treats apart, 2-D: of the weights, or of their gradients."""
    out = []
    for name, parameter in model.named_parameters():
        if is_muon(name, parameter):
            for part in matrices(name, parameter.grad if gradients else parameter.data):
                out += list(part.unbind())
    return out


class TorchMuon:
    """`torch.optim.Muon` over every single matrix of a model, moving copies of its weights."""

    def __init__(self, model, lr, **settings):
        self.model = model
        self.copies = [torch.nn.Parameter(w.clone()) for w in muon_matrices(model)]
        self.muon = torch.optim.Muon(self.copies, lr=lr, adjust_lr_fn="match_rms_adamw", **settings)

    def step(self):
        """One step by the model's gradients; the movement of each matrix."""
        before = [copy.detach().clone() for copy in self.copies]
        for copy, gradient in zip(self.copies, muon_matrices(self.model, gradients=True)):
            copy.grad = gradient.clone()
        self.muon.step()
        return [copy.detach() - old for copy, old in zip(self.copies, before)]

    def conditions(self):
        """Largest by smallest singular value of what the last step orthogonalised, for each matrix."""
        out = []
        for copy in self.copies:
            average = self.muon.state[copy]["momentum_buffer"]
            mu = self.muon.defaults["momentum"]
            used = torch.lerp(copy.grad, average, mu) if self.muon.defaults["nesterov"] else average
            s = torch.linalg.svdvals(used.double())
            out.append(float(s[0] / s[-1]))
        return out

    def follow(self):
        """Set the copies to the model's weights, so that errors do not add up."""
        for copy, weight in zip(self.copies, muon_matrices(self.model)):
            copy.data.copy_(weight)
