"""Drama in one file: a Mamba-2 world model, and an actor-critic trained in its imagination.

The paper: Wang et al., "Drama: Mamba-Enabled Model-Based Reinforcement Learning Is Sample and
Parameter Efficient", ICLR 2025, arXiv 2410.08893. Read from top to bottom: arguments, replay,
networks, Mamba-2, world model, imagination, actor-critic, optimiser, training loop.

    python examples/drama_in_one_file.py                       # drama/Catch-v0 on one CPU core
    python examples/drama_in_one_file.py --env-id CartPole-v1  # vectors instead of images

Every operation is in its plainest form. The package computes the same numbers faster, and has more
sequence models, PPO, checkpoints and evaluation; tests/test_one_file.py holds the two together.

    o_t       obs     observation: uint8 image (H, W, 3) or float vector (S,)
    z_t       stoch   categorical latent of K variables x C classes, one-hot and flattened: (Z,)
    d_t       deter   deterministic state, the sequence-model output after reading (z_t, a_t): (D,)
    r_t, e_t          reward and termination: the outcome of action a_t taken at o_t
    shapes            B batch, T time, A actions; Mamba-2: E inner width, H heads of P, N states
"""

import copy
import itertools
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from drama import make_env  # a Gymnasium environment by id: all that is used of the package


@dataclass(frozen=True)
class Args:
    """The preset `quick`, for small images; in brackets the paper's `xs` where it differs."""

    env_id: str = "drama/Catch-v0"  # Gymnasium id: image or vector observations, discrete actions
    seed: int = 0
    steps: int = 5000  # environment steps, random warm-up included [100000]
    warmup_steps: int = 1000  # steps with random actions before the first update [1024]
    world_model_ratio: float = 0.2  # world-model updates per environment step [1]
    behaviour_ratio: float = 0.2  # behaviour updates per environment step [1]
    eval_episodes: int = 100  # greedy episodes after training
    log_every: int = 500
    device: str = "cpu"  # or cuda
    threads: int = 1

    # Replay
    capacity: int = 100_000  # transitions
    sampler: Literal["dfs", "uniform"] = "dfs"
    tau: float = 2.0  # temperature of DFS: 10 for 16 windows sampled a step, here 3.2 [10]
    alpha: float = 1.0  # DFS for imagination: weight of the imagination counter b
    beta: float = 1.0  # DFS for imagination: weight of max(0, v - b)
    random_shift: tuple[int, int] = (1, 1)  # of images for the world model, in pixels [0 0]

    # World model
    filters: tuple[int, ...] = (16, 32, 48)  # of encoder and decoder [16 32 48 64 64]
    kernel: int = 3  # side of the convolution kernels [5]
    stem_stride: int = 2  # stride of the first convolution [1]; the others have 2
    image_loss: Literal["squared-error", "cross-entropy"] = "cross-entropy"  # [squared-error]
    standardise_obs: bool = True  # vectors; images are deviations from their mean [False]
    vector_units: int = 256  # hidden units of encoder and decoder for vector observations
    latent_variables: int = 32  # K, of vectors if spatial_latents is not 0
    latent_classes: int = 8  # C [32]
    spatial_latents: int = 2  # images: variables at each position of the last feature map [0]
    unimix: float = 0.01  # share of the uniform distribution in each categorical
    width: int = 256  # D [512]
    blocks: int = 2  # Mamba-2 blocks
    d_state: int = 16  # N
    d_conv: int = 4  # taps of the causal convolution
    expand: int = 2  # E / D
    headdim: int = 64  # P [128]
    chunk_size: int = 64  # steps of the scan handled as one matrix product; no effect on results
    head_units: int = 128  # hidden units of reward and termination head [256]
    bins: int = 255  # two-hot bins over symlog space, also for the critic
    bin_limit: float = 20.0
    free_bits: float = 0.2  # nats of KL without penalty [1]
    beta_dyn: float = 1.0
    beta_rep: float = 0.1
    batch_size: int = 16
    batch_length: int = 32  # [128]
    reset_at_episode_start: bool = True  # clear the state at episode boundaries in a window [False]
    world_model_lr: float = 1e-3  # [4e-5]
    world_model_warmup: int = 50  # updates [1000]
    world_model_clip: float = 100.0  # largest gradient norm [1000]

    # Behaviour
    layers: int = 2  # hidden layers of actor and critic
    actor_units: int = 128  # [256]
    critic_units: int = 128  # [512]
    policy_latent: Literal["prior", "posterior"] = "prior"  # latent used on the real environment
    policy_context: Literal["previous", "current"] = "current"  # see policy_features [previous]
    imagination_batch: int = 128  # trajectories per update [1024]
    context: int = 4  # replayed steps before imagination [8]
    horizon: int = 10  # imagined steps [16]
    gamma: float = 0.985
    lambda_: float = 0.95
    entropy: float = 1e-2  # [3e-4]
    return_decay: float = 0.99
    slow_decay: float = 0.98
    behaviour_lr: float = 1e-3  # [4e-5]
    behaviour_warmup: int = 250  # [1000]
    behaviour_clip: float = 100.0
    eps: float = 1e-8  # of LaProp [1e-20]


# -- Replay with dynamic frequency-based sampling (DFS) --------------------------------------------


class Batch(NamedTuple):
    """Windows of transitions. An episode of n actions takes n + 1: the last has no action."""

    obs: Tensor  # (B, T, H, W, 3) uint8 or (B, T, S) float32
    is_first: Tensor  # (B, T), as all below: first of an episode
    action: Tensor
    reward: Tensor
    terminated: Tensor  # truncation is no termination, and is not learned
    is_last: Tensor  # stores a final observation; action, reward and terminated are padding


class Replay:
    """Ring buffer. A window is named by its last transition, and so are the counters of DFS."""

    def __init__(self, args: Args, obs_shape: tuple[int, ...], image: bool) -> None:
        self.args, self.total, n = args, 0, args.capacity
        obs = torch.zeros(n, *obs_shape, dtype=torch.uint8 if image else torch.float32)
        flag, action = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.int64)
        self.transitions = Batch(obs, flag, action, torch.zeros(n), flag.clone(), flag.clone())
        self.trained = torch.zeros(n, dtype=torch.int64)  # v: times sampled for the world model
        self.imagined = torch.zeros(n, dtype=torch.int64)  # b: times sampled to start imagination

    def add(self, *transition) -> None:
        """Write obs, is_first, action, reward, terminated, is_last over the oldest transition."""
        slot = self.total % self.args.capacity
        for column, value in zip(self.transitions, transition, strict=True):
            column[slot] = torch.as_tensor(value)
        self.trained[slot] = self.imagined[slot] = 0
        self.total += 1

    def probabilities(self, purpose: str, length: int) -> Tensor:
        """Probability of each stored transition to end a sampled window of `length` steps: (n,).

        "world_model":  softmax(-v / τ), least trained on first
        "behaviour":    softmax((v - α b - β max(0, v - b)) / τ), most imagined from last
        """
        args, n = self.args, min(self.total, self.args.capacity)
        v = self.trained[:n].double()
        b = self.imagined[:n].double() / (args.imagination_batch / args.batch_size)  # to v's scale
        score = torch.zeros_like(v)
        if args.sampler == "dfs" and purpose == "world_model":
            score = -v / args.tau
        elif args.sampler == "dfs":
            score = (v - args.alpha * b - args.beta * (v - b).clamp(min=0)) / args.tau
        # The whole window must be stored: the oldest transition lies where the next is written.
        allowed = (torch.arange(n) - self.total) % n >= length - 1
        if purpose == "behaviour":  # imagination needs a future
            # At an episode's first transition it starts before the action, not after it.
            ended = self.transitions.terminated[:n] & ~self.transitions.is_first[:n]
            allowed &= ~(ended | self.transitions.is_last[:n])
        return score.masked_fill(~allowed, -math.inf).softmax(0)

    def sample(self, purpose: str, batch: int, length: int) -> Batch:
        p = self.probabilities(purpose, length)  # repeats only where there are too few to choose
        end = torch.multinomial(p, batch, replacement=bool((p > 0).sum() < batch))  # (B,)
        counter = self.trained if purpose == "world_model" else self.imagined
        counter.index_add_(0, end, torch.ones_like(end))
        index = (end[:, None] + torch.arange(1 - length, 1)) % self.args.capacity  # (B, T)
        windows = Batch(*(column[index] for column in self.transitions))
        if purpose == "world_model" and windows.obs.dim() == 5 and any(self.args.random_shift):
            return windows._replace(obs=shift(windows.obs, self.args.random_shift))
        return windows


def shift(obs: Tensor, most: tuple[int, int]) -> Tensor:
    """Shift each window (B, T, H, W, 3) by up to `most` rows and columns; edges are repeated."""
    for axis, pixels in zip((2, 3), most, strict=True):
        offset = torch.randint(-pixels, pixels + 1, (len(obs), 1))
        index = (torch.arange(obs.shape[axis]) - offset).clamp(0, obs.shape[axis] - 1)
        obs = torch.stack([o.index_select(axis - 1, i) for o, i in zip(obs, index, strict=True)])
    return obs


# -- Distributions and networks --------------------------------------------------------------------


def mix_uniform(logits: Tensor, share: float) -> Tensor:
    """Log-probabilities of (1 - share) softmax(logits) + share / C, (..., C)."""
    return ((1 - share) * logits.softmax(-1) + share / logits.shape[-1]).log()


def sample_class(log_probs: Tensor) -> Tensor:
    """First class whose cumulative probability exceeds a uniform number: (..., C) to (...)."""
    cumulative = log_probs.exp().cumsum(-1)
    u = torch.rand(*log_probs.shape[:-1], 1, dtype=log_probs.dtype) * cumulative[..., -1:]
    return (cumulative <= u).sum(-1).clamp(max=log_probs.shape[-1] - 1)


def sample_latent(log_probs: Tensor) -> Tensor:
    """One-hot sample with straight-through gradient: (..., K, C) to (..., Z)."""
    index = sample_class(log_probs)
    one_hot, probs = F.one_hot(index, log_probs.shape[-1]), log_probs.exp()
    return (one_hot + (probs - probs.detach())).flatten(-2)  # value one_hot, gradient of probs


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL[p ‖ q] summed over the latent variables: (..., K, C) to (...)."""
    return (log_p.exp() * (log_p - log_q)).sum((-2, -1))


def symlog(x: Tensor) -> Tensor:
    return x.sign() * x.abs().log1p()


class TwoHot:
    """Scalars as distributions over `bins` equally spaced points of symlog space (DreamerV3)."""

    def __init__(self, args: Args) -> None:
        half, self.limit = args.bins // 2, args.bin_limit
        self.width = self.limit / half
        self.bins = torch.arange(-half, half + 1) * self.width  # (bins,)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy to the two bins around symlog(target): (..., bins), (...) to (...)."""
        position = (symlog(target).clamp(-self.limit, self.limit) + self.limit) / self.width
        lower = position.floor().clamp(0, len(self.bins) - 2)
        upper_weight = (position - lower)[..., None]
        code = F.one_hot(lower.long(), len(self.bins)) * (1 - upper_weight)
        code = code + F.one_hot(lower.long() + 1, len(self.bins)) * upper_weight
        return -(code * logits.log_softmax(-1)).sum(-1)

    def decode(self, logits: Tensor) -> Tensor:
        """symexp of the mean bin: (..., bins) to (...)."""
        mean = (logits.softmax(-1) * self.bins).sum(-1)
        return mean.sign() * mean.abs().expm1()


class RMSNormSiLU(nn.RMSNorm):
    """silu(x / rms(x) * weight)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


class MLP(nn.Module):
    """Hidden layers of linear, RMSNorm and SiLU, then a linear output."""

    def __init__(self, inputs: int, units: int, layers: int, outputs: int, zero: bool) -> None:
        super().__init__()
        sizes, hidden = [inputs] + [units] * layers, []
        for i, o in itertools.pairwise(sizes):
            hidden += [nn.Linear(i, o, bias=False), RMSNormSiLU(o, 1e-5)]
        self.hidden = nn.Sequential(*hidden)
        self.out = nn.Linear(units, outputs)
        if zero:  # reward and value 0, uniform policy at the start
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(x))


def vector_layers(inputs: int, units: int, outputs: int) -> nn.Sequential:
    first = nn.Linear(inputs, units), nn.RMSNorm(units, 1e-5), nn.SiLU()
    second = nn.Linear(units, units), nn.RMSNorm(units, 1e-5), nn.SiLU()
    return nn.Sequential(*first, *second, nn.Linear(units, outputs))


class Moments(nn.Module):
    """Running mean and variance of observations (n, S), moved by each training batch."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / (self.variance + 1e-5).sqrt()).clamp(-10, 10)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        variance, mean = torch.var_mean(x.flatten(0, -2), dim=0, correction=0)
        rate = 0.01 if self.started else 1.0
        self.mean += rate * (mean - self.mean)
        self.variance += rate * (variance - self.variance)
        self.started.fill_(True)


def stoch_size(args: Args, obs_shape: tuple[int, ...]) -> int:
    """Z: variables times classes."""
    if args.spatial_latents and len(obs_shape) == 3:
        return last_side(args, obs_shape) ** 2 * args.spatial_latents * args.latent_classes
    return args.latent_variables * args.latent_classes


def last_side(args: Args, obs_shape: tuple[int, ...]) -> int:
    """Side of the last feature map."""
    return obs_shape[0] // (args.stem_stride * 2 ** (len(args.filters) - 1))


class Encoder(nn.Module):
    """One observation to the logits of q(z_t | o_t): (n, H, W, 3) or (n, S) to (n, Z)."""

    def __init__(self, args: Args, obs_shape: tuple[int, ...]) -> None:
        super().__init__()
        size = stoch_size(args, obs_shape)
        self.image = len(obs_shape) == 3
        if not self.image:
            self.layers = vector_layers(obs_shape[0], args.vector_units, size)
            self.moments = Moments(obs_shape[0]) if args.standardise_obs else nn.Identity()
            return
        side, _, channels = obs_shape
        layers = []
        for i, filters in enumerate(args.filters):
            stride = args.stem_stride if i == 0 else 2
            conv = nn.Conv2d(channels, filters, args.kernel, stride, args.kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(filters), nn.SiLU()]
            channels, side = filters, side // stride
        self.layers = nn.Sequential(*layers)
        self.spatial = args.spatial_latents > 0
        if self.spatial:  # the same layer at each position
            self.out = nn.Linear(channels, args.spatial_latents * args.latent_classes)
        else:
            self.out = nn.Linear(side * side * channels, size)

    def forward(self, obs: Tensor) -> Tensor:
        if not self.image:
            return self.layers(self.moments(symlog(obs)))
        x = self.layers((obs / 255).permute(0, 3, 1, 2))  # (n, 3, H, W) to (n, filters, h, w)
        x = x.permute(0, 2, 3, 1)
        return self.out(x).flatten(1) if self.spatial else self.out(x.flatten(1))


class Decoder(nn.Module):
    """Mirror of the encoder. It reads the latent alone, not d: (n, Z) to (n, H, W, 3) or (n, S)."""

    def __init__(self, args: Args, obs_shape: tuple[int, ...]) -> None:
        super().__init__()
        size = stoch_size(args, obs_shape)
        self.image = len(obs_shape) == 3
        if not self.image:
            self.layers = vector_layers(size, args.vector_units, obs_shape[0])
            self.moments = Moments(obs_shape[0]) if args.standardise_obs else nn.Identity()
            return
        kernel, stride, filters = args.kernel, args.stem_stride, args.filters[::-1]
        self.side, self.map_filters = last_side(args, obs_shape), filters[0]
        self.spatial = args.spatial_latents > 0
        if self.spatial:
            channels = args.spatial_latents * args.latent_classes
            self.inp = nn.Linear(channels, filters[0], bias=False)
        else:
            self.inp = nn.Linear(size, self.side * self.side * filters[0], bias=False)
        layers = [nn.BatchNorm2d(filters[0]), nn.SiLU()]
        for i, o in itertools.pairwise(filters):
            conv = nn.ConvTranspose2d(i, o, kernel, 2, kernel // 2, output_padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(o), nn.SiLU()]
        padding = {"padding": kernel // 2, "output_padding": stride - 1}
        layers += [nn.ConvTranspose2d(filters[-1], obs_shape[2], kernel, stride, **padding)]
        self.layers = nn.Sequential(*layers)
        self.moments = Moments(math.prod(obs_shape)) if args.standardise_obs else None

    def forward(self, stoch: Tensor) -> Tensor:
        """Logits of the pixels, or the standardised symlog vector."""
        if not self.image:
            return self.layers(stoch)
        if self.spatial:
            stoch = stoch.unflatten(-1, (self.side, self.side, -1))  # (n, h, w, K C)
        x = self.inp(stoch).reshape(-1, self.side, self.side, self.map_filters)
        logits = self.layers(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if self.moments is not None:  # what is added here need not be held by the latent
            mean = self.moments.mean.clamp(0.01, 0.99).reshape(logits.shape[1:])
            logits = logits + torch.logit(mean)
        return logits


# -- Layers for spatial latents: their weights are shared across positions -------------------------


def to_map(x: Tensor, side: int) -> Tensor:
    """The entries of (n, D) that divide among the positions, as a map (n, channels, side, side)."""
    channels = x.shape[-1] // side**2
    maps = x[:, : side**2 * channels].unflatten(-1, (side, side, channels))
    return maps.permute(0, 3, 1, 2)


def from_map(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(1)


class SpatialEmbedding(nn.Module):
    """concat(z_t, onehot(a_t)) to the sequence model's input by two convolutions."""

    def __init__(self, args: Args, side: int, actions: int) -> None:
        super().__init__()
        channels, units, self.side = (
            args.spatial_latents * args.latent_classes,
            args.filters[-1],
            side,
        )
        self.size, outputs = side**2 * channels, args.width // side**2
        self.stoch = nn.Conv2d(channels, units, 3, padding=1, bias=False)
        nn.init.normal_(self.stoch.weight, std=(9 * args.spatial_latents) ** -0.5)
        self.action = nn.Linear(actions, units)
        nn.init.normal_(self.action.weight)
        self.out = nn.Conv2d(units, outputs, 3, padding=1)
        self.rest = args.width - side**2 * outputs
        self.norm = RMSNormSiLU(args.width, 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        stoch, action = x[..., : self.size].flatten(0, -2), x[..., self.size :].flatten(0, -2)
        hidden = F.silu(self.stoch(to_map(stoch, self.side)) + self.action(action)[..., None, None])
        y = self.norm(F.pad(from_map(self.out(hidden)), (0, self.rest)))
        return y.reshape(*x.shape[:-1], -1)


class SpatialHidden(nn.Module):
    """d_t to a map: a convolution of its entries by position, plus all entries at each position."""

    def __init__(self, args: Args, side: int) -> None:
        super().__init__()
        units, self.side = args.filters[-1], side
        self.local = nn.Conv2d(args.width // side**2, units, 3, padding=1, bias=False)
        self.everywhere = nn.Linear(args.width, units)

    def forward(self, deter: Tensor) -> Tensor:
        y = self.local(to_map(deter, self.side))
        return F.silu(y + self.everywhere(deter)[..., None, None])


class SpatialPrior(nn.Module):
    """d_t to the logits of the next latents: (..., D) to (..., Z)."""

    def __init__(self, args: Args, side: int) -> None:
        super().__init__()
        self.hidden = SpatialHidden(args, side)
        self.out = nn.Conv2d(args.filters[-1], args.spatial_latents * args.latent_classes, 1)

    def forward(self, deter: Tensor) -> Tensor:
        y = from_map(self.out(self.hidden(deter.flatten(0, -2))))
        return y.reshape(*deter.shape[:-1], -1)


class SpatialHead(nn.Module):
    """Mean and maximum of a hidden map over its positions, then an MLP: (..., D) to (..., n)."""

    def __init__(self, args: Args, side: int, head: MLP) -> None:
        super().__init__()
        self.hidden, self.head = SpatialHidden(args, side), head

    def forward(self, deter: Tensor) -> Tensor:
        y = self.hidden(deter.flatten(0, -2)).flatten(2)
        y = self.head(torch.cat([y.mean(-1), y.amax(-1)], -1))
        return y.reshape(*deter.shape[:-1], -1)


# -- Mamba-2 (Dao and Gu, 2024, arXiv 2405.21060) --------------------------------------------------


def ssd(x, dt, A, B, C, episode, h, chunk_size) -> tuple[Tensor, Tensor]:
    """Run h_t = exp(Δ_t A) h_{t-1} + Δ_t x_t B_tᵀ, y_t = h_t C_t over a window, in chunks.

    Inside a chunk of Q steps this is one masked matrix product, Y = (L ∘ C Bᵀ)(Δ X) with
    L_ij = Π_{j<k<=i} exp(Δ_k A) (section 6 there); from chunk to chunk the state h is passed on.
    No path leads from one episode to another: `episode` (B, T) counts them, h is of number 0.

    x (B, T, H, P), dt (B, T, H), A (H,), B and C (B, T, N) to y (B, T, H, P); h (B, H, P, N).
    """
    before, outputs = torch.zeros_like(episode[:, :1]), []
    for start in range(0, x.shape[1], chunk_size):
        part = slice(start, start + chunk_size)
        xs, dts, Bs, Cs, ep = x[:, part], dt[:, part], B[:, part], C[:, part], episode[:, part]
        log = (dts * A).cumsum(1)  # (B, Q, H): log-decay since the start of the chunk
        linked = (ep[:, :, None] == ep[:, None, :]).tril()[..., None]  # (B, Q, Q, 1)
        between = log[:, :, None] - log[:, None, :]  # (B, Q, Q, H)
        L = between.masked_fill(~linked, -math.inf).exp()
        scores = torch.einsum("bin,bjn->bij", Cs, Bs)[..., None] * L  # L ∘ C Bᵀ
        y = torch.einsum("bijh,bjh,bjhp->bihp", scores, dts, xs)
        from_start = log.exp() * (ep == before)[..., None]  # (B, Q, H): share of h left at step i
        outputs.append(y + torch.einsum("bih,bin,bhpn->bihp", from_start, Cs, h))
        to_end = (log[:, -1:] - log).exp() * (ep == ep[:, -1:])[..., None]  # (B, Q, H)
        new = torch.einsum("bjh,bjh,bjhp,bjn->bhpn", to_end, dts, xs, Bs)
        h, before = from_start[:, -1, :, None, None] * h + new, ep[:, -1:]
    return torch.cat(outputs, 1), h


class Mamba2(nn.Module):
    """The Mamba-2 layer (section 7 there), with the parameter names of mamba_ssm.

    State: the last inputs of the convolution (B, E + 2N, taps - 1), and h (B, H, P, N).
    """

    def __init__(self, args: Args) -> None:
        super().__init__()
        E, N, P = args.expand * args.width, args.d_state, args.headdim
        H, conv_dim, self.chunk_size = E // P, E + 2 * N, args.chunk_size
        self.in_proj = nn.Linear(args.width, E + conv_dim + H, bias=False)
        self.conv1d = nn.Conv1d(conv_dim, conv_dim, args.d_conv, groups=conv_dim)
        dt = torch.exp(torch.rand(H) * math.log(0.1 / 0.001) + math.log(0.001))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # softplus(dt_bias) = dt
        self.A_log = nn.Parameter(torch.empty(H).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(H))
        self.norm = nn.RMSNorm(E, 1e-5)
        self.out_proj = nn.Linear(E, args.width, bias=False)
        self.split_proj, self.split_conv = (E, conv_dim, H), (E, N, N)
        self.state_shapes = (conv_dim, args.d_conv - 1), (H, P, N)

    def forward(self, u: Tensor, is_first: Tensor, state: tuple) -> tuple[Tensor, tuple]:
        """Read a window (B, T, D) in parallel; T = 1 is a step, at constant cost."""
        past, h = state
        z, xBC, dt = self.in_proj(u).split(self.split_proj, -1)  # (B, T, E | E + 2N | H)
        # Causal depthwise convolution, over inputs of the same episode.
        taps = self.conv1d.weight.shape[-1]
        window = torch.cat([past, xBC.transpose(1, 2)], -1).unfold(-1, taps, 1)
        episode = is_first.long().cumsum(1)  # (B, T): 0 continues the given state
        same = F.pad(episode, (taps - 1, 0)).unfold(1, taps, 1) == episode[..., None]
        window = window * same[:, None]  # (B, E + 2N, T, taps)
        xBC = (window * self.conv1d.weight).sum(-1).transpose(1, 2) + self.conv1d.bias
        x, B, C = F.silu(xBC).split(self.split_conv, -1)  # (B, T, E | N | N)
        # State-space model.
        x = x.unflatten(-1, (*self.D.shape, -1))  # (B, T, H, P)
        dt = F.softplus(dt + self.dt_bias)  # (B, T, H): Δ > 0
        y, h = ssd(x, dt, -self.A_log.exp(), B, C, episode, h, self.chunk_size)
        y = (y + self.D[:, None] * x).flatten(2)  # (B, T, E), with the skip connection
        return self.out_proj(self.norm(y * F.silu(z))), (window[:, :, -1, 1:], h)


class Block(nn.Module):
    """Pre-norm residual block: x + mixer(RMSNorm(x))."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        self.norm, self.mixer = nn.RMSNorm(args.width, 1e-5), Mamba2(args)

    def forward(self, x: Tensor, is_first: Tensor, state: tuple) -> tuple[Tensor, tuple]:
        y, state = self.mixer(self.norm(x), is_first, state)
        return x + y, state


class Dynamics(nn.Module):
    """d_t = f(z_{1:t}, a_{1:t}): Mamba-2 blocks and a final RMSNorm; a state for each block."""

    def __init__(self, args: Args) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(args) for _ in range(args.blocks))
        self.norm = nn.RMSNorm(args.width, 1e-5)

    def init_state(self, batch: int) -> list:
        shapes = [block.mixer.state_shapes for block in self.blocks]
        return [tuple(torch.zeros(batch, *shape) for shape in pair) for pair in shapes]

    def forward(self, x: Tensor, is_first: Tensor, state: list) -> tuple[Tensor, list]:
        new = []
        for block, before in zip(self.blocks, state, strict=True):
            x, after = block(x, is_first, before)
            new.append(after)
        return self.norm(x), new


def clear(states: list, is_first: Tensor) -> list:
    """Empty the state where an episode starts: `is_first` (B,)."""
    return [tuple(s * ~is_first.view(-1, *[1] * (s.dim() - 1)) for s in pair) for pair in states]


# -- World model (the paper's section on world-model learning) -------------------------------------


class WorldModel(nn.Module):
    """Discrete VAE, sequence model, and heads for next latent, reward and termination."""

    def __init__(self, args: Args, obs_shape: tuple[int, ...], num_actions: int) -> None:
        super().__init__()
        self.args, self.obs_shape, self.num_actions = args, obs_shape, num_actions
        width, units = args.width, args.head_units
        self.encoder = Encoder(args, obs_shape)
        self.decoder = Decoder(args, obs_shape)
        self.stoch_size = stoch_size(args, obs_shape)
        if args.spatial_latents and len(obs_shape) == 3:
            side, pooled = last_side(args, obs_shape), 2 * args.filters[-1]
            self.embed = SpatialEmbedding(args, side, num_actions)
            self.dynamics = Dynamics(args)
            self.prior_head = SpatialPrior(args, side)
            reward = MLP(pooled, units, 1, args.bins, zero=True)
            self.reward_head = SpatialHead(args, side, reward)
            termination = MLP(pooled, units, 1, 1, zero=False)
            self.termination_head = SpatialHead(args, side, termination)
        else:
            embed = nn.Linear(self.stoch_size + num_actions, width, bias=False)
            self.embed = nn.Sequential(embed, RMSNormSiLU(width, 1e-5))
            self.dynamics = Dynamics(args)
            self.prior_head = nn.Linear(width, self.stoch_size)
            self.reward_head = MLP(width, units, 1, args.bins, zero=True)
            self.termination_head = MLP(width, units, 1, 1, zero=False)
        self.twohot = TwoHot(args)

    def posterior(self, obs: Tensor) -> Tensor:
        """q(z_t | o_t), log-probabilities: (..., H, W, 3) or (..., S) to (..., K, C)."""
        logits = self.encoder(obs.reshape(-1, *self.obs_shape))
        lead = obs.shape[: -len(self.obs_shape)]
        return mix_uniform(logits.reshape(*lead, -1, self.args.latent_classes), self.args.unimix)

    def prior(self, deter: Tensor) -> Tensor:
        """p(z_{t+1} | d_t), log-probabilities: (..., D) to (..., K, C)."""
        logits = self.prior_head(deter).unflatten(-1, (-1, self.args.latent_classes))
        return mix_uniform(logits, self.args.unimix)

    def sequence_input(self, stoch: Tensor, action: Tensor) -> Tensor:
        """concat(z_t, onehot(a_t)), linear, RMSNorm, SiLU: (..., Z), (...) to (..., D)."""
        one_hot = action[..., None] == torch.arange(self.num_actions)  # all 0 for action -1
        return self.embed(torch.cat([stoch, one_hot.to(stoch.dtype)], -1))

    def observe(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, list]:
        """A window in one parallel pass: the posterior needs one frame, so nothing is recurrent."""
        posterior = self.posterior(batch.obs)  # (B, T, K, C)
        stoch = sample_latent(posterior)  # (B, T, Z)
        resets = batch.is_first
        if not self.args.reset_at_episode_start:
            resets = torch.zeros_like(resets)  # the paper: left to the selective mechanism
        inputs = self.sequence_input(stoch, batch.action)  # (B, T, D)
        deter, state = self.dynamics(inputs, resets, self.dynamics.init_state(len(inputs)))
        return posterior, stoch, deter, state

    def step(self, stoch: Tensor, action: Tensor, state: list) -> tuple[Tensor, list]:
        """Read (z_t, a_t): (B, Z), (B,) to d_t (B, D) and the next state."""
        inputs = self.sequence_input(stoch, action)[:, None]  # a window of one
        deter, state = self.dynamics(inputs, torch.zeros(len(stoch), 1, dtype=torch.bool), state)
        return deter[:, 0], state

    def policy_features(self, stoch: Tensor, deter: Tensor, state: list) -> Tensor:
        """Input of actor and critic, concat(z_t, d_{t-1}): (B, Z + D).

        With policy_context "current", the sequence-model output for z_t with a null action replaces
        d_{t-1}; the state is left unchanged. It costs a second step of the model.
        """
        if self.args.policy_context == "current":
            null = torch.full(stoch.shape[:1], -1)
            deter, _ = self.step(stoch, null, state)
        return torch.cat([stoch, deter], -1)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The paper's equations 6 and 7: L_rec + L_rew + L_end + β_dyn L_dyn + β_rep L_rep."""
        args = self.args
        if self.training and args.standardise_obs:
            self.update_moments(batch.obs)
        posterior, stoch, deter, _ = self.observe(batch)
        reconstruction = self.reconstruction_loss(stoch.flatten(0, 1), batch.obs.flatten(0, 1))

        acted = ~batch.is_last  # (B, T): a final observation has no action, so no outcome
        reward = masked_mean(self.twohot.loss(self.reward_head(deter), batch.reward), acted)
        logits, ended = self.termination_head(deter).squeeze(-1), batch.terminated.to(deter.dtype)
        end_loss = F.binary_cross_entropy_with_logits(logits, ended, reduction="none")
        termination = masked_mean(end_loss, acted)

        # d_t predicts z_{t+1}, but not across an episode boundary. sg(·) is detach().
        prior, posterior_next = self.prior(deter[:, :-1]), posterior[:, 1:]  # (B, T - 1, K, C)
        linked = ~batch.is_first[:, 1:]  # (B, T - 1)
        kl = kl_divergence(posterior_next.detach(), prior)
        dyn = masked_mean(kl.clamp(min=args.free_bits), linked)
        rep = kl_divergence(posterior_next, prior.detach())
        rep = masked_mean(rep.clamp(min=args.free_bits), linked)

        loss = reconstruction + reward + termination + args.beta_dyn * dyn + args.beta_rep * rep
        metrics = {
            "loss": loss,
            "reconstruction": reconstruction,
            "reward": reward,
            "termination": termination,
            "dyn": dyn,
            "rep": rep,
            "kl": masked_mean(kl, linked),
            "posterior_entropy": -(posterior.exp() * posterior).sum((-2, -1)).mean(),
        }
        return loss, {name: value.detach() for name, value in metrics.items()}

    def reconstruction_loss(self, stoch: Tensor, obs: Tensor) -> Tensor:
        """Mean over (n, Z) and (n, ...) of the error summed over an observation."""
        decoded = self.decoder(stoch)
        if not self.encoder.image:
            error = (decoded - self.decoder.moments(symlog(obs))).square()
        elif self.args.image_loss == "squared-error":
            error = (torch.sigmoid(decoded) - obs / 255).square()
        else:  # less its smallest value, the entropy of the target
            y = obs / 255
            error = F.binary_cross_entropy_with_logits(decoded, y, reduction="none")
            error = error + torch.xlogy(y, y) + torch.xlogy(1 - y, 1 - y)
        return error.flatten(1).sum(-1).mean()

    def update_moments(self, obs: Tensor) -> None:
        """Of symlog vectors, or of the pixels of images."""
        x = obs.flatten(2) / 255 if self.encoder.image else symlog(obs)
        for part in (self.decoder,) if self.encoder.image else (self.encoder, self.decoder):
            part.moments.update(x)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)


# -- Imagination, and the actor-critic trained in it (after DreamerV3) -----------------------------


class Rollout(NamedTuple):
    """Imagined trajectories of H steps from B starts."""

    features: Tensor  # (B, H + 1, Z + D)
    action: Tensor  # (B, H)
    reward: Tensor  # (B, H)
    termination: Tensor  # (B, H), probabilities: rollouts do not stop at an imagined end


@torch.no_grad()
def imagine(world_model: WorldModel, behaviour: "ActorCritic", context: Batch) -> Rollout:
    """Read `context` (B, T) in parallel, then act for `horizon` steps on predicted latents."""
    args = world_model.args
    _, posterior_stoch, deter, state = world_model.observe(context)
    deter = deter[:, -1]  # (B, D)
    stoch = sample_latent(world_model.prior(deter))  # (B, Z)
    # Where the last context step is the first of an episode, start at it: posterior, d = 0.
    fresh = context.is_first[:, -1]
    stoch = torch.where(fresh[:, None], posterior_stoch[:, -1], stoch)
    deter, state = deter * ~fresh[:, None], clear(state, fresh)
    features = [world_model.policy_features(stoch, deter, state)]
    actions, deters = [], []
    for _ in range(args.horizon):
        action = sample_class(behaviour.policy(features[-1]))  # (B,)
        deter, state = world_model.step(stoch, action, state)  # d_t
        stoch = sample_latent(world_model.prior(deter))  # ẑ_{t+1} ~ p(· | d_t)
        features.append(world_model.policy_features(stoch, deter, state))
        actions.append(action)
        deters.append(deter)
    after = torch.stack(deters, 1)  # (B, H, D): d_t predicts the outcome of a_t
    reward = world_model.twohot.decode(world_model.reward_head(after))
    termination = world_model.termination_head(after).squeeze(-1).sigmoid()
    return Rollout(torch.stack(features, 1), torch.stack(actions, 1), reward, termination)


def lambda_return(reward, termination, value, gamma: float, lambda_: float) -> Tensor:
    """R_t = r_t + γ (1 - e_t) [(1 - λ) V(s_{t+1}) + λ R_{t+1}], R_H = V(s_H).

    reward and termination (B, H), value (B, H + 1); returns (B, H).
    """
    following, returns = value[:, -1], []
    for t in reversed(range(reward.shape[1])):
        mixed = (1 - lambda_) * value[:, t + 1] + lambda_ * following
        following = reward[:, t] + gamma * (1 - termination[:, t]) * mixed
        returns.insert(0, following)
    return torch.stack(returns, 1)


class ReturnScale(nn.Module):
    """S: range from the 5th to the 95th percentile of returns, as exponential moving averages."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def update(self, returns: Tensor) -> None:
        decay = self.decay if self.started else 0.0  # the first batch sets them
        for running, share in ((self.low, 0.05), (self.high, 0.95)):
            running.copy_(decay * running + (1 - decay) * returns.quantile(share))
        self.started.fill_(True)

    def forward(self) -> Tensor:
        return (self.high - self.low).clamp(min=1)


class ActorCritic(nn.Module):
    """Actor, critic over two-hot bins, and a slow copy of the critic."""

    def __init__(self, args: Args, features: int, num_actions: int) -> None:
        super().__init__()
        self.args = args
        self.actor = MLP(features, args.actor_units, args.layers, num_actions, zero=True)
        self.critic = MLP(features, args.critic_units, args.layers, args.bins, zero=True)
        self.twohot = TwoHot(args)
        self.return_scale = ReturnScale(args.return_decay)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)

    def policy(self, features: Tensor) -> Tensor:
        """Log-probabilities of the actions: (..., Z + D) to (..., A)."""
        return self.actor(features).log_softmax(-1)

    def loss(self, rollout: Rollout) -> tuple[Tensor, dict[str, Tensor]]:
        args, (features, action, reward, termination) = self.args, rollout
        critic_logits = self.critic(features)  # (B, H + 1, bins)
        with torch.no_grad():
            value = self.twohot.decode(critic_logits)  # (B, H + 1)
            slow_value = self.twohot.decode(self.slow_critic(features))
            returns = lambda_return(reward, termination, value, args.gamma, args.lambda_)  # (B, H)
            slow_returns = lambda_return(reward, termination, slow_value, args.gamma, args.lambda_)
            self.return_scale.update(returns)
            scale = self.return_scale()
            # Continuation weights, Π_{k<t} (1 - e_k): nothing is learned beyond an imagined end.
            alive = (1 - termination).cumprod(1)
            weight = torch.cat([torch.ones_like(alive[:, :1]), alive[:, :-1]], 1)  # (B, H)

        # Actor: score function with advantages scaled by max(1, S), and entropy bonus.
        log_probs = self.policy(features[:, :-1])  # (B, H, A)
        log_prob = log_probs.gather(-1, action[..., None]).squeeze(-1)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        advantage = (returns - value[:, :-1]) / scale
        actor = -(weight * (advantage * log_prob + args.entropy * entropy)).mean()

        # Critic: regressed on R, and regularised to the returns under its slow copy.
        critic = (weight * self.twohot.loss(critic_logits[:, :-1], returns)).mean()
        slow_critic = (weight * self.twohot.loss(critic_logits[:, :-1], slow_returns)).mean()

        loss = actor + critic + slow_critic
        mean_return = (weight * returns).sum() / weight.sum()
        metrics = {"actor": actor, "critic": critic, "slow_critic": slow_critic}
        metrics |= {"entropy": entropy.mean(), "return": mean_return, "return_scale": scale}
        return loss, {name: value.detach() for name, value in metrics.items()}

    @torch.no_grad()
    def update_slow_critic(self) -> None:
        pairs = zip(self.slow_critic.parameters(), self.critic.parameters(), strict=True)
        for slow, fast in pairs:
            slow.mul_(self.args.slow_decay).add_((1 - self.args.slow_decay) * fast)


# -- Optimiser, acting, training loop --------------------------------------------------------------


class LaProp:
    """LaProp (Ziyin et al., 2020): Adam with the division before the average instead of after it.

    v = β₂ v + (1 - β₂) g²        m = β₁ m + (1 - β₁) a_t g √(1 - β₂ᵗ) / (√v + ε)
    p = p - a_t m / b_t           b = β₁ b + (1 - β₁) a_t

    a_t is the learning rate after a linear warm-up, g the gradient clipped by norm.
    """

    def __init__(self, module: nn.Module, lr: float, warmup: int, clip: float, eps: float) -> None:
        self.params = [p for p in module.parameters() if p.requires_grad]
        self.lr, self.warmup, self.clip, self.eps, self.betas = lr, warmup, clip, eps, (0.9, 0.999)
        self.v = [torch.zeros_like(p) for p in self.params]
        self.m = [torch.zeros_like(p) for p in self.params]
        self.t, self.b = 0, 0.0

    def step(self, loss: Tensor) -> Tensor:
        """Backward pass and update; returns the gradient norm before clipping."""
        for p in self.params:
            p.grad = None
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.params, self.clip)
        self.t += 1
        beta1, beta2 = self.betas
        a = self.lr * min(1.0, self.t / max(1, self.warmup))
        self.b = beta1 * self.b + (1 - beta1) * a
        with torch.no_grad():
            for p, v, m in zip(self.params, self.v, self.m, strict=True):
                v.mul_(beta2).add_((1 - beta2) * p.grad**2)
                scaled = p.grad * math.sqrt(1 - beta2**self.t) / (v.sqrt() + self.eps)
                m.mul_(beta1).add_((1 - beta1) * a * scaled)
                p.sub_(a / self.b * m)
        return norm


def init_carry(world_model: WorldModel, batch: int) -> tuple[Tensor, list]:
    """d = 0 and an empty state: before the first observation of `batch` episodes."""
    return torch.zeros(batch, world_model.args.width), world_model.dynamics.init_state(batch)


@torch.no_grad()
def act(world_model, behaviour, obs: Tensor, is_first: Tensor, carry, greedy: bool = False):
    """Act on observations (B, ...) of the real environment; greedy: the most probable action.

    The policy reads the prior latent predicted from d_{t-1}, as in imagination; o_t enters through
    the state of the next step. First frames have no past: there it reads the posterior, and d = 0.
    """
    args, (deter, state) = world_model.args, carry
    deter, state = deter * ~is_first[:, None], clear(state, is_first)
    stoch = latent = sample_latent(world_model.posterior(obs))  # (B, Z)
    if args.policy_latent == "prior":
        prior = sample_latent(world_model.prior(deter))
        latent = torch.where(is_first[:, None], stoch, prior)
    log_probs = behaviour.policy(world_model.policy_features(latent, deter, state))  # (B, A)
    action = log_probs.argmax(-1) if greedy else sample_class(log_probs)
    return action, world_model.step(stoch, action, state)


def batched(x) -> Tensor:
    """A batch of one."""
    return torch.as_tensor(x)[None]


def evaluate(args: Args, world_model: WorldModel, behaviour: ActorCritic) -> float:
    """Mean return of greedy episodes in an environment with another seed."""
    env = make_env(args.env_id, args.seed + 10_000, life_loss=False)
    returns = []
    for _ in range(args.eval_episodes):
        (obs, _), carry, is_first, done = env.reset(), init_carry(world_model, 1), True, False
        returns.append(0.0)
        while not done:
            action, carry = act(
                world_model, behaviour, batched(obs), batched(is_first), carry, greedy=True
            )
            obs, reward, terminated, truncated, _ = env.step(int(action))
            returns[-1] += float(reward)
            is_first, done = False, terminated or truncated
    env.close()
    return float(np.mean(returns))


def main(args: Args) -> float:
    torch.manual_seed(args.seed)
    env = make_env(args.env_id, args.seed)  # seeds the first reset; later ones continue from it
    obs_shape, num_actions = env.observation_space.shape, int(env.action_space.n)
    world_model = WorldModel(args, obs_shape, num_actions).eval()
    features = world_model.stoch_size + args.width
    behaviour = ActorCritic(args, features, num_actions)
    world_model_optimiser = LaProp(
        world_model, args.world_model_lr, args.world_model_warmup, args.world_model_clip, args.eps
    )
    behaviour_optimiser = LaProp(
        behaviour, args.behaviour_lr, args.behaviour_warmup, args.behaviour_clip, args.eps
    )
    replay = Replay(args, obs_shape, image=env.observation_space.dtype == np.uint8)

    obs, _ = env.reset()
    is_first, carry, episode_return, returns = True, init_carry(world_model, 1), 0.0, []
    model_updates = behaviour_updates = 0
    model_log, behaviour_log = {}, {}
    for step in range(1, args.steps + 1):
        # 1. One step of the environment.
        if step <= args.warmup_steps:
            # Not NumPy's generator: seeded alike, it would repeat the numbers of the environment.
            action = torch.randint(num_actions, ())
        else:
            action, carry = act(world_model, behaviour, batched(obs), batched(is_first), carry)
        next_obs, reward, terminated, truncated, _ = env.step(int(action))
        replay.add(obs, is_first, int(action), reward, terminated, False)
        obs, is_first, episode_return = next_obs, False, episode_return + float(reward)
        if terminated or truncated:
            replay.add(obs, False, 0, 0.0, False, True)  # the final observation
            returns.append(episode_return)
            (obs, _), is_first, episode_return = env.reset(), True, 0.0

        # 2. The world model learns from replayed windows. BatchNorm uses batch statistics there,
        #    and running ones in imagination and acting.
        while model_updates < int((step - args.warmup_steps) * args.world_model_ratio):
            batch = replay.sample("world_model", args.batch_size, args.batch_length)
            loss, model_log = world_model.train().loss(batch)
            world_model_optimiser.step(loss)
            world_model.eval()
            model_updates += 1

        # 3. Actor and critic learn from imagined trajectories alone.
        while behaviour_updates < int((step - args.warmup_steps) * args.behaviour_ratio):
            context = replay.sample("behaviour", args.imagination_batch, args.context)
            loss, behaviour_log = behaviour.loss(imagine(world_model, behaviour, context))
            behaviour_optimiser.step(loss)
            behaviour.update_slow_critic()
            behaviour_updates += 1

        if step % args.log_every == 0:
            log, names = model_log | behaviour_log, ("reconstruction", "kl", "actor", "entropy")
            shown = (f"{name} {float(log[name]):.3g}" for name in names if name in log)
            mean = np.mean(returns[-20:] or [math.nan])
            print(f"step {step}  return {mean:.2f}", *shown, sep="  ", flush=True)
    env.close()
    score = evaluate(args, world_model, behaviour)
    print(f"mean greedy return over {args.eval_episodes} episodes: {score:.2f}")
    return score


if __name__ == "__main__":
    cli = tyro.cli(Args)
    torch.set_num_threads(cli.threads)
    torch.set_default_device(cli.device)
    main(cli)
