"""VFlowOpt: an importance map of the image tower, three stages of pruning with recycling, and the search for its
settings. Paper: ICCV 2025, arXiv 2508.05211. Specification: methods/vflowopt.md."""
