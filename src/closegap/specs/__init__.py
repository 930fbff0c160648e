"""What is asked: regions of inputs, properties of outputs, queries, and VNN-LIB files."""
