"""The import into MLflow, of run records and of what running stages have so far; it may be repeated at any time.

    python -m pipelines.track --env laptop [--tracking-uri URI] [--serve]
    python -m pipelines.track --env laptop --follow -- dvc repro

Stages only write files, and the import reads them. An unreachable server means a warning and a later import.
"""
