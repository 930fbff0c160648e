"""Relations between the neurons of a layer that hold of several at once."""
