"""What a worker runs: one shard of a drop."""
