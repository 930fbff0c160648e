"""The one legend of dimensions used in every signature.

B   domains (subproblems), or a batch of inputs, leading
Q   specification rows: linear functions of a node that are bounded
N   neurons of one node, flattened
D   input entries, flattened
C   classes (network outputs)
K   clauses of a property
L   lanes: attempts of one attack that run side by side on one query (a clause and a restart)
M   candidates in a pool
R   rows of an LP or MIP
V   columns (variables) of an LP or MIP
"""
