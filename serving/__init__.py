"""Layer 4: answer over HTTP. Imports routing and experts; nobody imports it."""
