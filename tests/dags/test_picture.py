"""The README's flowchart has every stage in the frame of its group, and an arrow for all that a stage reads."""

import re

import pytest

from dags import picture
from engine.errors import UserError
from pipelines import graph
from pipelines.stages_file import load_stages_file
from tests.project import ROOT

FRAME = re.compile(r'^    subgraph group_(\w+)\["[^"]+"\]\n(.*?)^    end$', re.MULTILINE | re.DOTALL)
BOX = re.compile(r'^        (\w+)\["<b>\1</b> \((\w+)\)((?:<br/>\w+)*)"\]$', re.MULTILINE)
ARROW = re.compile(r'^    (\w+) -- "([\w, ]+)" --> (\w+)$', re.MULTILINE)


def test_the_readme_holds_todays_flowchart() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert picture.placed(page) == page, "run `make views`"
    assert page.count("```mermaid\n") == 1


def test_every_stage_is_a_box_in_the_frame_of_its_group() -> None:
    specs = load_stages_file().stages
    boxes = [(stage, group, compute) for group, frame in FRAME.findall(picture.draw())
             for stage, compute, _ in BOX.findall(frame)]  # fmt: skip
    assert boxes == [(stage, spec.group, spec.compute) for stage, spec in specs.items()]


def test_an_arrow_leads_to_each_stage_or_its_group_with_what_it_reads() -> None:
    text = picture.draw()
    arrows = {(start, end): names.split(", ") for start, names, end in ARROW.findall(text)}
    specs = load_stages_file().stages
    for stage, spec in specs.items():
        for name in graph.stage_graph(stage).inputs:
            maker = graph.producer(name)
            other = specs[maker].group
            ends = (maker, stage) if other == spec.group else (f"group_{other}", f"group_{spec.group}")
            assert name.endswith("_metrics") or name in arrows[ends]
    assert arrows["group_pretraining", "group_post_training"] == ["extended_checkpoint"], "and nothing else"


def test_every_line_is_one_of_a_flowchart() -> None:
    rest = ARROW.sub("", FRAME.sub(lambda frame: BOX.sub("", frame[2]), picture.draw()))
    assert set(rest.split("\n")) == {"flowchart TD", "        direction LR", ""}


@pytest.mark.parametrize(
    "page",
    ["# A page", f"{picture.BEGIN}\n", f"{picture.END}\n{picture.BEGIN}\n", f"{picture.BEGIN}{picture.END}" * 2],
    ids=["no marks", "no end", "wrong order", "twice"],
)
def test_a_page_without_the_place_of_the_graph_is_refused(page: str) -> None:
    with pytest.raises(UserError, match="README.md lacks the place of the graph: write <!-- The graph"):
        picture.placed(page)


def test_what_stands_around_the_graph_stays() -> None:
    page = picture.placed(f"above\n\n{picture.BEGIN}\nan older graph\n{picture.END}\n\nbelow\n")
    assert page == f"above\n\n{picture.BEGIN}\n```mermaid\n{picture.draw()}\n```\n{picture.END}\n\nbelow\n"
