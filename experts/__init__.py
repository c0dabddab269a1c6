"""Layer 1: a model that can answer, and where its versions are kept. Imports settings only."""
