"""Jobs: a workflow that was accepted is on disk, and ends exactly once with its outputs on our disk."""
