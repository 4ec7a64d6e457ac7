"""Registering, naming and configuring backbones, and the helpers for their states."""

# One file: the tests share the small backbones, each of which breaks one rule.

from __future__ import annotations

import importlib.metadata
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from drama import registry
from drama.dynamics import (
    DynamicsConfig,
    GRUDynamics,
    Mamba1Dynamics,
    Mamba2Dynamics,
    TransformerDynamics,
    check_registered,
    make_dynamics,
    map_state,
    register,
    registered,
    where_state,
)
from drama.errors import ConfigError
from drama.registry import SEQUENCE_MODELS

GROUP = SEQUENCE_MODELS.groups[0]


class Memoryless(nn.Module):
    """Follows the protocol, and has no memory."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.width, config.width)
        self.seen: list[bool] = []

    def init_state(self, batch_size: int) -> Any:
        return (torch.zeros(batch_size, 1), (torch.zeros(batch_size, 2, 3),))

    def forward(self, x: Tensor, is_first: Tensor | None = None, state: Any = None) -> Any:
        self.seen.append(self.training)
        return self.linear(x), state or self.init_state(len(x))

    def step(self, x: Tensor, state: Any) -> Any:
        return self.linear(x), state


class OutputOnly(Memoryless):
    def forward(self, *args: Any) -> Any:
        return super().forward(*args)[0]


class Wide(Memoryless):
    def step(self, x: Tensor, state: Any) -> Any:
        return torch.cat([x, x], dim=-1), state


class Named(Memoryless):
    def init_state(self, batch_size: int) -> Any:
        return {"memory": torch.zeros(batch_size, 1)}


class Counted(Memoryless):
    def init_state(self, batch_size: int) -> Any:
        return (torch.zeros(batch_size, 1), 0)


class BatchLast(Memoryless):
    def init_state(self, batch_size: int) -> Any:
        return (torch.zeros(5, batch_size),)


class Growing(Memoryless):
    def forward(self, x: Tensor, is_first: Tensor | None = None, state: Any = None) -> Any:
        return x, (x,)


class NoResets(Memoryless):
    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return super().forward(x)


class NoStep(Memoryless):
    step = None  # type: ignore[assignment]


class NoSizes(Memoryless):
    def __init__(self) -> None:
        super().__init__(DynamicsConfig())


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SEQUENCE_MODELS, "registered", {})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mamba2", Mamba2Dynamics),
        ("mamba1", Mamba1Dynamics),
        ("transformer", TransformerDynamics),
        ("gru", GRUDynamics),
    ],
)
def test_built_in_backbones(name: str, kind: type) -> None:
    assert name in registered()
    model = make_dynamics(DynamicsConfig(name=name, width=32, headdim=16))
    assert type(model) is kind
    y, _ = model(torch.randn(2, 3, 32))
    assert y.shape == (2, 3, 32)


def test_the_default_is_the_model_of_the_paper() -> None:
    model: Any = make_dynamics(DynamicsConfig())
    assert len(model.blocks) == 2
    mixer = model.blocks[0].mixer
    assert (mixer.d_model, mixer.d_inner, mixer.d_state) == (512, 1024, 16)
    assert (mixer.d_conv, mixer.headdim, mixer.nheads) == (4, 128, 8)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown sequence model 'mamba3'; did you mean mamba"):
        make_dynamics(DynamicsConfig(name="mamba3"))
    for name in ("zzz", "mamba3"):
        with pytest.raises(ConfigError, match="there are mamba2, mamba1, transformer, gru"):
            make_dynamics(DynamicsConfig(name=name))
        with pytest.raises(ConfigError, match=f"unknown sequence model '{name}'"):
            check_registered(name)
    for name in registered():
        check_registered(name)


def test_register() -> None:
    assert register("memoryless")(Memoryless) is Memoryless
    register("memoryless")(Memoryless)  # registering the same again is no conflict
    assert isinstance(make_dynamics(DynamicsConfig(name="memoryless", width=4)), Memoryless)
    assert "memoryless" in registered()
    with pytest.raises(ConfigError, match="registered as 'memoryless' already"):
        register("memoryless")(lambda config: Memoryless(config))


def test_register_requires_a_name() -> None:
    with pytest.raises(ConfigError, match="register takes the name"):
        register(Memoryless)  # type: ignore[arg-type]


def test_a_builder_must_return_a_module() -> None:
    register("broken")(lambda config: "text")  # type: ignore[arg-type,return-value]
    with pytest.raises(ConfigError, match=r"'broken' must be a torch\.nn\.Module, got str"):
        make_dynamics(DynamicsConfig(name="broken"))


@pytest.mark.parametrize(
    ("builder", "words"),
    [
        (OutputOnly, r"forward must return \(outputs, state\)"),
        (Wide, r"step must return \(2, 8\), got \(2, 16\)"),
        (Named, "state of init_state must be tensors in tuples .*, got dict"),
        (Counted, "tensors in tuples .*, got int"),
        (BatchLast, r"must have the batch first, here 2; got \(5, 2\)"),
        (Growing, r"the shapes of init_state, .*, got \(\(2, 3, 8\),\)"),
        (NoResets, r"forward\(x, is_first\) raised TypeError: .*positional"),
        (NoStep, "has no method step"),
        (NoSizes, "must take a DynamicsConfig"),
    ],
)
def test_model_that_breaks_the_protocol_is_refused_at_once(builder: Any, words: str) -> None:
    register("mine")(builder)
    with pytest.raises(ConfigError, match=f"sequence model 'mine'.*{words}"):
        make_dynamics(DynamicsConfig(name="mine", width=8))


def test_protocol_check_changes_neither_model_nor_random_state() -> None:
    class Dropping(Memoryless):
        def forward(self, x: Tensor, *args: Any) -> Any:
            return super().forward(torch.dropout(x, 0.5, self.training), *args)

    register("mine")(Dropping)
    torch.manual_seed(0)
    expected = Dropping(DynamicsConfig(name="mine", width=8))
    after = torch.get_rng_state()
    torch.manual_seed(0)
    model: Any = make_dynamics(DynamicsConfig(name="mine", width=8))
    assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(model.linear.weight, expected.linear.weight)
    assert model.training
    assert model.seen == [False] * 3


def test_protocol_check_accepts_a_cuda_only_model_if_cuda_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register("mine")(NoResets)
    register("wide")(Wide)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert isinstance(make_dynamics(DynamicsConfig(name="mine", width=8)), NoResets)
    with pytest.raises(ConfigError, match="step must return"):  # it runs, and is wrong
        make_dynamics(DynamicsConfig(name="wide", width=8))


def test_state_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="tensors in tuples, got str"):
        map_state(torch.clone, "text")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tensors in tuples, got dict"):
        where_state(torch.tensor([True]), {}, {})


def test_entry_points_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("elsewhere", "drama.dynamics.gru:GRUDynamics", GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] * (group == GROUP))
    assert "elsewhere" in registered()
    check_registered("elsewhere")
    model = make_dynamics(DynamicsConfig(name="elsewhere", width=4))
    assert isinstance(model, GRUDynamics)


@pytest.mark.parametrize("where", ["not_a_module_of_ours:Thing", "drama.dynamics.gru:Missing"])
def test_broken_entry_point_is_reported(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("elsewhere", where, GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] * (group == GROUP))
    with pytest.raises(ConfigError, match=f"'elsewhere' is announced .* '{where}'"):
        make_dynamics(DynamicsConfig(name="elsewhere"))


@pytest.mark.parametrize("name", ["gru", "mamba1", "mamba2", "transformer"])
def test_wrong_shapes_are_reported(name: str) -> None:
    model = make_dynamics(DynamicsConfig(name=name, width=32, headdim=16, context=4))
    two = model.init_state(2)
    for shape in ((2, 0, 32), (2, 32), (2, 3, 31)):
        with pytest.raises(ConfigError, match=r"forward reads \(B, T, 32\) with T >= 1, got"):
            model(torch.zeros(shape))
    with pytest.raises(ConfigError, match="batch size must be 3, got 2"):
        model(torch.zeros(3, 1, 32), None, two)
    for shape in ((2, 1, 32), (2, 31)):
        with pytest.raises(ConfigError, match=r"step reads \(B, 32\), got"):
            model.step(torch.zeros(shape), two)
    with pytest.raises(ConfigError, match="batch size must be 2, got 1"):
        model.step(torch.zeros(2, 32), model.init_state(1))


@pytest.mark.parametrize("name", ["gru", "mamba1", "mamba2", "transformer"])
def test_states_of_another_model_are_reported(name: str) -> None:
    def make(name: str, width: int = 32, layers: int = 2) -> Any:
        config = DynamicsConfig(name=name, width=width, layers=layers, headdim=16, context=4)
        return make_dynamics(config)

    model = make(name)
    another = "mamba2" if name in ("gru", "transformer") else "gru"
    x = torch.zeros(2, 3, 32)
    wrong = {
        "the state must be a": [make(another).init_state(2), None, "a", (1, 2)],
        "state must be of 2 layers, got 1|hidden must be": [make(name, layers=1).init_state(2)],
        "must be": [make(name, width=64).init_state(2)],
    }
    if name.startswith("mamba"):
        other = make("mamba1" if name == "mamba2" else "mamba2")
        wrong["the state must be a Mamba"] = [other.init_state(2)]
    for message, states in wrong.items():
        for state in states:
            with pytest.raises(ConfigError, match=message):
                model.step(x[:, 0], state)
            if state is not None:
                with pytest.raises(ConfigError, match=message):
                    model(x, None, state)


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize(("context", "length"), [(1, 3), (4, 2), (4, 3), (4, 9)])
def test_missing_state_equals_the_initial_state(context: int, length: int, resets: bool) -> None:
    # Without a preceding window the transformer leaves out the slots before it.
    model = make_dynamics(DynamicsConfig(name="transformer", width=16, context=context))
    x = torch.randn(2, length, 16)
    is_first = torch.tensor([[True, *[False] * (length - 2), True]] * 2) if resets else None
    with torch.no_grad():
        model.blocks[0].distance_bias.normal_()  # type: ignore[attr-defined]
        found = model(x, is_first)
        wanted = model(x, is_first, model.init_state(2))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": 0}, r"dynamics\.layers must be positive, got 0"),
        ({"layers": 257}, r"DynamicsConfig\.layers must be at most 256, got"),
        ({"width": 1.5}, r"DynamicsConfig\.width must be of type int, got 1.5"),
        ({"d_state": True}, r"DynamicsConfig\.d_state must be of type int, got True"),
        ({"headdim": 96}, r"dynamics\.headdim must divide expand \* width = 1024, got 96"),
        ({"name": "transformer", "num_heads": 7}, r"dynamics\.num_heads must divide width = 512"),
    ],
)
def test_config_names_a_wrong_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DynamicsConfig(**fields)


def test_fields_of_other_backbones_are_ignored() -> None:
    DynamicsConfig(name="gru", width=12, headdim=96, num_heads=7)


class Inner(NamedTuple):
    a: Tensor
    b: Tensor


class Outer(NamedTuple):
    parts: tuple[Inner, ...]
    c: Tensor


def outer(value: float) -> Outer:
    part = Inner(torch.full((3, 2), value), torch.full((3, 1, 2), value))
    return Outer((part, part), torch.full((3,), value))


def test_map_state_keeps_the_structure() -> None:
    doubled = map_state(lambda t: 2 * t, outer(1.0))
    assert isinstance(doubled, Outer)
    assert isinstance(doubled.parts[1], Inner)
    assert doubled.parts[1].b.shape == (3, 1, 2)
    assert doubled.c.tolist() == [2.0, 2.0, 2.0]
    assert map_state(torch.detach, Inner(torch.ones(1), torch.ones(1))).a.item() == 1.0


def test_where_state_selects_batch_rows() -> None:
    one, two = outer(1.0), outer(2.0)
    chosen = where_state(torch.tensor([True, False, True]), one, two)
    assert chosen.c.tolist() == [1.0, 2.0, 1.0]
    assert chosen.parts[0].a.tolist() == [[1.0, 1.0], [2.0, 2.0], [1.0, 1.0]]
    assert chosen.parts[1].b.flatten().tolist() == [1.0, 1.0, 2.0, 2.0, 1.0, 1.0]
    assert one.c.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["mamba1", "mamba2", "transformer", "gru"])
def test_autocast_and_no_grad_keep_shapes_and_types_of_the_state(name: str) -> None:
    model = make_dynamics(DynamicsConfig(name=name, width=32, headdim=16, context=4))
    start: Any = model.init_state(2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y, state = model(torch.randn(2, 9, 32))
        y, state = model.step(y[:, -1], state)
    assert y.shape == (2, 32)
    shapes: list[Any] = []
    for s in (start, state):
        found: list[Any] = []
        map_state(lambda t, found=found: (found.append(t.shape), t)[1], s)
        shapes.append(found)
    assert shapes[0] == shapes[1]
    # A carried state may be mixed with a fresh one row by row.
    mixed = where_state(torch.tensor([True, False]), start, state)
    assert model.step(y, mixed)[0].isfinite().all()
