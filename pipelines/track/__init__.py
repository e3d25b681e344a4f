"""MLflow, filled from run records and from what running stages have so far, any number of times.

    python -m pipelines.track --env laptop [--tracking-uri URI] [--serve]
    python -m pipelines.track --env laptop --follow -- dvc repro

Stages write files only; MLflow reads what they left. A server that is away means a warning and a later import.
"""
