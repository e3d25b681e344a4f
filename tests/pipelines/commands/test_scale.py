"""`make scale`: the tables of the profiles, in little time and without torch, and what it refuses in one sentence."""

import subprocess
import sys

import pytest
from rich.console import Console

from engine.errors import UserError
from engine.scale.fit import fullest, refuse_what_does_not_fit
from engine.scale.memory import memory
from pipelines.commands import scale


@pytest.mark.parametrize(
    ("profile", "gpus", "kind"), [("k2", 2048, None), ("moonlight", 64, None), ("h200", 1, "h200")]
)
def test_every_cluster_profile_is_shown_within_a_hundred_columns(profile, gpus, kind):
    training, tokens = scale.planned(profile, gpus, kind, "")
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 -- rich keeps it open
    scale.show(profile, training, tokens, console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 100
    assert "counted once" in text
    assert "days for" in text
    if profile == "k2":
        assert "1,026,408,232,448" in text


@pytest.mark.parametrize("weights", ["bfloat16", "float32"])
@pytest.mark.parametrize(("profile", "kind"), [("k2", None), ("moonlight", None), ("h200", "h200")])
def test_every_cluster_profiles_own_layout_fits_its_own_gpus(profile, kind, weights):
    """With weights as K2 kept them, and as this trainer does."""
    training, _ = scale.planned(profile, None, kind, "", weights)
    refuse_what_does_not_fit(training, memory(training), "FIELD")


def test_it_loads_no_torch_and_ends_within_seconds():
    code = (
        "import sys; sys.argv = ['scale', '--env', 'k2', '--gpus', '256'];"
        "from pipelines.commands.scale import main\n"
        "try: main()\nexcept SystemExit as end: print(end.code)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False"
    assert "1,026,408,232,448" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("k2", 300, None, ""),
            r"conf/k2/compute.yml: class train, field layout: pp 16 times ep 16 must divide .* 300",
        ),
        (("k2", 0, None, ""), r"GPUS is 0: give the number"),
        (("k2", None, "h80", ""), r"GPU is 'h80', of which .* knows nothing; did you mean h800"),
        (
            ("laptop", None, None, ""),
            r"conf/laptop/compute.yml: class train, field gres_type names no kind .* GPU=h800",
        ),
        (("k2", None, None, "ep: 7"), r"conf/k2/compute.yml: class train, field layout: pp 16 times ep 7 must divide"),
        (("k2", None, None, "zorro: 1"), r"LAYOUT: the field layout.zorro is unknown; did you mean zero\?"),
        (("k2", None, None, "pp: 0"), r"LAYOUT: the field layout.pp is 0: "),
        (
            ("k2", 384, None, "pp: 1, vpp: 1, ep: 1, schedule: interleaved_1f1b"),
            r"parameters/pretrain.yml: batch_size 16384 .* change batch_size",
        ),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        scale.planned(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tokens", ["-1", "inf"])
def test_no_or_endless_tokens_are_refused(monkeypatch, capsys, tokens):
    monkeypatch.setattr("sys.argv", ["scale", "--env", "k2", "--tokens", tokens])
    with pytest.raises(SystemExit) as end:
        scale.main()
    assert end.value.code == 1
    assert f"TOKENS is {tokens}: give the number of tokens" in capsys.readouterr().err


def test_what_does_not_fit_is_named_with_the_switch_that_helps():
    training, _ = scale.planned("k2", 256, None, "recompute: [], fp8_storage: false, offload: []")
    ranks = memory(training)
    assert fullest(ranks).total > training.gpu.memory
    with pytest.raises(UserError, match=r"^FIELD: rank \d+ needs .* GB of 80.0: activations take .*; recompute more "):
        refuse_what_does_not_fit(training, ranks, "FIELD")
