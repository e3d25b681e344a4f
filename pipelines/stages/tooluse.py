"""tooluse: make tools, agents, rubric tasks and judged multi-turn trajectories."""

from kedro.pipeline import Node, Pipeline

from nodes.tooluse.nodes import build_agents, build_tasks, build_tools, build_trajectories


def create_pipeline() -> Pipeline:
    """Return the stage's nodes."""
    return Pipeline(
        [
            Node(build_tools, inputs="params:tooluse", outputs="tools", name="build_tools"),
            Node(build_agents, inputs=["tools", "params:tooluse"], outputs="agents", name="build_agents"),
            Node(build_tasks, inputs=["agents", "params:tooluse"], outputs="tasks", name="build_tasks"),
            Node(
                build_trajectories,
                inputs=["tasks", "params:tooluse", "workspace"],
                outputs=["trajectories", "rejected_trajectories", "tooluse_metrics"],
                name="build_trajectories",
                tags="sharded",
            ),
        ]
    )
