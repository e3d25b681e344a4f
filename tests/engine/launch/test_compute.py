"""Compute classes: what each launcher may be told, and one sentence for anything else."""

import pytest

from engine.errors import UserError
from engine.launch.compute import ComputeClass, Container, check_compute, compute_class, seconds

SLURM = {"launcher": "slurm", "time": "1:00:00"}


@pytest.mark.parametrize(
    ("compute", "words"),
    [
        ({}, "no class 'train'"),
        ({"train": {"launcher": "ssh"}}, "the field launcher is 'ssh': input should be 'inplace', 'local' or 'slurm'"),
        ({"train": {"processes": 2}}, "the field launcher is missing; add it"),
        ({"train": "local"}, "class train: it is 'local', not names with values"),
        (
            {"train": {"launcher": "local", "nodes": 8}},
            "launcher local has no field nodes; its fields are launcher, device, layout, processes",
        ),
        ({"train": {"launcher": "inplace", "time": "1:00"}}, "launcher inplace has no field time"),
        (
            {"train": {**SLURM, "processes": 8}},
            "launcher slurm has no field processes; its fields are launcher, device, layout, nodes",
        ),
        (
            {"train": {**SLURM, "gpus": 8}},
            "the field gpus is unknown; choose one of launcher, device, layout, processes, nodes",
        ),
        (
            {"train": {"launcher": "local", "processes": 0}},
            "the field processes is 0: input should be greater than or equal to 1",
        ),
        (
            {"train": {"launcher": "local", "processes": True}},
            "the field processes is True: input should be a valid integer",
        ),
        ({"train": {"launcher": "local", "device": "gpu"}}, "field device is 'gpu': input should be 'cpu' or 'cuda'"),
        (
            {"train": {**SLURM, "device": "cuda", "gpus_per_node": 2, "processes_per_node": 4}},
            "device: cuda needs a GPU for each of a node's 4 ranks, and gpus_per_node is 2; raise it",
        ),
        (
            {"train": {"launcher": "local", "strict_kernels": True}},
            "strict_kernels: true concerns a GPU's kernels; set device: cuda with it",
        ),
        ({"train": {"launcher": "inplace", "processes": 2}}, "2 processes cannot run in place; choose launcher: local"),
        ({"train": {**SLURM, "nodes": "8"}}, "the field nodes is '8': input should be a valid integer"),
        (
            {"train": {**SLURM, "gpus_per_node": -1}},
            "the field gpus_per_node is -1: input should be greater than or equal to 0",
        ),
        ({"train": {"launcher": "slurm"}}, "field time is missing; say how long a job may run"),
        ({"train": {**SLURM, "time": 600}}, "field time is 600: not a time as Slurm writes it; .*in quotes"),
        ({"train": {**SLURM, "time": "an hour"}}, "field time is 'an hour': not a time as Slurm"),
        ({"train": {**SLURM, "exclusive": "yes"}}, "the field exclusive is 'yes': input should be a valid boolean"),
        ({"train": {**SLURM, "partition": "a b"}}, "field partition is 'a b': not a single word"),
        ({"train": {**SLURM, "mem": 0}}, "field mem is 0: not a single word; write one, in quotes"),
        (
            {"train": {**SLURM, "environment": "module load cuda"}},
            "field environment is 'module .*, not a list; write one",
        ),
        ({"train": {**SLURM, "exclude": [7]}}, "the field exclude.0 is 7: input should be a valid string"),
        ({"train": {**SLURM, "fabric": ["NCCL_IB_TC"]}}, r"field fabric is \['NCCL_IB_TC'\], not names with values"),
        ({"train": {**SLURM, "fabric": {"OPENAI_API_KEY": "hunter2"}}}, "field fabric: OPENAI_API_KEY holds a secret"),
        ({"train": {**SLURM, "fabric": {"A": "http://me:hunter2@p"}}}, "field fabric: entry 1 holds a secret"),
        ({"train": {**SLURM, "environment": ["a", "export HF_TOKEN=hunter2"]}}, "environment: entry 2 holds a secret"),
        ({"train": {**SLURM, "environment": ["export P=http://me:hunter2@p"]}}, "environment: entry 1 holds a secret"),
        ({"train": {**SLURM, "environment": "HF_TOKEN=hunter2"}}, "field environment is .*, not a list"),
        ({"train": {**SLURM, "container": {"kind": "pyxis", "image": "docker://a:hunter2@b/c"}}}, "container: entry 1"),
        (
            {"train": {**SLURM, "fabric": {"NCCL-TC": 1}}},
            "field fabric.NCCL-TC is 'NCCL-TC': not the name of a variable",
        ),
        ({"train": {**SLURM, "container": "k2.sif"}}, "field container is 'k2.sif', not names with values"),
        ({"train": {**SLURM, "environment": ["a\nb"]}}, "the field environment.0 is .*: not a single line"),
        ({"train": {**SLURM, "container": {"imag": "a"}}}, "field container.imag is unknown; did you mean image"),
        (
            {"train": {**SLURM, "container": {"kind": "docker"}}},
            "field container.kind is 'docker': input should be 'none'",
        ),
        ({"train": {**SLURM, "container": {"kind": "pyxis"}}}, "field container: kind pyxis needs the image to run"),
        ({"train": {**SLURM, "container": {"image": "a"}}}, "field container: its image would not be used"),
        ({"train": {**SLURM, "gres_type": "h800"}}, "gres_type: there are no GPUs to be h800"),
        ({"train": {**SLURM, "array": 4, "nodes": 2}}, "array: its elements are one process each"),
        ({"train": {**SLURM, "layout": "ep16"}}, "field layout is 'ep16', not names with values"),
        ({"train": {**SLURM, "layout": {"tp": 2}}}, "field layout.tp is unknown; choose one of pp, vpp, ep"),
        ({"train": {**SLURM, "layout": {"ep": 0}}}, "field layout.ep is 0: input should be greater than or equal to 1"),
        ({"train": {**SLURM, "layout": {"pp": "16"}}}, "field layout.pp is '16': input should be a valid integer"),
        (
            {"train": {**SLURM, "layout": {"recompute": ["norms"]}}},
            "the field layout.recompute.0 is 'norms': input should be 'norm', 'swiglu', 'mla_up' or 'moe_down'",
        ),
        (
            {"train": {**SLURM, "layout": {"recompute": ["norm", "norm"]}}},
            "field layout.recompute: norm is there twice; write it once",
        ),
        ({"train": {**SLURM, "layout": {"recompute": "norm"}}}, "field layout.recompute is 'norm', not a list"),
        (
            {"train": {**SLURM, "layout": {"offload": ["weights"]}}},
            "the field layout.offload.0 is 'weights': input should be 'activations' or 'optimizer'",
        ),
        ({"train": {**SLURM, "layout": {"fp8_storage": 1}}}, "field layout.fp8_storage is 1: input should be a valid"),
        ({"train": {**SLURM, "drain_lead_s": 3600}}, "drain_lead_s: 3600 s is all of the time 1:00:00"),
    ],
)
def test_bad_compute_class(compute: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        compute_class(compute, "train")
    assert "compute.yml" in str(error.value)
    assert "\n" not in str(error.value)
    assert "hunter2" not in str(error.value)


def test_a_secret_comes_to_the_job_by_a_file_that_its_script_names() -> None:
    read = ("export OPENAI_API_KEY=$(cat ~/.keys/llm)", 'export HF_TOKEN="$(pass show hf)" A=1')
    where = {**SLURM, "environment": list(read), "fabric": {"OPENAI_API_KEY_FILE": "/home/me/.keys/llm"}}
    assert compute_class({"llm": where}, "llm").environment == read


def test_one_process_by_default() -> None:
    assert compute_class({"train": {"launcher": "local"}}, "train") == ComputeClass(launcher="local", processes=1)
    assert compute_class({"train": {"launcher": "local", "processes": 4}}, "train").ranks == 4


@pytest.mark.parametrize(
    ("more", "ranks"),
    [
        ({}, 1),
        ({"nodes": 2}, 2),
        ({"nodes": 2, "gpus_per_node": 8}, 16),
        ({"nodes": 2, "gpus_per_node": 8, "processes_per_node": 1}, 2),
    ],
)
def test_one_rank_a_gpu_by_default(more: dict[str, int], ranks: int) -> None:
    assert compute_class({"train": {**SLURM, **more}}, "train").ranks == ranks


def test_nested_fields_of_a_slurm_class() -> None:
    container = {"kind": "apptainer", "image": "/k2.sif", "mounts": ["/a:/b"]}
    given = {**SLURM, "container": container, "fabric": {"NCCL_IB_TC": 106}, "environment": ["module load cuda"]}
    chosen = compute_class({"train": given}, "train")
    assert chosen.container == Container(kind="apptainer", image="/k2.sif", mounts=("/a:/b",))
    assert chosen.fabric == {"NCCL_IB_TC": "106"}
    assert chosen.environment == ("module load cuda",)


@pytest.mark.parametrize(
    ("text", "s"),
    [("10", 600), ("1:30", 90), ("2:00:00", 7200), ("1-12", 129600), ("1-2:30", 95400), ("7-00:00:01", 604801)],
)
def test_times(text: str, s: int) -> None:
    assert seconds(text) == s


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"llm": {"launcher": "ssh"}}, "class llm: the field launcher is 'ssh'"),
        ({"trian": {"launcher": "local"}}, "no class 'trian'"),
    ],
)
def test_all_classes_are_checked_together(change: dict[str, object], words: str) -> None:
    names = ("cpu", "llm", "train")
    good = {name: {"launcher": "inplace"} for name in names}
    check_compute(good, names)
    with pytest.raises(UserError, match=words):
        check_compute({**good, **change}, names)
