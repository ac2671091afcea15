"""Callbacks of training frameworks, each a module of its own that loads its framework."""
