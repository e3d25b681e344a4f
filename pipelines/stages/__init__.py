"""The graph: one literal list of nodes a stage, and nothing else. kedro.yml names them in the order of their runs."""
