"""The trainers and `fit`: restarts, stopping, divergence, games, and every kind of data."""

import copy
import itertools
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from rlgen import checkpoint, generative
from rlgen.generative import (
    VAE,
    ExactTrainer,
    Gaussian,
    GaussianMixture,
    GenerativeModel,
    History,
    NonFiniteLoss,
    Objective,
    Trainer,
    cosine,
    evaluate,
    fit,
)
from rlgen.generative.data import minibatches

ROOT = Path(__file__).resolve().parent.parent


class Mean(GenerativeModel):
    """(x - mean)^2 / 2, with as many numbers as asked for."""

    def __init__(self, dims: int = 1, *, context_shape: int | None = None) -> None:
        super().__init__(dims, context_shape)
        self.mean = nn.Parameter(torch.zeros(dims))
        self.seen: list[Tensor] = []

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x, context = self.check(x, context)
        self.seen.append(x.detach().clone())
        return 0.5 * (x - self.mean).square().sum(1)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        return self.mean + torch.randn(n, len(self.mean))


class Dropping(Mean):
    """With dropout, noise, a buffer that training changes, and an `after_step` that draws."""

    def __init__(self) -> None:
        super().__init__(3)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        self.register_buffer("walk", torch.zeros(()))

    walk: Tensor

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().loss(x + self.net(x + torch.randn_like(x)))

    def objectives(self) -> tuple[Objective, ...]:
        (objective,) = super().objectives()
        return (objective._replace(after_step=self.move),)

    def move(self) -> None:
        self.walk += torch.randn(())


class Game(Mean):
    """Two players with opposite aims, each with its own optimiser; one moves thrice."""

    def __init__(self) -> None:
        super().__init__(2)
        self.critic = nn.Parameter(torch.ones(2))

    def value(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().loss(x) + (self.critic * (x - self.mean)).sum(1) - self.critic.square().sum()

    def objectives(self) -> tuple[Objective, ...]:
        def sgd(parameters: object) -> torch.optim.Optimizer:
            return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)  # type: ignore[arg-type]

        return (
            Objective("critic", lambda x, c: -self.value(x, c), (self.critic,), 3, sgd),
            Objective("mean", self.value, (self.mean,)),
        )


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(t, other[n]) for n, t in one.items())


def make(model: type[GenerativeModel], seed: int = 0) -> GenerativeModel:
    torch.manual_seed(seed)
    return VAE(3, latent=2, hidden=(8,)) if model is VAE else model()


# Restarts


@pytest.mark.parametrize("made", [Dropping, Game, VAE])
@pytest.mark.parametrize("kind", ["tensor", "dataset"])
def test_a_restart_changes_no_bit(made: type[GenerativeModel], kind: str) -> None:
    """3 + 4 updates of minibatches of 16 from 40: both parts begin in the middle of an epoch."""
    x = torch.randn(40, 2 if made is Game else 3)
    data = x if kind == "tensor" else TensorDataset(x)
    straight = make(made)
    whole = fit(straight, data, steps=7, batch_size=16, seed=5)

    interrupted = make(made)
    first = fit(interrupted, data, steps=3, batch_size=16, seed=5)
    state = copy.deepcopy(first.trainer.state_dict())
    resumed = make(made, seed=9)  # other weights, which the state replaces
    trainer = Trainer(resumed, seed=5)
    trainer.load_state_dict(state)
    torch.manual_seed(1234)  # the global state has no say
    second = fit(resumed, data, steps=4, batch_size=16, trainer=trainer)

    assert same(weights_of(resumed), weights_of(straight))
    for name, losses in whole.losses.items():
        assert first.losses[name] + second.losses[name] == losses
    assert second.trainer.steps == 7
    assert not same(weights_of(straight), weights_of(interrupted)), "nothing was trained"


def test_a_restart_in_another_process_changes_no_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    straight = VAE(3, latent=2, hidden=(8,))
    model = copy.deepcopy(straight)
    x = torch.linspace(-1, 1, 120).reshape(40, 3)
    fit(straight, x, steps=7, batch_size=16, seed=5, lr=1e-2)
    history = fit(model, x, steps=3, batch_size=16, seed=5, lr=1e-2)
    checkpoint.save(history.trainer, tmp_path / "before")
    code = f"""
import torch
from rlgen import checkpoint, generative
from rlgen.generative import fit
torch.set_num_threads(1)
trainer = checkpoint.load({str(tmp_path / "before")!r})
x = torch.linspace(-1, 1, 120).reshape(40, 3)
fit(trainer.model, x, steps=4, batch_size=16, trainer=trainer)
checkpoint.save(trainer.model, {str(tmp_path / "after")!r})
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True, timeout=120)
    assert same(weights_of(checkpoint.load(tmp_path / "after")), weights_of(straight))


def test_exact_steps_restart_too() -> None:
    x = torch.randn(200, 2)
    torch.manual_seed(0)
    straight = GaussianMixture(2, components=3)
    resumed = copy.deepcopy(straight)
    fit(straight, x, steps=9, seed=4)
    first = fit(resumed, x, steps=4, seed=4)
    trainer = ExactTrainer(GaussianMixture(2, components=3), seed=4)
    trainer.load_state_dict(copy.deepcopy(first.trainer.state_dict()))
    fit(trainer.model, x, steps=5, trainer=trainer)
    assert same(weights_of(trainer.model), weights_of(straight))


def test_continuing_is_the_same_as_not_stopping() -> None:
    x = torch.randn(40, 3)
    straight, paused = make(Dropping), make(Dropping)
    fit(straight, x, steps=6, batch_size=16)
    history = fit(paused, x, steps=2, batch_size=16)
    fit(paused, x, steps=4, batch_size=16, trainer=history.trainer)
    assert same(weights_of(straight), weights_of(paused))


# Stopping


def test_early_stopping_restores_the_best_weights() -> None:
    """The training data pull the mean to 5, the validation data want it at 1."""
    model = Mean()
    held_out = torch.ones(8, 1)
    passed: dict[int, Tensor] = {}
    history = fit(
        model,
        torch.full((64, 1), 5.0),
        steps=1000,
        lr=0.01,
        validation=held_out,
        patience=3,
        callback=lambda step, losses: passed.update({step: model.mean.detach().clone()}),
    )
    assert history.stopped == "early"
    losses = dict(history.validation)
    assert history.best_validation == min(losses.values())
    assert history.best_step is not None and losses[history.best_step] == history.best_validation
    assert torch.equal(model.mean.detach(), passed[history.best_step])
    assert evaluate(model, held_out) == history.best_validation
    steps = list(losses)
    assert steps == list(range(20, max(steps) + 1, 20)), "50 evaluations in a full run"
    assert steps.index(history.best_step) == len(steps) - 1 - 3, "patience is 3 evaluations"
    assert abs(model.mean.item() - 1) < 0.2 < passed[max(steps)].item() - 1


def test_without_overfitting_validation_changes_nothing() -> None:
    x = torch.randn(64, 1) + 3
    with_it, without = Mean(), Mean()
    history = fit(with_it, x, steps=60, batch_size=16, validation=x)
    fit(without, x, steps=60, batch_size=16)
    assert history.stopped == "steps" and history.best_step == 60
    assert torch.equal(with_it.mean, without.mean)
    assert with_it.seen and history.validation[-1][0] == 60


def test_a_validation_loss_that_is_not_a_number_is_never_the_best() -> None:
    class Blind(Mean):
        def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            loss = super().loss(x)
            return loss if self.training or self.mean > 0.05 else loss * math.nan

    model = Blind()
    history = fit(model, torch.ones(8, 1), steps=10, lr=0.01, validation=torch.ones(8, 1))
    assert math.isnan(history.validation[0][1])
    assert history.best_step == 10 and history.best_validation == history.validation[-1][1]


def test_a_callback_watches_and_stops() -> None:
    calls: list[tuple[int, dict[str, float]]] = []

    def callback(step: int, losses: dict[str, float]) -> bool:
        calls.append((step, losses))
        return step == 4

    history = fit(make(Game), torch.randn(32, 2), steps=10, callback=callback)
    assert history.stopped == "callback"
    assert [step for step, _ in calls] == [1, 2, 3, 4]
    assert all(type(v) is float for _, losses in calls for v in losses.values())
    for name in ("critic", "mean"):
        assert [losses[name] for _, losses in calls] == history.losses[name]


def test_a_callback_gets_checked_models() -> None:
    """Training trusts its checked data; what a callback passes in is checked as ever."""
    model = Mean()
    with pytest.raises(ValueError, match="not finite"):
        fit(
            model,
            torch.randn(8, 1),
            steps=1,
            callback=lambda step, losses: model.loss(torch.tensor([[math.nan]])) is None,
        )


# Divergence


class Cliff(Mean):
    """The mean climbs by the learning rate each step; from 0.45 on the loss is NaN."""

    def __init__(self, wrong: str = "loss") -> None:
        super().__init__(1)
        self.wrong = wrong
        self.finite: list[float] = []
        self.register_buffer("count", torch.zeros(()))

    count: Tensor

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        self.count += 1
        if self.mean.item() < 0.45:
            self.finite.append(self.mean.item())
            return -self.mean * torch.ones(len(x))
        if self.wrong == "loss":
            return self.mean * torch.full((len(x),), math.nan)
        return (self.mean - self.mean).sqrt() * torch.ones(len(x))  # 0, of slope inf - inf

    def objectives(self) -> tuple[Objective, ...]:
        return (Objective("climb", self.loss, (self.mean,)),)


@pytest.mark.parametrize("wrong", ["loss", "gradient"])
def test_divergence_says_where_and_keeps_the_last_good_weights(wrong: str) -> None:
    model = Cliff(wrong)
    with pytest.raises(NonFiniteLoss, match="step 5: the objective 'climb'"):
        fit(model, torch.zeros(8, 1), steps=100, lr=0.1)
    assert len(model.finite) == 5
    assert model.mean.item() == model.finite[-1]
    assert model.count.item() == 5, "buffers go back too"


def test_divergence_in_the_first_step_leaves_the_model_as_it_was() -> None:
    model = Cliff()
    model.mean.data.fill_(1.0)
    with pytest.raises(NonFiniteLoss, match="step 0"):
        Trainer(model).step(torch.zeros(8, 1))
    assert model.mean.item() == 1.0


def test_training_can_go_on_after_divergence() -> None:
    model = Cliff()
    trainer = Trainer(model, lr=0.1)
    with pytest.raises(NonFiniteLoss):
        fit(model, torch.zeros(8, 1), steps=100, trainer=trainer)
    assert not trainer.optimizers[0].state, "its averages may hold what was not finite"
    model.mean.data.zero_()
    history = fit(model, torch.zeros(8, 1), steps=4, trainer=trainer)
    assert history.stopped == "steps" and math.isclose(model.mean.item(), 0.4, rel_tol=1e-4)


def test_an_exact_step_that_diverges_is_undone() -> None:
    class Broken(Mean):
        def maximise(self, x: Tensor, context: Tensor | None = None) -> None:
            self.mean.fill_(math.nan if self.mean.item() > 0 else 1.0)

    model = Broken()
    with pytest.raises(NonFiniteLoss, match="step 1"):
        fit(model, torch.zeros(8, 1))
    assert model.mean.item() == 1.0


def test_verify_is_quiet_when_all_is_well() -> None:
    trainer = Trainer(Mean())
    trainer.verify()
    trainer.step(torch.zeros(4, 1))
    trainer.verify()


# Games


def test_players_do_not_leak() -> None:
    """A step of a game is what plain torch makes of it, with each player's gradient alone."""
    model, plain = make(Game), make(Game)
    assert isinstance(model, Game) and isinstance(plain, Game)
    x = torch.randn(32, 2)
    trainer = Trainer(model, lr=0.05, clip_norm=None)
    critic = torch.optim.SGD([plain.critic], lr=0.1, momentum=0.9)
    mean = torch.optim.Adam([plain.mean], lr=0.05)
    for _ in range(5):
        losses = trainer.step(x)
        for _ in range(3):
            critic.zero_grad()
            first = -plain.value(x).mean()
            first.backward(inputs=[plain.critic])
            critic.step()
        mean.zero_grad()
        second = plain.value(x).mean()
        second.backward(inputs=[plain.mean])
        mean.step()
        torch.testing.assert_close(losses["critic"], first.detach())
        torch.testing.assert_close(losses["mean"], second.detach())
    torch.testing.assert_close(model.mean, plain.mean)
    torch.testing.assert_close(model.critic, plain.critic)
    assert not losses["mean"].requires_grad


def test_repeats_draw_minibatches_of_their_own() -> None:
    model = make(Game)
    assert isinstance(model, Game)
    x = torch.arange(32.0).reshape(16, 2)
    history = fit(model, x, steps=2, batch_size=2)
    assert len(model.seen) == 8
    seen = torch.cat(model.seen)
    assert torch.equal(seen.sort(0).values, x), "one epoch, every example once"
    assert isinstance(history.trainer, Trainer) and history.trainer.batches_drawn == 8


def test_an_objective_needs_parameters() -> None:
    class Fixed(Mean):
        def objectives(self) -> tuple[Objective, ...]:
            return (Objective("nothing", self.loss, ()),)

    with pytest.raises(ValueError, match="'nothing' has no parameters"):
        Trainer(Fixed())


# Steps


class Slope(Mean):
    """A constant gradient of norm 100, and plain gradient descent."""

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return (60.0 * self.mean[0] + 80.0 * self.mean[1]).expand(len(x))

    def objectives(self) -> tuple[Objective, ...]:
        def sgd(parameters: object) -> torch.optim.Optimizer:
            return torch.optim.SGD(parameters, lr=1.0)  # type: ignore[arg-type]

        return (Objective("loss", self.loss, (self.mean,), optimizer=sgd),)


@pytest.mark.parametrize(("clip_norm", "length"), [(None, 100.0), (5.0, 5.0), (500.0, 100.0)])
def test_gradients_are_clipped(clip_norm: float | None, length: float) -> None:
    model = Slope(2)
    Trainer(model, clip_norm=clip_norm).step(torch.zeros(4, 2))
    assert math.isclose(model.mean.norm().item(), length, rel_tol=1e-5)
    assert math.isclose((model.mean[0] / model.mean[1]).item(), 0.75, rel_tol=1e-5)


def test_a_schedule_scales_the_learning_rate_of_each_optimiser() -> None:
    rates: list[list[float]] = []
    model = make(Game)
    trainer = Trainer(model, lr=0.2)

    def callback(step: int, losses: dict[str, float]) -> None:
        rates.append([group["lr"] for o in trainer.optimizers for group in o.param_groups])

    fit(model, torch.randn(8, 2), steps=4, schedule=cosine, callback=callback, trainer=trainer)
    scales = [0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]
    torch.testing.assert_close(
        torch.tensor(rates), torch.tensor([[0.1 * s, 0.2 * s] for s in scales])
    )
    fit(model, torch.randn(8, 2), steps=1, callback=callback, trainer=trainer)
    assert rates[-1] == [0.1, 0.2], "the next call starts from the full rate"
    assert cosine(0.0) == 1.0 and abs(cosine(1.0)) < 1e-12 and abs(cosine(0.5) - 0.5) < 1e-12


def test_training_is_in_training_mode() -> None:
    model = make(Dropping).eval()
    Trainer(model).step(torch.randn(4, 3))
    assert all(part.training for part in model.modules())


def test_fit_leaves_the_global_random_state_alone() -> None:
    x = torch.randn(32, 3)
    model = make(Dropping)
    before = torch.get_rng_state()
    fit(model, x, steps=3, batch_size=8, validation=0.25)
    fit(model, TensorDataset(x), steps=3, batch_size=8)
    fit(GaussianMixture(3, components=2), x, steps=3)
    assert not torch.equal(before, torch.get_rng_state())  # the mixture's own constructor drew
    before = torch.get_rng_state()
    fit(model, x, steps=3)
    assert torch.equal(before, torch.get_rng_state())


def test_every_update_draws_noise_of_its_own() -> None:
    x = torch.randn(8, 3)
    trainer = Trainer(make(Dropping), lr=1e-30)
    assert trainer.step(x) != trainer.step(x)


def test_the_seed_decides() -> None:
    x = torch.randn(40, 3)
    models = [make(Dropping) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        fit(model, x, steps=4, batch_size=8, seed=seed)
    assert same(weights_of(models[0]), weights_of(models[1]))
    assert not same(weights_of(models[0]), weights_of(models[2]))


# Exact steps


def test_exact_steps_end_when_they_converge() -> None:
    x = torch.randn(500, 2) * 3 + 1
    model = Gaussian(2)
    history = fit(model, x)
    assert history.stopped == "converged" and len(history.losses["loss"]) == 2
    torch.testing.assert_close(model.mean.detach(), x.mean(0))
    mixture = GaussianMixture(2, components=3)
    losses = fit(mixture, x, steps=500).losses["loss"]
    assert all(after <= before + 1e-6 for before, after in itertools.pairwise(losses))
    assert losses[-2] - losses[-1] < 1e-5 + 1e-6  # the default tolerance, and float32
    steps = [before - after for before, after in itertools.pairwise(losses)]
    assert all(step > 1e-5 - 1e-6 for step in steps[:-1])
    short = fit(GaussianMixture(2, components=3), x, steps=3)
    assert short.stopped == "steps" and len(short.losses["loss"]) == 3


def test_self_fitting_models_learn_by_gradients_when_asked() -> None:
    x = torch.randn(500, 2) * 0.5 + 1
    model, exact = Gaussian(2), Gaussian(2)
    fit(model, x, steps=400, trainer=Trainer(model, lr=0.05), schedule=cosine)
    fit(exact, x)
    assert abs(evaluate(model, x) - evaluate(exact, x)) < 1e-3


# Data


def tensors_seen(data: object, **options: object) -> tuple[History, Mean]:
    model = Mean(1)
    return fit(model, data, steps=5, batch_size=3, **options), model  # type: ignore[arg-type]


def test_a_dataset_gives_what_its_tensor_gives() -> None:
    x = torch.randn(10, 1)

    class Rows(Dataset[Tensor]):
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, index: int) -> Tensor:
            return x[index]

    _, expected = tensors_seen(x)
    for data in (TensorDataset(x), Rows()):
        _, model = tensors_seen(data)
        assert torch.equal(torch.cat(model.seen), torch.cat(expected.seen))
        assert torch.equal(model.mean, expected.mean)


def test_pairs_stay_together() -> None:
    class Paired(Mean):
        def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            assert context is not None
            assert torch.equal(context, 2 * x), "an x got another's context"
            return super().loss(x, context)

    x = torch.randn(10, 1)
    pairs = TensorDataset(x, 2 * x)
    for data in (x, pairs, iter(DataLoader(pairs, batch_size=2)), iter([(x, 2 * x)])):
        context = 2 * x if data is x else None
        fit(Paired(context_shape=1), data, context, steps=3, batch_size=4)
    fit(Paired(context_shape=1), x, 2 * x, steps=3, validation=0.3)
    fit(Paired(context_shape=1), pairs, steps=3, validation=(x, 2 * x))


def test_an_iterator_may_run_dry() -> None:
    x = torch.randn(12, 1)
    loader = DataLoader(TensorDataset(x), batch_size=3)
    for data in (iter(loader), iter(x.split(3)), (part for part in x.split(3))):
        history, model = tensors_seen(data)
        assert history.stopped == "exhausted"
        assert torch.equal(torch.cat(model.seen), x)
        assert len(history.losses["loss"]) == 4 and history.trainer.steps == 4
    history, _ = tensors_seen(iter([]))
    assert history.stopped == "exhausted" and history.losses == {}
    endless = iter(lambda: x, None)
    assert tensors_seen(endless)[0].stopped == "steps"


def test_what_comes_from_a_stream_is_checked() -> None:
    bad = torch.full((4, 1), math.nan)
    for data in (iter([bad]), TensorDataset(bad), bad, iter([torch.zeros(4, 2)])):
        with pytest.raises(ValueError, match="'x'"):
            fit(Mean(), data, steps=1)


def test_minibatches_are_epochs_in_new_orders() -> None:
    x = torch.arange(10.0)[:, None]
    drawn = take_from(minibatches(x, None, 4, seed=3), 6)  # 2 whole minibatches in an epoch
    for epoch in range(3):
        values = torch.cat(drawn[2 * epoch : 2 * epoch + 2]).flatten().tolist()
        assert len(set(values)) == 8
    assert not torch.equal(drawn[0], drawn[2])
    for start in range(5):
        again = take_from(minibatches(x, None, 4, seed=3, start=start), 2)
        assert all(torch.equal(a, b) for a, b in zip(again, drawn[start:], strict=False))
    small = take_from(minibatches(x, None, 99, seed=3), 2)
    assert all(torch.equal(part.sort(0).values, x) for part in small)


def take_from(stream: Iterator[tuple[object, object]], count: int) -> list[Tensor]:
    found = [next(stream)[0] for _ in range(count)]
    assert all(isinstance(part, Tensor) for part in found)
    return found  # type: ignore[return-value]


def test_data_stay_on_their_device() -> None:
    x, context = torch.zeros(10, 2, device="meta"), torch.zeros(10, 1, device="meta")
    part, given = next(minibatches((x, x), context, 4, seed=0))
    assert isinstance(part, tuple) and isinstance(given, Tensor)
    assert all(t.device.type == "meta" for t in (*part, given))


def test_a_fraction_is_held_out_of_training() -> None:
    seen: dict[bool, set[float]] = {True: set(), False: set()}

    class Watching(Mean):
        def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            seen[self.training].update(x.flatten().tolist())
            return super().loss(x)

    x = torch.arange(20.0)[:, None]
    history = fit(Watching(), x, steps=50, batch_size=4, validation=0.25)
    assert len(seen[True]) == 15 and len(seen[False]) == 5 and not seen[True] & seen[False]
    assert len(history.validation) == 50


def test_evaluation_is_repeatable_and_does_not_depend_on_the_batch_size() -> None:
    x = torch.randn(10, 3)
    model = make(Dropping).train()
    before = torch.get_rng_state()
    assert evaluate(model, x) == evaluate(model, x) != evaluate(model, x, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert all(part.training for part in model.modules())
    mean = Mean(3)
    assert math.isclose(evaluate(mean, x), mean.loss(x).mean().item(), rel_tol=1e-6)
    assert math.isclose(evaluate(mean, x), evaluate(mean, x, batch_size=3), rel_tol=1e-6)
    for batch_size in (0, -1):
        with pytest.raises(ValueError, match="'batch_size'"):
            evaluate(mean, x, batch_size=batch_size)
    with pytest.raises(ValueError, match="empty"):
        evaluate(mean, x[:0])


# Messages


def test_wrong_arguments_of_fit() -> None:
    x = torch.randn(8, 1)
    for name in ("steps", "batch_size", "patience"):
        with pytest.raises(ValueError, match=f"'{name}'"):
            fit(Mean(), x, **{name: 0})
    for options in ({"lr": 1e-2}, {"seed": 1}):
        model = Mean()
        with pytest.raises(ValueError, match="'trainer' brings its own"):
            fit(model, x, trainer=Trainer(model), **options)
    with pytest.raises(ValueError, match="another model"):
        fit(Mean(), x, trainer=Trainer(Mean()))
    with pytest.raises(ValueError, match="no use for 'lr'"):
        fit(Gaussian(1), x, lr=1e-2)
    with pytest.raises(ValueError, match="no use for 'schedule'"):
        fit(Gaussian(1), x, schedule=cosine)
    with pytest.raises(TypeError, match="has no exact steps"):
        ExactTrainer(Mean())


@pytest.mark.parametrize("lr", [0.0, -1.0])
def test_wrong_arguments_of_trainer(lr: float) -> None:
    with pytest.raises(ValueError, match="'lr'"):
        Trainer(Mean(), lr=lr)
    with pytest.raises(ValueError, match="'lr'"):
        fit(Mean(), torch.zeros(2, 1), lr=lr)
    with pytest.raises(ValueError, match="'clip_norm'"):
        Trainer(Mean(), clip_norm=lr)


def test_wrong_data() -> None:
    x = torch.randn(8, 1)

    class Stream(IterableDataset[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            return iter(x)

    for data in (DataLoader(TensorDataset(x)), x.tolist(), None):
        with pytest.raises(ValueError, match="'x' must be a tensor"):
            fit(Mean(), data, steps=1)  # type: ignore[arg-type]
    for data in (Stream(), torch.zeros(8, 2), torch.zeros(8), x.double(), x[:0], (x, x)):
        with pytest.raises(ValueError, match="'x'"):
            fit(Mean(), data, steps=1)
    with pytest.raises(ValueError, match="pairs"):
        fit(Mean(context_shape=1), TensorDataset(x), steps=1)
    with pytest.raises(ValueError, match="'x'"):
        fit(Mean(), TensorDataset(x, x), steps=1)
    with pytest.raises(ValueError, match="takes no context"):
        fit(Mean(), x, x)
    with pytest.raises(ValueError, match="needs a context"):
        fit(Mean(context_shape=1), x)
    for options in ({"context": x}, {"validation": 0.5}):
        with pytest.raises(ValueError, match="brings its own context"):
            fit(Mean(), iter([x]), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pass tensors"):
        fit(Gaussian(1), iter([x]))


def test_wrong_validation() -> None:
    x = torch.randn(8, 1)
    for validation in (0.0, 1.0, 0.01, -0.5, 2.0, x.double(), torch.zeros(8, 2), "x", (x, x)):
        with pytest.raises(ValueError, match="'validation'"):
            fit(Mean(), x, validation=validation)  # type: ignore[arg-type]
    for validation in (x, (x,), (x, None), (x, x[:3])):
        with pytest.raises(ValueError, match="'validation'"):
            fit(Mean(context_shape=1), x, x, validation=validation)  # type: ignore[arg-type]


# Progress

FITTING = """
import sys
import torch
from rlgen.generative import VAE, fit
torch.set_num_threads(1)
x = torch.randn(64, 3)
fit(VAE(3, latent=2, hidden=(8,)), x, steps=100, progress=False)
sys.stderr.write("now the other")
fit(VAE(3, latent=2, hidden=(8,)), x, steps=100, validation=0.5, patience=50)
"""


def test_progress_is_silent_when_piped() -> None:
    command = [sys.executable, "-W", "error", "-c", FITTING]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "now the other")


def test_progress_is_one_live_line_on_a_terminal() -> None:
    silent, _, shown = on_a_terminal(FITTING).partition("now the other")
    assert silent == ""
    assert "fit" in shown and "loss" in shown and "validation" in shown and "/100" in shown
    assert shown.count("\n") <= 1, "the line is drawn over itself"
    assert "\x1b[2K" in shown, "and is cleared"


def on_a_terminal(code: str) -> str:
    """What python shows on a terminal of its own."""
    import os
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # how Linux says that the other end was closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(timeout=60) == 0, shown.decode()
    return shown.decode()


# Accelerators


@pytest.mark.gpu
def test_divergence_on_an_accelerator_is_noticed_later_and_undone() -> None:
    model = Cliff().to("cuda")
    model.mean.data.fill_(-6.0)  # 65 steps from the cliff
    trainer = Trainer(model, lr=0.1)
    with pytest.raises(NonFiniteLoss, match="step 65: the objective 'climb'"):
        fit(model, torch.zeros(8, 1, device="cuda"), steps=1000, trainer=trainer)
    assert model.mean.item() in model.finite[-33:]
    losses = trainer.step(torch.zeros(8, 1, device="cuda"))
    assert torch.isfinite(losses["climb"]) and torch.isfinite(model.mean).all()


@pytest.mark.gpu
def test_a_restart_on_an_accelerator_changes_no_bit(tmp_path: Path) -> None:
    x = torch.randn(40, 3, device="cuda")
    straight = make(VAE).to("cuda")
    resumed = copy.deepcopy(straight)
    before = torch.cuda.get_rng_state()
    fit(straight, x, steps=70, batch_size=16, seed=5)
    history = fit(resumed, x, steps=33, batch_size=16, seed=5)
    checkpoint.save(history.trainer, tmp_path / "trainer")
    trainer = checkpoint.load(tmp_path / "trainer", device="cuda")
    fit(trainer.model, x, steps=37, batch_size=16, trainer=trainer)
    assert same(weights_of(trainer.model), weights_of(straight))
    assert torch.equal(before, torch.cuda.get_rng_state())


def test_a_run_that_ends_early_is_looked_at_once_more() -> None:
    x = torch.randn(500, 2)
    measures = {"one": lambda model: 1.0}
    history = fit(Gaussian(2), x, validation=0.1, measures=measures)
    assert history.stopped == "converged"
    assert [step for step, _ in history.measured["one"]] == [history.trainer.steps]
    assert [step for step, _ in history.validation] == [history.trainer.steps]
    batches = iter([x[:64]] * 7)
    history = fit(generative.RealNVP(2), batches, measures=measures)
    assert history.stopped == "exhausted" and history.measured == {"one": [(7, 1.0)]}


@pytest.mark.parametrize(("model", "message"), [
    (generative.GAN(2), "GAN has critic and generator"),
    (generative.EnergyModel(2), "that of EnergyModel does not"),
])  # fmt: skip
def test_losses_that_do_not_compare_weights_do_not_stop_a_run(
    model: GenerativeModel, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(model, torch.randn(64, 2), steps=2, validation=0.1)


def test_measures_do_not_hide_what_a_model_says_of_itself() -> None:
    with pytest.raises(ValueError, match="'accuracy'"):
        fit(generative.GAN(2), torch.randn(64, 2), steps=2, measures={"accuracy": lambda m: 0.0})


@pytest.mark.parametrize("kind", [generative.DDPM, generative.ScoreSDE])
def test_scores_take_one_time_for_all(kind: type[generative.DDPM | generative.ScoreSDE]) -> None:
    model, x = kind(2), torch.randn(3, 2)
    assert torch.equal(model.score(x, 0.5), model.score(x, torch.full((3,), 0.5)))
    for wrong in (-0.5, 1.5, torch.full((2,), 0.5)):
        with pytest.raises(ValueError, match="'t'"):
            model.score(x, wrong)
