"""What commands mean: the etcd v3 data model, pure and deterministic."""
