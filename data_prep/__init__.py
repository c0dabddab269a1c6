"""Layer 2: records on disk become examples, examples become packed shards. Imports experts and settings."""
