"""Layer 3: make nodes better, examine them, promote what got better. Imports experts and data_prep."""
