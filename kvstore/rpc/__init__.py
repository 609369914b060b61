"""Between protobuf and the dataclasses inside; streams between members."""
