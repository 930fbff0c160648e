"""Which neuron to split next: one scorer a file."""
