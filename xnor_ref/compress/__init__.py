"""MST-compression (ICCV 2023, pp. 6091-6100): binary layers computed and stored along a tree of their output channels.

This is reconstructed from the paper's abstract. The identity, the costs and the tree are derived in docs/compression.md
and checked by tests. They make no claim about the paper's own figures.
"""
