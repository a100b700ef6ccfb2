"""Training: the job file, the launch on Ray, the loop, DeepSpeed, checkpoints, and publishing."""
