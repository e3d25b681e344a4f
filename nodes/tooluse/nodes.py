"""What the tooluse pipeline wires: tools -> agents -> tasks -> judged trajectories (K2 paper section 3.1.1)."""

from typing import TYPE_CHECKING, Any

from nodes.tooluse.schema import AGENTS, REJECTED_TRAJECTORIES, TASKS, TOOLS, TRAJECTORIES, Parameters

if TYPE_CHECKING:
    import polars as pl


def build_tools(parameters: dict[str, Any]) -> "pl.DataFrame":
    """The tool specs of the chosen domains as the `tools` table.

    Names in the parameters are checked here, before any work: an unknown domain, persona or defect, or a generator
    that this stage does not have, is a `UserError`.
    """
    p = Parameters.model_validate(parameters)
    import polars as pl

    from engine.artifacts.tables import polars_schema
    from nodes.tooluse.tools import tool_rows
    from nodes.tooluse.trajectories import check_names

    check_names(p)
    return pl.DataFrame(tool_rows(p.domains), schema=polars_schema(TOOLS))


def build_agents(tools: "pl.LazyFrame", parameters: dict[str, Any]) -> "pl.DataFrame":
    """Agents over the domains of `tools` as the `agents` table."""
    p = Parameters.model_validate(parameters)
    import polars as pl

    from engine.artifacts.tables import polars_schema
    from nodes.tooluse.agents import make_agents

    domains = tools.select(pl.col("domain").unique(maintain_order=True)).collect()["domain"].to_list()
    agents = make_agents(p.seed, domains, p.agents, p.tools_per_agent)
    return pl.DataFrame(agents, schema=polars_schema(AGENTS))


def build_tasks(agents: "pl.LazyFrame", parameters: dict[str, Any]) -> "pl.DataFrame":
    """Rubric tasks for `agents` as the `tasks` table, split by the hash of the instruction."""
    p = Parameters.model_validate(parameters)
    import polars as pl

    from engine.artifacts.tables import polars_schema
    from nodes.tooluse.tasks import make_tasks

    tasks = make_tasks(agents.collect().to_dicts(), p)
    return pl.DataFrame([task.to_row() for task in tasks], schema=polars_schema(TASKS))


def build_trajectories(
    tasks: "pl.LazyFrame", parameters: dict[str, Any]
) -> tuple["pl.DataFrame", "pl.DataFrame", dict[str, float | int | str]]:
    """Play and judge every task: `trajectories` (passing), `rejected_trajectories` (with reasons), `tooluse_metrics`.

    The template engine takes seconds, so there is no progress to keep in a workspace: a killed run starts again.
    """
    p = Parameters.model_validate(parameters)
    import polars as pl

    from engine.artifacts.tables import polars_schema
    from engine.progress import progress
    from engine.toolworld.tasks import Task
    from nodes.tooluse.trajectories import Played, metrics_of, play_all

    wanted = [Task.from_row(row) for row in tasks.collect().iter_rows(named=True)]
    played: list[Played] = []
    with progress("trajectories", len(wanted)) as bar:
        for task in wanted:
            played += play_all(task, p)
            bar.advance()
    passing = [one.row for one in played if one.passed]
    rejected = [one.row for one in played if not one.passed]
    return (
        pl.DataFrame(passing, schema=polars_schema(TRAJECTORIES)),
        pl.DataFrame(rejected, schema=polars_schema(REJECTED_TRAJECTORIES)),
        metrics_of(wanted, played),
    )
