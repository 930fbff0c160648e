"""Branch and bound that bounds every layer again under its splits; for deep networks."""
