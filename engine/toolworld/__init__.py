"""The tool world: tool simulators, user simulator and rubric judge."""
