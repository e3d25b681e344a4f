"""The graph: one literal list of nodes for each stage, and nothing else. kedro.yml gives the order of the stages."""
