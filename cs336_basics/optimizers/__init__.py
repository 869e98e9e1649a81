"""Optimizers beyond AdamW, one file each."""
