"""Layer 3: which node answers a prompt. Imports experts.tree, data_prep.records and settings; no torch."""
