"""Every class under every instrumentation: whether the client's guarantees hold, and what is recorded."""
