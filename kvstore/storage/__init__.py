"""Bytes on disk: LMDB environments, records with checksums, the data directory."""
