"""LAUNCH.lock.yaml: what a service was made of, and what differs from it now."""
