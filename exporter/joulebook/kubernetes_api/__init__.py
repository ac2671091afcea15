"""The Kubernetes API server: asked and watched, by the node's daemon and by the collector."""
