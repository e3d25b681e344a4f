"""The engine: code that the stages share and that knows no orchestrator."""
