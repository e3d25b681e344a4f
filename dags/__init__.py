"""The views: Dagster definitions and the dvc.yaml generator; no other package imports this one."""
