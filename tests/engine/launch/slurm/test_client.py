"""What Slurm's commands print, as recorded from Slurm 22.05, and what is read from it."""

import pytest

from engine.launch.slurm.client import JobStatus, _words, elements, parse_history, parse_show

RUNNING = (
    "JobId=2 JobName=k2-smoke UserId=root(0) Priority=4294901758 Nice=0 Account=(null) QOS=(null) JobState=RUNNING "
    "Reason=None Dependency=(null) Requeue=1 Restarts=1 BatchFlag=1 ExitCode=0:0 RunTime=00:00:00 TimeLimit=01:00:00 "
    "ReqNodeList=(null) ExcNodeList=(null) NodeList=h800-[0-1] BatchHost=h800-0 NumNodes=2 CPUs/Task=1 "
    "ReqB:S:C:T=0:0:*:* TRES=cpu=1,mem=500M,node=1,billing=1 Comment=k-0123 StdOut=/tmp/slurm-2.out Power= "
)


def test_a_running_job() -> None:
    assert parse_show(RUNNING) == [JobStatus("RUNNING", "", 1, 0, 0, "h800-[0-1]", None, "k-0123")]


def test_a_job_that_waits_has_a_reason_and_no_nodes() -> None:
    waits = RUNNING.replace("RUNNING", "PENDING").replace("Reason=None", "Reason=PartitionNodeLimit")
    (seen,) = parse_show(waits.replace("NodeList=h800-[0-1]", "NodeList=(null)"))
    assert (seen.state, seen.reason, seen.nodes) == ("PENDING", "PartitionNodeLimit", "")


def test_elements_that_wait_share_a_line() -> None:
    line = RUNNING.replace("JobId=2", "JobId=2 ArrayJobId=2 ArrayTaskId=0-1,4%2")
    assert [seen.element for seen in parse_show(line)] == [0, 1, 4]


@pytest.mark.parametrize(("text", "numbers"), [(None, [None]), ("3", [3]), ("0-2", [0, 1, 2]), ("1,5-6%4", [1, 5, 6])])
def test_elements(text: str | None, numbers: list[int | None]) -> None:
    assert elements(text) == numbers


def test_the_true_exit_code_is_the_derived_one() -> None:
    (seen,) = parse_show(RUNNING.replace("ExitCode=0:0", "DerivedExitCode=7:0 ExitCode=143:0"))
    assert (seen.code, seen.signal) == (7, 0)
    assert parse_history("9|FAILED|15:0|7:0|h800-[0-1]|k-1").code == 7
    assert parse_history("9|FAILED|3:0||h800-0|k-1").code == 3


def test_history_names_who_cancelled_and_which_element() -> None:
    seen = parse_history("9_4|CANCELLED by 0|0:0|0:0|None assigned|k-1")
    assert (seen.state, seen.by, seen.element, seen.comment) == ("CANCELLED", "0", 4, "k-1")


def test_slurms_words_without_its_commands() -> None:
    complaint = (
        "sbatch: error: invalid partition specified: nope\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified\n"
    )
    assert _words(complaint) == (
        "invalid partition specified: nope; Batch job submission failed: Invalid partition name specified"
    )
    assert _words("slurm_load_jobs error: Invalid job id specified") == "Invalid job id specified"
