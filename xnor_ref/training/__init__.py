"""Training: config, run folders, checkpoints, the loop, and the job that ties them together."""
