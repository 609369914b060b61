"""The whole server without its shell: inputs in, effects out, pure."""
