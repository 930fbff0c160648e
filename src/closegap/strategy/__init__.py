"""Which engine works when on one query; all share one bracket, one pool, one set of bounds."""
