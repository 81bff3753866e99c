"""Training: settings, run folders, checkpoints, the loop, and the job that combines them."""
