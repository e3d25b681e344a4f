"""AdamW through DeepSpeed's ZeRO: optimizer state, and with stage 2 gradients, divided among the ranks, or on the CPU.

The model stays whole on every rank and is trained by the same loop. The state has the names and shapes of MuonClip's
for AdamW alone, so either goes on from a checkpoint of the other, at any number of ranks. QK-Clip is ours.

What DeepSpeed does and does not do for us: docs/deepspeed.md.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from engine.errors import UserError
from engine.optim.adamw import STATE
from engine.optim.deepspeed_zero import PartitionedGradients, initialized, refuse
from engine.optim.muonclip import MuonClip
from engine.optim.qk_clip import ClipPer
from engine.optim.whole_rows import WholeRows
from engine.parallel import data
from engine.parallel.flat import Flat
from engine.parallel.gradients import Gradients
from engine.parallel.placement import COUNT, Placement, in_ranges
from kernels.host import to_host

EPS = 1e-8


class DeepSpeedAdamW(MuonClip):
    """MuonClip that moves every weight by AdamW, through ZeRO of this `stage` (1 or 2), with `offload` on the CPU.

    `step` expects that `gradients` has reduced the gradients. Raises UserError if DeepSpeed is not installed, if
    weights are narrower than fp32, or if the mesh's layout is not plain data parallelism.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        *,
        stage: int,
        offload: bool,
        weight_decay: float = 0.1,
        tau: float = 100.0,
        clip_per: ClipPer = "head",
        adamw_lr_factor: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        refuse(model)
        super().__init__(
            model, lr, weight_decay=weight_decay, tau=tau, clip_per=clip_per, adamw_lr_factor=adamw_lr_factor,
            betas=betas, is_muon=lambda *_: False,
        )  # fmt: skip
        weights = torch.optim.AdamW(self.rest.values(), lr, betas, EPS, weight_decay, fused=True)
        self.engine, self.zero = initialized(model, weights, stage, offload)
        self.part: Tensor = self.zero.single_partition_of_fp32_groups[0]
        """This rank's partition of the weights, which AdamW moves."""
        shapes = {name: tuple(p.shape) for name, p in self.rest.items()}
        self.flat = Flat(shapes, int(self.zero.partition_size[0]), data.ranks().size)
        if self.zero.round_robin_bit16_offsets[0] != list(self.flat.starts.values()):
            raise RuntimeError("DeepSpeed lays the weights into its vector otherwise than version 0.19.8 does")
        self.rows = WholeRows(self.flat)
        self._partitioned = PartitionedGradients(self.zero, list(self.rest.values()), stage, offload)
        self._outdated = False

    @property
    def gradients(self) -> Gradients:
        """What reduces the gradients before a step."""
        return self._partitioned

    def _move(self, gradients: Mapping[str, Tensor]) -> None:
        self.set_lr(self.lr)
        self._take_in_weights()
        group = self.zero.optimizer.param_groups[0]
        group["lr"], group["weight_decay"] = self.adamw.lr, self.adamw.weight_decay
        self.zero.step()
        if self.zero.overflow:
            raise RuntimeError("DeepSpeed skipped a step whose gradient the loop's guard had found to be finite")

    def _clip(self) -> int:
        clipped = super()._clip()
        self._outdated = clipped > 0
        return clipped

    def _take_in_weights(self) -> None:
        """Copy the model's weights into this rank's partition if they have changed beside DeepSpeed."""
        if self._outdated:
            with torch.no_grad():
                self.part.copy_(self.zero.parallel_partitioned_bit16_groups[0][data.ranks().rank])
            self._outdated = False

    def zero_grad(self) -> None:
        """Drop all gradients, reduced or not."""
        self._partitioned.drop()

    def forget(self) -> None:
        """Set the moments to their initial state."""
        self.zero.optimizer.state.clear()

    def placement(self, name: str, of_weight: Placement) -> Placement:
        """Return how a tensor of the state lies on the ranks."""
        kind, _, rest = name.partition("/")
        if kind != "adamw" or name.endswith(COUNT):
            return of_weight
        return in_ranges(of_weight, self.flat.ranges(rest.rpartition("/")[0]))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state by weight name, of moments this rank's rows; all ranks call this together.

        `adamw/NAME/…` once a step was made; `clipped`: steps made, first and last clipped.
        """
        out = {"clipped": torch.tensor([self.steps, self.first_clipped, self.last_clipped])}
        state = self.zero.optimizer.state.get(self.part, {})
        for key in STATE if state else ():
            if key == "step":
                out |= {f"adamw/{name}/{key}": state[key] for name in self.rest}
            else:
                out |= {f"adamw/{name}/{key}": rows for name, rows in self.rows.taken_from(state[key]).items()}
        return out

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load a `state_dict`; the weights are taken from the model at the next step. All ranks call this together.

        Raises UserError, with nothing changed, naming what is missing, foreign, or of another shape or type.
        """
        moments = self._checked(state)
        self.steps, self.first_clipped, self.last_clipped = to_host(state["clipped"])[0].tolist()
        self.zero.optimizer.state.clear()
        self._outdated = True
        if not moments:
            return
        own = self.zero.optimizer.state[self.part] = {}
        for key in STATE[:2]:
            rows = {name: state[f"adamw/{name}/{key}"] for name in moments}
            own[key] = self.rows.put_together(rows, self.part)
        own["step"] = state[f"adamw/{next(iter(self.rest))}/step"].to(self.part.device, copy=True)

    def _checked(self, state: Mapping[str, Tensor]) -> list[str]:
        """Return the names of the weights of which this rank has rows with moments; refuse what does not fit."""
        owned = [name for name in self.rest if self.flat.rows(name, data.ranks().rank)]
        expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {"clipped": (torch.int64, (3,))}
        if any(name.startswith("adamw/") for name in state):
            for name in self.rest:
                expected[f"adamw/{name}/step"] = (torch.float32, ())
            for name in owned:
                rows = self.flat.rows(name, data.ranks().rank)
                shape = (torch.float32, (len(rows), *self.rest[name].shape[1:]))
                expected |= {f"adamw/{name}/{key}": shape for key in STATE[:2]}
        kept = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()}
        if odd := next((name for name in sorted({*expected, *kept}) if expected.get(name) != kept.get(name)), None):
            theirs, ours = (str(of.get(odd, "absent")) for of in (kept, expected))
            raise UserError(f"optimizer state: {odd} is {theirs}, but AdamW asks for {ours}; start the stage afresh")
        counts = {float(state[name]) for name in expected if name.endswith(COUNT)}
        if len(counts) > 1:
            raise UserError("optimizer state: weights have taken different numbers of steps; start the stage afresh")
        return owned if len(expected) > 1 else []
