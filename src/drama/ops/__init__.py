"""Low-level operations: each has one home, a plain form of a few lines, and its fast versions.

An operation is a function of tensors. It knows no configuration, optimiser or logger. Layers
(``drama.ssm``, ``drama.world_model``, ``drama.dynamics``) call it and read like the paper; all that
serves speed is here: versions for CPU and accelerator, hand-written gradients, cache blocking,
number types. The function with the operation's name chooses the version, by device, type and size:

=====================  ============================  ============================================
operation              plain form                    versions
=====================  ============================  ============================================
``pixel_loss``         ``reference``                 blocked (CPU), plain
``rms_norm``           ``reference``                 blocked (CPU), fused by PyTorch
``rms_norm`` (gated)   ``gated_reference``           blocked
``batch_norm``         ``reference``                 saves its input only (CPU), plain; folded into
                                                     the convolution in evaluation
``linear``             ``split(F.linear(...))``      one product for each part
``conv1d``             ``reference``                 tiled, kernels
``recurrence``         its docstring                 blocked (CPU), with gradients
Mamba-1                ``ssm.reference``             ``scan``, ``kernels``
Mamba-2                ``ssm.reference``             ``ssd.factored``, ``ssd.masked``, ``kernels``
=====================  ============================  ============================================

The two scans are public as ``drama.ssm.ssd`` and ``drama.ssm.selective_scan``: equations, checks
and choice are there, the versions here. They and the adapters of the kernels have more than six
parameters because they keep the ecosystem's signature. ``backend`` decides whether a call of a
Mamba layer runs on CUDA kernels. ``dispatch``, ``blocking``, ``autograd``, ``dtypes`` and
``checks`` serve all operations. ``tests/ops/test_contracts.py`` holds every version to the plain
form.
"""
