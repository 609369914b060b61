"""The asyncio shell around a replica: timers, threads, gRPC. No protocol decisions."""
