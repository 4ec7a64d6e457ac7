"""Two ways to compute the chunks of Mamba-2's scan; :mod:`drama.ssm.ssd` chooses between them."""
