"""Studies: claims of the paper as small controlled experiments, registered before they run; no part of the graph."""
