"""A durable, embeddable, replicated key-value store on Raft."""
