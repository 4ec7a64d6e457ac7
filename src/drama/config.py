"""Every knob of a run, each with its meaning beside it.

A [Config][drama.config.Config] is a tree of frozen dataclasses. The command line offers each
field as ``--section.field``; ``config.json`` in a run directory is the same tree as JSON.
The defaults are the paper's (size XS), and its public code's where it is silent;
[drama.presets][] holds the other starting points.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from drama.checked import Checked, fraction, positive, replaced, require
from drama.checked import from_dict as from_dict
from drama.dynamics.config import DynamicsConfig
from drama.errors import ConfigError
from drama.importing import parse_call
from drama.renamed import update_names
from drama.text import brief

EnvMaker = Literal["drama", "gymnasium", "caller"]
SamplerName = Literal["uniform", "dfs", "dfs-trained"]
AlgorithmName = Literal["actor-critic", "ppo"]
AdvantageScale = Literal["returns", "deviation"]
PolicyLatent = Literal["prior", "posterior"]
PolicyContext = Literal["previous", "current"]
ActorGradient = Literal["sampled", "all-actions"]
TwoHotDecode = Literal["symexp-mean", "mean-symexp"]
Precision = Literal["auto", "float32", "bfloat16"]
ReplayDevice = Literal["auto", "cpu", "model"]
Latents = Literal["sampled", "mode"]


@dataclass(frozen=True)
class EnvConfig(Checked):
    """The environment and how it is adapted. The Atari fields are the Atari100k protocol's."""

    id: str = "drama/Catch-v0"
    """Gymnasium id such as ``ALE/Pong-v5``, or an importable factory ``module:make_env``."""
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Arguments of its constructor: ``gravity=-2.0 wind=true``, or one JSON object."""
    wrappers: tuple[str, ...] = ()
    """Wrappers, inner first: ``module:Class`` or ``'module:Class(stack_size=4)'``."""
    made_by: EnvMaker = "drama"
    """``drama``, ``gymnasium`` (nothing but kwargs and wrappers) or ``caller`` (not nameable)."""
    image_size: int | None = None
    """Side in pixels of the frames. None: 64, or their own for built-in games and MinAtar."""
    max_episode_steps: int | None = None
    """Agent steps after which an episode is truncated. None: the environment's own limit."""
    life_loss: bool = True
    """Atari: whether the loss of a life ends the learning episode (never a scored one)."""
    noop_max: int = 30
    """Atari: largest number of random no-ops after a reset."""
    frame_skip: int = 4
    """Atari: frames per agent step; the observation is the maximum over the last two."""
    sticky_actions: float = 0.0
    """Atari: probability that the emulator repeats the last action."""
    full_action_space: bool = False
    """Atari: all 18 actions rather than the game's minimal set."""

    most = {  # noqa: RUF012
        "image_size": 2**12,
        "frame_skip": 1000,
        "noop_max": 10_000,
    }

    def _check(self) -> None:
        for wrapper in self.wrappers:
            parse_call(wrapper)
        require(len(self.id) <= 500, f"env.id is no id: {brief(self.id)}")
        fraction("env", sticky_actions=self.sticky_actions)
        positive("env", frame_skip=self.frame_skip)
        require(self.noop_max >= 0, f"env.noop_max must not be negative, got {self.noop_max}")
        if self.image_size is not None:
            positive("env", image_size=self.image_size)
        if self.max_episode_steps is not None:
            positive("env", max_episode_steps=self.max_episode_steps)


@dataclass(frozen=True)
class ReplayConfig(Checked):
    """The ring of past experience and the rule by which windows are drawn from it."""

    capacity: int = 100_000
    """Rows kept; an episode of n actions takes n + 1."""
    sampler: SamplerName = "dfs"
    """``uniform``, ``dfs`` (the paper's) or ``dfs-trained`` (holds back what is not learnt yet)."""
    tau: float = 10.0
    """Temperature of the draw for the world model."""
    imagination_tau: float = 10.0
    """Temperature of the draw for imagination."""
    alpha: float = 1.0
    """Weight of the imagination counter in the draw for imagination."""
    beta: float = 1.0
    """Weight of the surplus of training over imagination in the same draw."""
    replacement: bool = False
    """Whether one batch may hold the same window twice."""
    random_shift: tuple[int, ...] = (0, 0)
    """Frames drawn for the world model are moved by up to so many pixels, up or down and left or
    right, a window as a whole: against learning by heart. The paper does not."""
    device: ReplayDevice = "auto"
    """Where the ring lives: ``cpu``, beside the ``model``, or ``auto``: beside it on CUDA only."""

    def _check(self) -> None:
        positive("replay", capacity=self.capacity, tau=self.tau)
        require(self.capacity < 2**40, f"replay.capacity is too large, got {self.capacity}")
        positive("replay", imagination_tau=self.imagination_tau)
        require(
            len(self.random_shift) == 2 and min(self.random_shift) >= 0,
            "replay.random_shift must be two numbers of pixels, up or down and left or right, "
            f"got {self.random_shift}",
        )


@dataclass(frozen=True)
class OptimConfig(Checked):
    """LaProp with a linear warm-up and a clip on the global gradient norm."""

    lr: float = 4e-5
    """Step size after the warm-up."""
    eps: float = 1e-20
    """Added to the root of the second moment."""
    beta1: float = 0.9
    """Decay of the momentum."""
    beta2: float = 0.999
    """Decay of the second moment."""
    warmup: int = 1000
    """Updates over which the step size rises linearly from lr / warmup to lr."""
    grad_clip: float = 1000.0
    """Largest global gradient norm."""

    def _check(self) -> None:
        positive("optim", lr=self.lr, eps=self.eps, grad_clip=self.grad_clip)
        fraction("optim", beta1=self.beta1, beta2=self.beta2)
        require(self.beta1 < 1 and self.beta2 < 1, "optim.beta1 and beta2 must be below 1")
        require(0 <= self.warmup < 2**40, f"optim.warmup must lie in [0, 2**40), got {self.warmup}")
        for name, value in (("lr", self.lr), ("eps", self.eps)):
            require(value > 1e-37, f"optim.{name} is 0 in float32, got {value}")


def _check_bins(section: str, bins: int, limit: float, decode: TwoHotDecode) -> None:
    require(bins >= 3 and bins % 2 == 1, f"{section}.bins must be odd, at least 3")
    require(
        decode == "symexp-mean" or limit <= 80,
        f"{section}.bin_limit must be at most 80 with twohot_decode {decode}, whose outermost bins "
        f"would leave float32; got {limit}",
    )


@dataclass(frozen=True)
class WorldModelConfig(Checked):
    """Discrete VAE, sequence model and heads, with the weights of their losses."""

    filters: tuple[int, ...] = (16, 32, 48, 64, 64)
    """Channels of the encoder's convolutions; the decoder mirrors them."""
    kernel: int = 5
    """Side of every convolution kernel (odd)."""
    stem_stride: Literal[1, 2] = 1
    """Stride of the first convolution (the others: 2): 1 in the public code, 2 is cheaper."""
    vector_units: int = 256
    """Width of the two hidden layers that replace convolutions for vector observations."""
    latent_variables: int = 32
    """Categorical variables in the latent."""
    latent_classes: int = 32
    """Classes of each variable."""
    unimix: float = 0.01
    """Share of the uniform distribution mixed into each categorical."""
    head_units: int = 256
    """Width of the hidden layer of the reward and the termination head."""
    bins: int = 255
    """Two-hot bins over symlog space."""
    bin_limit: float = 20.0
    """The bins span [-bin_limit, bin_limit] in symlog space."""
    twohot_decode: TwoHotDecode = "symexp-mean"
    """Expected reward: symexp of the mean bin (public code) or mean of symexp (DreamerV3)."""
    zero_init_heads: bool = True
    """Start the last layer of the reward head at zero (predicts 0, as in DreamerV3)."""
    free_bits: float = 1.0
    """Nats below which the KL of a step is not penalised."""
    beta_dyn: float = 1.0
    """Weight of the loss that pulls the prior to the posterior."""
    beta_rep: float = 0.1
    """Weight of the loss that pulls the posterior to the prior."""
    motion_weight: float = 1.0
    """How often the error of a pixel counts that differs from the frame before or behind it: small
    things that move are little of a frame's error, and may be all of the game. The paper's is 1.
    Vectors are left as they are."""
    batch_size: int = 16
    """Windows per update."""
    batch_length: int = 128
    """Rows per window."""
    action_scale: float = 1.0
    """Value of the active entry of the one-hot action beside the latent's, which has as many active
    entries of 1 as variables: with their root both have the same share in the sequence model's
    input. The paper's is 1."""
    reset_at_episode_start: bool = False
    """Clear the sequence state at episode seams inside a window. The paper does not."""
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    """The sequence model."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser of the world model."""

    most = {  # noqa: RUF012
        "filters": 2**14,
        "kernel": 255,
        "vector_units": 2**16,
        "latent_variables": 2**12,
        "latent_classes": 2**12,
        "head_units": 2**16,
        "bins": 2**16,
        "batch_size": 2**24,
        "batch_length": 2**24,
    }

    def _check(self) -> None:
        section = "world_model"
        require(0 < len(self.filters) <= 16, f"{section}.filters must name 1 to 16 layers")
        positive(section, **{f"filters[{i}]": n for i, n in enumerate(self.filters)})
        require(self.kernel % 2 == 1, f"{section}.kernel must be odd, got {self.kernel}")
        fraction(section, unimix=self.unimix)
        positive(
            section,
            kernel=self.kernel,
            vector_units=self.vector_units,
            latent_variables=self.latent_variables,
            head_units=self.head_units,
            bin_limit=self.bin_limit,
            batch_size=self.batch_size,
            action_scale=self.action_scale,
            motion_weight=self.motion_weight,
        )
        for name in ("free_bits", "beta_dyn", "beta_rep"):
            require(getattr(self, name) >= 0, f"{section}.{name} must not be negative")
        require(self.latent_classes >= 2, f"{section}.latent_classes must be at least 2")
        _check_bins(section, self.bins, self.bin_limit, self.twohot_decode)
        require(self.batch_length >= 2, f"{section}.batch_length must be at least 2")

    @property
    def stoch_size(self) -> int:
        """Size of the flattened latent."""
        return self.latent_variables * self.latent_classes


@dataclass(frozen=True)
class PPOConfig(Checked):
    """What PPO alone needs; discount, lambda and entropy bonus are the behaviour's."""

    clip: float = 0.2
    """Probability ratios further from 1 than this earn no more."""
    epochs: int = 4
    """Passes over each rollout."""
    minibatches: int = 4
    """Gradient steps per epoch, on single actions in random order; 1 with recompute_advantages."""
    recompute_advantages: bool = False
    """Recompute returns and advantages each epoch, with a slow critic (the public code's form)."""
    advantage_scale: AdvantageScale = "returns"
    """Divisor of the advantages: running range of returns, at least 1, or their own deviation."""

    most = {  # noqa: RUF012
        "epochs": 10_000,
        "minibatches": 2**24,
    }

    def _check(self) -> None:
        section = "behaviour.ppo"
        require(0 < self.clip < 1, f"{section}.clip must lie in (0, 1), got {self.clip}")
        positive(section, epochs=self.epochs, minibatches=self.minibatches)
        whole = self.minibatches == 1 and self.advantage_scale == "returns"
        require(
            whole or not self.recompute_advantages,
            f"{section}: recompute_advantages needs minibatches 1 and advantage_scale returns, got "
            f"{self.minibatches} and {self.advantage_scale}; turn it off for others",
        )


@dataclass(frozen=True)
class BehaviourConfig(Checked):
    """The policy and how it is trained in imagination."""

    algorithm: AlgorithmName = "actor-critic"
    """``actor-critic`` (after DreamerV3, the paper's) or ``ppo``."""
    layers: int = 2
    """Hidden layers of actor and critic (2 in the paper, 3 in the public code)."""
    actor_units: int = 256
    """Width of the actor's layers."""
    critic_units: int = 512
    """Width of the critic's layers."""
    policy_latent: PolicyLatent = "prior"
    """What acts on the real environment: the prior sample (the paper) or the posterior."""
    policy_context: PolicyContext = "previous"
    """What policy and critic see beside the latent: ``d_{t-1}`` (the paper), or what the sequence
    model makes of the current latent before an action, at the price of a second step of it."""
    lookahead: int = 0
    """Futures of each action that the world model is asked about before one is taken on the real
    environment, to prefer those that promise more. Better in some games, ruinous in others
    (docs/results.md). 0, the paper's, asks the policy alone."""
    batch_size: int = 1024
    """Imagined trajectories per update."""
    context: int = 8
    """Replayed rows read before imagination begins."""
    horizon: int = 16
    """Imagined actions per trajectory."""
    gamma: float = 0.985
    """Discount per agent step."""
    lambda_: float = 0.95
    """Mixing weight of the lambda-return."""
    entropy: float = 3e-4
    """Weight of the entropy bonus."""
    unimix: float = 0.0
    """Share of the uniform distribution mixed into the policy."""
    return_decay: float = 0.99
    """Decay of the running percentiles that scale advantages."""
    min_return_scale: float = 1.0
    """Advantages are divided by at least this. The paper's 1 leaves small returns as they are, and
    then the entropy bonus may be worth more than all of them."""
    actor_gradient: ActorGradient = "sampled"
    """What the actor learns from: ``sampled``, the returns of the actions that a dream took (the
    paper), or ``all-actions``, what each action promises one step ahead, ``r + gamma V``, which is
    less noisy by far and costs as many steps of the model as there are actions."""
    slow_decay: float = 0.98
    """Decay of the slow critic's weights."""
    bins: int = 255
    """Two-hot bins of the critic over symlog space."""
    bin_limit: float = 20.0
    """The bins span [-bin_limit, bin_limit] in symlog space."""
    twohot_decode: TwoHotDecode = "symexp-mean"
    """Expected return: symexp of the mean bin (public code) or mean of symexp (DreamerV3)."""
    zero_init_heads: bool = True
    """Start the last layers of actor and critic at zero (uniform policy, value 0)."""
    standardise_input: bool = False
    """Standardise the input of actor and critic by running moments, clip ±10 (public code)."""
    start_at_episode_starts: bool = True
    """Begin at an episode's first frame, with no past, where a context window ends on one."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(grad_clip=100.0))
    """Optimiser of actor and critic together."""
    ppo: PPOConfig = field(
        default_factory=lambda: PPOConfig(epochs=3, minibatches=1, recompute_advantages=True)
    )
    """What only ``ppo`` reads. The default is the public code's form."""

    most = {  # noqa: RUF012
        "layers": 64,
        "actor_units": 2**16,
        "critic_units": 2**16,
        "bins": 2**16,
        "batch_size": 2**24,
        "context": 2**20,
        "horizon": 2**20,
    }

    def _check(self) -> None:
        section = "behaviour"
        positive(
            section,
            layers=self.layers,
            actor_units=self.actor_units,
            critic_units=self.critic_units,
            batch_size=self.batch_size,
            context=self.context,
            horizon=self.horizon,
            bin_limit=self.bin_limit,
            min_return_scale=self.min_return_scale,
        )
        fraction(
            section,
            gamma=self.gamma,
            lambda_=self.lambda_,
            unimix=self.unimix,
            return_decay=self.return_decay,
            slow_decay=self.slow_decay,
        )
        require(
            0 <= self.lookahead <= 1024,
            f"{section}.lookahead must lie in [0, 1024], got {self.lookahead}",
        )
        require(
            self.algorithm == "actor-critic" or self.actor_gradient == "sampled",
            f"{section}.actor_gradient {self.actor_gradient!r} is for actor-critic, not for "
            f"{self.algorithm}, which learns from the actions that were drawn",
        )
        require(
            self.algorithm != "ppo" or self.ppo.minibatches <= self.batch_size * self.horizon,
            f"{section}.ppo.minibatches must not exceed the imagined actions, batch_size * horizon "
            f"= {self.batch_size * self.horizon}, got {self.ppo.minibatches}",
        )
        _check_bins(section, self.bins, self.bin_limit, self.twohot_decode)


@dataclass(frozen=True)
class TrainingConfig(Checked):
    """The loop: when to update, log and save."""

    warmup_steps: int = 1024
    """Environment steps with random actions before the first update."""
    random_action_repeat: float = 1.0
    """Steps for which such an action is held on average; 1 draws one at each step. Where only a
    way of many steps is rewarded, held actions find it and single ones do not."""
    world_model_ratio: float = 1.0
    """World-model updates per environment step."""
    behaviour_ratio: float = 1.0
    """Behaviour updates per environment step."""
    precision: Precision = "auto"
    """Matrix work in float32 or bfloat16; ``auto`` asks the device."""
    threads: int = 0
    """CPU threads of PyTorch, also in evaluation; 0 leaves its own choice. Sums, and so the last
    bits, follow it."""
    keep_memory: bool = True
    """On a CPU, keep freed memory for the next update: faster, with a higher resident size."""
    cuda_graphs: bool = True
    """On CUDA, record whole updates once and replay them; the replay has to be there too."""
    compile: bool = False
    """Compile losses and the imagined step with `torch.compile`: a minute before the first update.
    Needs a C++ compiler, on CUDA Triton too."""
    overlap: bool = False
    """Begin the updates of a step before the environment makes it, so that a GPU works meanwhile.
    They then draw from all rows but this step's own. The paper does not."""
    log_every: int = 250
    """Environment steps between rows of ``metrics.jsonl``."""
    checkpoint_every: int = 5000
    """Environment steps between checkpoints; the end of training always makes one."""
    checkpoint_minutes: float = 10.0
    """Minutes after which a checkpoint is written in any case; 0 = off."""
    keep_checkpoints: int = 2
    """Checkpoints kept on disk."""
    tensorboard: bool = True
    """Write TensorBoard events beside ``metrics.jsonl``."""
    wandb: bool = False
    """Send the same rows to Weights & Biases (extra ``wandb``)."""

    most = {  # noqa: RUF012
        "threads": 4096,
    }

    def _check(self) -> None:
        section = "training"
        positive(
            section,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            keep_checkpoints=self.keep_checkpoints,
        )
        require(
            0 <= self.checkpoint_minutes < math.inf,
            f"{section}.checkpoint_minutes must not be negative, got {self.checkpoint_minutes}",
        )
        require(self.threads >= 0, f"{section}.threads must not be negative")
        require(self.warmup_steps >= 0, f"{section}.warmup_steps must not be negative")
        require(
            1 <= self.random_action_repeat < math.inf,
            f"{section}.random_action_repeat must be at least 1 step and finite, "
            f"got {self.random_action_repeat}",
        )
        for name in ("world_model_ratio", "behaviour_ratio"):
            value = getattr(self, name)
            require(0 <= value <= 1000, f"{section}.{name} must lie in [0, 1000], got {value}")


@dataclass(frozen=True)
class EvaluationConfig(Checked):
    """The evaluation at the end of ``drama train``, and the defaults of ``drama eval``."""

    episodes: int = 20
    """Episodes, shared out evenly over the environments; 0 skips it after training."""
    num_envs: int = 4
    """Environments stepped side by side."""
    seed: int = 10_000
    """Seed of the first evaluation environment; kept apart from training seeds."""
    latents: Latents = "sampled"
    """Latents while playing: sampled (the authors', as in imagination) or their mode."""
    max_episode_steps: int | None = None
    """Agent steps that truncate an episode. None: 27,000, or a larger limit of the environment."""

    most = {  # noqa: RUF012
        "episodes": 10**7,
        "num_envs": 10_000,
    }

    def _check(self) -> None:
        positive("evaluation", num_envs=self.num_envs)
        if self.max_episode_steps is not None:
            positive("evaluation", max_episode_steps=self.max_episode_steps)
        require(self.episodes >= 0, "evaluation.episodes must not be negative")
        require(0 <= self.seed < 2**62, f"evaluation.seed must not be negative, got {self.seed}")


@dataclass(frozen=True)
class Config(Checked):
    """Everything that decides a run besides the code and the machine."""

    preset: str = "xs"
    """Preset that the settings start from."""
    seed: int = 0
    """Seed of the environment, the weights and every draw."""
    steps: int = 100_000
    """Environment steps of the run, the random warm-up included."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    env: EnvConfig = field(default_factory=EnvConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    behaviour: BehaviourConfig = field(default_factory=BehaviourConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def _check(self) -> None:
        positive("config", steps=self.steps)
        require(0 <= self.seed < 2**63, f"seed must lie in [0, 2**63), got {self.seed}")
        longest = max(self.world_model.batch_length, self.behaviour.context)
        require(
            self.replay.capacity > longest,
            f"replay.capacity ({self.replay.capacity}) must exceed the longest window ({longest})",
        )
        require(
            self.training.warmup_steps > longest,
            f"training.warmup_steps ({self.training.warmup_steps}) must exceed the longest "
            f"window ({longest}), or the first update has nothing to read",
        )
        c = self.training
        # The first update of each kind comes with this step after the warm-up, never if infinite.
        learns, dreams = (
            math.ceil(min(1 / ratio, 2.0**63)) if ratio else math.inf
            for ratio in (c.world_model_ratio, c.behaviour_ratio)
        )
        require(
            self.replay.sampler != "dfs-trained" or dreams == math.inf or learns <= dreams,
            "replay.sampler dfs-trained dreams of what the world model has learnt, so the "
            "world model must be the first to learn: training.world_model_ratio must be at least "
            f"training.behaviour_ratio; got {c.world_model_ratio} and {c.behaviour_ratio}",
        )

    def override(self, settings: Mapping[str, Any] | None = None, /, **sections: Any) -> Config:
        """Return a copy with settings replaced.

        ``config.override({"training.warmup_steps": 500})`` and
        ``config.override(seed=1, training={"warmup_steps": 500})`` are two spellings.

        Args:
            settings: Dotted ``section.field`` to value; a section may also map to its settings.
            **sections: The same by keyword.

        Raises:
            ConfigError: There is no such setting (the nearest is named), or a value does not fit.
        """
        return replaced(self, {**(settings or {}), **sections})

    def to_json(self) -> str:
        """Return the whole tree as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Rebuild a configuration from [to_json][drama.config.Config.to_json].

        Raises:
            ConfigError: The text is not JSON, or a field is unknown or has the wrong type.
        """
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError) as error:  # bad syntax, endless digits or nesting
            raise ConfigError(f"not a JSON configuration: {error}") from error
        return cls.from_saved(tree)

    @classmethod
    def from_saved(cls, tree: object) -> Config:
        """Rebuild a configuration from a saved tree of settings, of this or an earlier version.

        Raises:
            ConfigError: A field is unknown or has the wrong type.
        """
        return from_dict(cls, update_names(tree) if isinstance(tree, Mapping) else tree)
