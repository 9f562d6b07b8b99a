"""Mixed calls through a proxy that injects faults: each answer is correct or a typed error, in time, without leaks."""
