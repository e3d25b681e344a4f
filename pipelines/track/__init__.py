"""MLflow, filled from run records: an importer that can be run at any time, any number of times.

    python -m pipelines.track --env laptop [--tracking-uri URI] [--serve]

Stages write files only; MLflow reads what they left. A server that is down means a warning and a later import.
"""
