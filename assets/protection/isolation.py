"""Isolation: after a worker died on a shard, the photos that kill are found, and the others are protected."""

from __future__ import annotations

from dataclasses import replace

from rid.assets.protection.shards.task import probe_photo, protect_shard
from rid.assets.protection.shards.work import ProbeTask, ShardResult, ShardTask
from rid.resources.dask_workers import Workers
from rid.resources.scheduler_state import WorkersUnavailable


def isolate(task: ShardTask, workers: Workers) -> ShardResult:
    """Finds the photos that kill a worker, each in a task of its own, and does the shard without them.

    The death of a worker can be a neighbour's fault: every photo is tried before one is quarantined.
    """
    probes = [ProbeTask(task, row) for row in range(task.work.shard.photos)]
    killers = [
        done.task.row
        for done in workers.run(probe_photo, probes, prefix="probe", expected=len(probes), alone=True)
        if done.result is None
    ]
    again = replace(task, killed=tuple(sorted(killers)))
    for done in workers.run(protect_shard, [again], prefix="protect", expected=1):
        if done.result is not None:
            return done.result
    raise WorkersUnavailable("workers die on photos that each pass alone: give them more memory, then run again")
