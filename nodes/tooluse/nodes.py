"""The nodes of the tooluse stage: tools -> agents -> tasks -> judged trajectories (K2 paper section 3.1.1)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodes.tooluse.schema import AGENTS, REJECTED_TRAJECTORIES, TASKS, TOOLS, TRAJECTORIES, Parameters

if TYPE_CHECKING:
    import polars as pl


def build_tools(parameters: dict[str, Any]) -> "pl.DataFrame":
    """Return the tool specs of the chosen domains as the `tools` table.

    Names in the parameters are checked here, before any work: an unknown domain, persona, defect or generator is a
    `UserError`.
    """
    p = Parameters.model_validate(parameters)
    import polars as pl

    from engine.artifacts.tables import polars_schema
    from nodes.tooluse.tools import tool_rows
    from nodes.tooluse.trajectories import check_names

    check_names(p)
    return pl.DataFrame(tool_rows(p.domains), schema=polars_schema(TOOLS))


def build_agents(tools: "pl.LazyFrame", parameters: dict[str, Any]) -> "pl.DataFrame":
    """Return agents over the domains of `tools` as the `agents` table."""
    p = Parameters.model_validate(parameters)
    import polars as pl

    from engine.artifacts.tables import polars_schema
    from nodes.tooluse.agents import make_agents

    domains = tools.select(pl.col("domain").unique(maintain_order=True)).collect()["domain"].to_list()
    agents = make_agents(p.seed, domains, p.agents, p.tools_per_agent)
    return pl.DataFrame(agents, schema=polars_schema(AGENTS))


def build_tasks(agents: "pl.LazyFrame", parameters: dict[str, Any]) -> "pl.DataFrame":
    """Return rubric tasks for `agents` as the `tasks` table, split by the hash of the instruction."""
    p = Parameters.model_validate(parameters)
    import polars as pl

    from engine.artifacts.tables import polars_schema
    from nodes.tooluse.tasks import make_tasks

    tasks = make_tasks(agents.collect().to_dicts(), p)
    return pl.DataFrame([task.to_row() for task in tasks], schema=polars_schema(TASKS))


def build_trajectories(
    tasks: "pl.LazyFrame", parameters: dict[str, Any], workspace: Path
) -> tuple["pl.LazyFrame", "pl.LazyFrame", dict[str, float | int | str]]:
    """Play and judge every task: `trajectories` (passing), `rejected_trajectories` (with reasons), `tooluse_metrics`.

    Played episodes are kept in `workspace`, a block of tasks per file, and may be made by several processes.
    """
    p = Parameters.model_validate(parameters)
    import polars as pl

    from engine.launch import job_array
    from nodes.tooluse.trajectories import PLAYED, TASKS_A_BLOCK, metrics_of, play_all, read_tasks

    difficulties = tasks.select("difficulty").collect()["difficulty"].to_list()
    todo = job_array.blocks(read_tasks(tasks), TASKS_A_BLOCK)
    played = job_array.table(
        workspace / "played", "trajectories", todo, len(difficulties), lambda block: play_all(block, p), PLAYED
    )
    passing = played.filter(pl.col("passed")).select(list(TRAJECTORIES))
    rejected = played.filter(~pl.col("passed")).select(list(REJECTED_TRAJECTORIES))
    return passing, rejected, metrics_of(difficulties, played)
