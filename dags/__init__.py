"""The views: Dagster definitions and the dvc.yaml generator; nothing imports this floor."""
