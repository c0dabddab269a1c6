"""Token-level mixture of experts: our router in transformers' blocks, its losses and schedules, and the health of the routing."""
