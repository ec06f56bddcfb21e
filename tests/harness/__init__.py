"""Starts what the tests talk to: gateways, stores, Prometheus, nginx. Loopback only, free ports, stopped by pid."""
