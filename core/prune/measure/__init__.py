"""What pruning costs and keeps: fidelity, evidence, FLOPs, time, and the statistics of it."""
