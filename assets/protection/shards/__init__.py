"""The protection of one shard, on a worker."""
