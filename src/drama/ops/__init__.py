"""Low-level operations: each has one home, a plain form of a few lines, and its fast versions.

An operation is a function of tensors. It knows no layer, no configuration and no optimiser; layers
(``drama.ssm``, ``drama.world_model``, ``drama.dynamics``) call it and read like the paper. All
that serves speed is here: versions for CPU and accelerator, backward passes written by hand, cache
blocking, number types. Which version runs is decided inside the operation, by
:mod:`drama.ops.dispatch` and the sizes, never by the caller.
"""
