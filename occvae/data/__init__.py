"""From shapes to training samples: sources, rendering, shards, datasets."""
