"""MST-compression (ICCV 2023, pp. 6091-6100): a binary layer computed and stored along a tree of its output channels.

Two filters of n signs that differ in d places give sums that follow from each other by d additions. So output
channels are the vertices of a graph whose edges weigh d, a minimum spanning tree says which channel follows from which,
and n + E operations replace o*n (E the weight of the tree, o the number of channels). `tree` builds the tree, `execute`
runs a layer along it, `costs` counts, `codec` writes it as bytes. Everything here works on packed filters or latent
weights and knows no networks; `packed.compressing` and `packed.trees` put it into model files.

All of this is reconstructed from the paper's abstract. The identity, the costs and the tree are derived
(docs/compression.md) and checked by tests; they claim nothing about the paper's own figures.
"""
