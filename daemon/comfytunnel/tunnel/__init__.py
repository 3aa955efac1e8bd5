"""One SSH local forward: what decides about it, what carries it, and the door that callers knock at."""
