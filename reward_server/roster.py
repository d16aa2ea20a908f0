"""Who answers for which clips: owners by rendezvous hashing, and replicas that share the clips of one owner."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from reward_server.routing import owner
from reward_server.shard_handle import ShardHandle


@dataclass(frozen=True, slots=True)
class Roster:
    """The processes of a reward server: each owner's own, then its replicas. A new value for every change."""

    owners: Mapping[str, tuple[ShardHandle, ...]]

    @property
    def shards(self) -> tuple[ShardHandle, ...]:
        """Every process."""
        return tuple(shard for replicas in self.owners.values() for shard in replicas)

    def answering(self, clip_id: str, without: Collection[str] = ()) -> ShardHandle | None:
        """The process that answers for a clip, those named in `without` left out; None where all are.

        A clip stays with one replica, which then hears it once; a change of owners or replicas moves only the clips
        that it must.
        """
        present = {
            name: left
            for name, shards in self.owners.items()
            if (left := [shard for shard in shards if shard.name not in without])
        }
        if not present:
            return None
        # Named apart: the weight by which an owner won its clips must not decide among its replicas as well.
        replicas = {f"replica {shard.name}": shard for shard in present[owner(clip_id, list(present))]}
        return replicas[owner(clip_id, list(replicas))]

    def with_owner(self, shard: ShardHandle) -> Roster:
        """One more owner."""
        return Roster({**self.owners, shard.name: (shard,)})

    def with_replica(self, name: str, replica: ShardHandle) -> Roster:
        """One more replica for an owner."""
        return Roster({**self.owners, name: (*self.owners[name], replica)})

    def without_owner(self, name: str) -> Roster:
        """Without an owner and its replicas."""
        return Roster({other: shards for other, shards in self.owners.items() if other != name})
