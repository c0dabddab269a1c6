"""The embedded curriculum: one file a domain that makes records and grades answers. No network."""
