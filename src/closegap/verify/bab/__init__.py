"""Complete verification: branch and bound over activation constraints."""
