"""Hosts: what carries the core's outcomes to clients."""
