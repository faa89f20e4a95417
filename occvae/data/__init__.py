"""Datasets: sources of shapes, shards on disk, training samples and batches."""
