"""The machine: what stages share, knowing no orchestrator."""
