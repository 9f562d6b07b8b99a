"""Streams through a router while a replica is killed and restarted."""
