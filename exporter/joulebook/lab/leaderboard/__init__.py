"""Results joined to the energy they took, ranked and drawn."""
