"""MST-compression (ICCV 2023, pp. 6091-6100): a binary layer computed and stored along a tree of its output channels.

All of this is reconstructed from the paper's abstract. The identity, the costs and the tree are derived
(docs/compression.md) and checked by tests; they claim nothing about the paper's own figures.
"""
