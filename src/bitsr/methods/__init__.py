"""Binary methods."""
