"""stub"""
from closegap.graph.network import Network
__all__=["fuse_affine"]
def fuse_affine(network: Network) -> Network:
    return network
