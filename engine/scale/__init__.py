"""The planner: the memory, traffic, time and cost of a training of any size under any layout, counted without torch."""
