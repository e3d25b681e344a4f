"""The tooluse stage: tools, agents, rubric tasks and judged multi-turn trajectories."""
