"""The schema of a study's YAML: the registration that git has before the first run."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.checked import suggestion
from engine.model.parameters import ModelBlock
from engine.training.settings import OptimizerSettings

Role = Literal["claim", "precondition", "negative_control", "positive_control"]
CONTROLS: tuple[Role, ...] = ("negative_control", "positive_control")
LEAST_SEEDS = 5
PILOT_SEEDS = 9000
"""Seeds from here on belong to pilots; a study never uses them."""

TESTS = ("below", "above", "within", "identical", "each_at_most", "each_at_least")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TunedOptimizer(OptimizerSettings):
    """The optimizer of one run, its learning rate included, which a sweep may choose."""

    lr: float = Field(gt=0)
    newton_schulz_dtype: Literal["float32", "bfloat16"] = "float32"
    backend: Literal["ours"] = "ours"  # a run is one process, among whose ranks there is nothing to divide


class Proportions(_Strict):
    """A learning-rate schedule relative to a run's length.

    It is wsd (constant, then a cosine decay), cosine (decay from warm-up on) or constant. `decay` is wsd's share of the
    steps, `floor` the last rate over the peak. `horizon` stretches a cosine over that many times the run's steps and so
    cuts it off.
    """

    shape: Literal["wsd", "cosine", "constant"]
    warmup: int = Field(ge=0)
    decay: float = Field(ge=0, le=1)
    floor: float = Field(ge=0, le=1)
    horizon: float = Field(default=1.0, ge=1)


class Settings(_Strict):
    """Everything that decides one run, except seed and number of steps."""

    model: ModelBlock
    sequence_length: int = Field(ge=2)
    batch_size: int = Field(ge=1)
    optimizer: TunedOptimizer
    schedule: Proportions
    router_bias_rate: float = Field(ge=0)
    eval_every: int = Field(ge=1, description="steps between points of the validation curve")
    eval_windows: int = Field(ge=1, description="windows of such a point")
    final_windows: int = Field(ge=1, description="windows of the final loss")
    target_loss: float | None = Field(description="nats a token: tokens_to_target counts up to this validation loss")
    seed_offset: int = Field(ge=0, description="added to the seed: a repetition that must show no difference")


class Arm(_Strict):
    """One treatment: the settings that it changes, and the budgets at which it runs (null: all)."""

    about: str
    settings: dict[str, Any] = Field(default_factory=dict, description="nested changes of the study's settings")
    budgets: tuple[str, ...] | None = None
    tuned_by: str | None = Field(default=None, description="the sweep whose winner's settings it takes")
    branch_of: str | None = Field(default=None, description="the constant-rate arm whose checkpoint it decays from")


class Sweep(_Strict):
    """A search over `grid` (dotted setting → values), judged by mean validation loss on seeds of its own."""

    about: str
    settings: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, tuple[float, ...]]
    seeds: tuple[int, ...] = Field(min_length=1)
    steps: int = Field(ge=1)


class Criterion(_Strict):
    """One test on one figure of the runs, at each of `budgets` (null: all); it must hold at all of them.

    `below`, `above` and `within` bound the mean over seeds of Σ weight·figure over `contrast` (of log figures with
    `log`), by one-sided t tests or TOST. `identical` and the `each_…` ones hold or fail run by run over `arms`.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    role: Role
    says: str
    measure: str
    budgets: tuple[str, ...] | None = None
    contrast: dict[str, float] | None = None
    arms: tuple[str, ...] | None = None
    log: bool = False
    below: float | None = None
    above: float | None = None
    within: float | None = Field(default=None, gt=0)
    identical: bool | None = Field(default=None, description="true: the same bits in all arms; false: different bits")
    each_at_most: float | None = None
    each_at_least: float | None = None

    @model_validator(mode="after")
    def _one_test(self) -> Self:
        tests = [name for name in TESTS if getattr(self, name) is not None]
        if len(tests) != 1:
            raise ValueError(f"a criterion needs exactly one of {', '.join(TESTS)}, this one has {tests or 'none'}")
        if self.sampled != (self.contrast is not None) or self.sampled == (self.arms is not None):
            raise ValueError(f"{tests[0]} needs {'contrast, not arms' if self.sampled else 'arms, not contrast'}")
        return self

    @property
    def test(self) -> str:
        """The name of the criterion's test."""
        return next(name for name in TESTS if getattr(self, name) is not None)

    @property
    def sampled(self) -> bool:
        """Whether the criterion is about a mean, with a p value, rather than about each run."""
        return self.test in ("below", "above", "within")

    @property
    def involved(self) -> tuple[str, ...]:
        """The arms that the criterion compares."""
        return tuple(self.contrast or self.arms or ())


class Study(_Strict):
    """A registered study: the claim, its test, and the decisions made beforehand."""

    claim: str
    source: str
    finding: Literal["paper", "own"]
    hypothesis: str
    scale: str = Field(description="what the size allows to say")
    pilot: str = Field(description="what pilots on other seeds decided")
    exclusions: str
    not_testable: str | None = Field(default=None, description="why the claim cannot be tested at this size")
    seeds: tuple[int, ...] = Field(min_length=LEAST_SEEDS)
    budgets: dict[str, int] = Field(min_length=1, description="name → steps of the reference arm")
    equal_compute: str | None = Field(default=None, description="the arm whose FLOPs all arms spend at a budget")
    settings: Settings
    sweeps: dict[str, Sweep] = Field(default_factory=dict)
    arms: dict[str, Arm]
    criteria: tuple[Criterion, ...]
    plot: str = Field(default="validation_loss", description="the history's figure that is drawn")

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        _known("equal_compute", [self.equal_compute] if self.equal_compute else [], self.arms)
        for name, arm in self.arms.items():
            _known(f"arms.{name}.budgets", arm.budgets or (), self.budgets)
            _known(f"arms.{name}.tuned_by", [arm.tuned_by] if arm.tuned_by else [], self.sweeps)
            _known(f"arms.{name}.branch_of", [arm.branch_of] if arm.branch_of else [], self.arms)
        for i, criterion in enumerate(self.criteria):
            _known(f"criteria.{i}.arms", criterion.involved, self.arms)
            _known(f"criteria.{i}.budgets", criterion.budgets or (), self.budgets)
            self._has_runs(i, criterion)
        self._has_roles()
        tuning = {seed for sweep in self.sweeps.values() for seed in sweep.seeds}
        if shared := sorted(tuning & set(self.seeds)):
            raise ValueError(f"seed {shared[0]} both tunes and tests; give the sweep seeds of its own")
        if late := [seed for seed in (*self.seeds, *tuning) if seed >= PILOT_SEEDS]:
            raise ValueError(f"seed {late[0]} is kept for pilots; take seeds below {PILOT_SEEDS}")
        return self

    def _has_runs(self, i: int, criterion: Criterion) -> None:
        for budget in self.budgets_of(criterion):
            for name in criterion.involved:
                if budget not in self.budgets_of(self.arms[name]):
                    raise ValueError(f"criteria.{i}: arm {name} does not run at budget {budget}; name its budgets")

    def _has_roles(self) -> None:
        for role in ("claim", *CONTROLS):
            if not any(criterion.role == role for criterion in self.criteria):
                raise ValueError(f"criteria lack a {role}; add one")

    def budgets_of(self, of: Arm | Criterion) -> tuple[str, ...]:
        """The budgets at which an arm runs or a criterion is tested."""
        return of.budgets or tuple(self.budgets)


def _known(where: str, names: tuple[str, ...] | list[str], known: Mapping[str, Any]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{where} names {name}, which does not exist; {suggestion(name, known)}")
