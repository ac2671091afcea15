"""A client of the Kubernetes API server, for the node's daemon and the collector."""
