"""Who runs experiments: a formula, a bank of measured runs, this machine, a Ray cluster, a Slurm cluster."""
