"""The encoded directory: records of latents and token embeddings in memory-mapped Arrow IPC shards."""

from tessera.encoded.record import EncodedRecord
from tessera.encoded.store import EncodedStore, open_encoded, write_encoded

__all__ = ["EncodedRecord", "EncodedStore", "open_encoded", "write_encoded"]
