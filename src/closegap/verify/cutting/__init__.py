"""Branch and cut: certified linear programs with Anderson cuts on the reduced network."""
