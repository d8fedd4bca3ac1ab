import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import (
    CONFIG,
    GOLDEN,
    golden_trace,
    in_child,
    load_state,
    random_model,
    small_photo_set,
    train_and_die,
    train_small,
)

from rid.models.checkpoint import load_defender
from rid.models.defender import SIZES, Defender
from rid.training import trainer
from rid.training.recipes import RECIPES, recipe
from rid.training.run_log import SCALARS, RunLog, read_log, summarise_losses
from rid.training.trainer import TrainingDiverged, learning_rate_factor
from rid.training.training_state import STATE_FILE, WRITING, fresh_state, resume, save_state

SHIPPED = Path(__file__).parents[2] / "models" / "weights" / "faces-64"
KILLED = -9


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small run, trained in one go in a process of its own."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert in_child(train_and_die, str(folder), None, None) == 0
    return folder


def assert_equal_runs(folder: Path, expected: Path) -> None:
    state, wanted = load_state(folder), load_state(expected)
    assert state.keys() == wanted.keys()
    for name, value in wanted.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(state[name], value), name
        else:
            assert state[name] == value, name

    def steps(log: Path) -> list[dict[str, Any]]:
        return [{name: value for name, value in record.items() if name != "seconds"} for record in read_log(log)]

    assert steps(folder / "log.jsonl") == steps(expected / "log.jsonl")


def test_a_run_killed_in_every_step_ends_with_equal_bits(uninterrupted: Path, tmp_path: Path) -> None:
    for step in range(CONFIG.steps):
        assert in_child(train_and_die, str(tmp_path), step, None) == KILLED
    assert in_child(train_and_die, str(tmp_path), None, None) == 0
    assert_equal_runs(tmp_path, uninterrupted)


def test_a_run_killed_while_it_writes_checkpoints_ends_with_equal_bits(uninterrupted: Path, tmp_path: Path) -> None:
    for finished, when in ((3, "half"), (3, "unnamed"), (3, "named"), (6, "half"), (6, "unnamed"), (9, "half")):
        before = (tmp_path / STATE_FILE).read_bytes() if (tmp_path / STATE_FILE).exists() else b""
        assert in_child(train_and_die, str(tmp_path), finished, when) == KILLED
        if when != "named":
            assert (tmp_path / WRITING).stat().st_size > 0  # the torn one lies there and is not read
            now = (tmp_path / STATE_FILE).read_bytes() if (tmp_path / STATE_FILE).exists() else b""
            assert now == before or finished > 3
    assert in_child(train_and_die, str(tmp_path), None, None) == 0
    assert_equal_runs(tmp_path, uninterrupted)


def test_a_finished_run_does_nothing_more(uninterrupted: Path, tmp_path: Path) -> None:
    before = (uninterrupted / STATE_FILE).read_bytes()
    records: list[dict[str, Any]] = []
    defender = train_small(uninterrupted, on_step=records.append)
    assert records == []
    assert (uninterrupted / STATE_FILE).read_bytes() == before
    saved = torch.load(uninterrupted / STATE_FILE, weights_only=True)
    assert all(torch.equal(value, saved["average"][name]) for name, value in defender.state_dict().items())


def test_the_last_step_is_saved(uninterrupted: Path) -> None:
    """Ten steps, a checkpoint every three: the published pair script loses its last ones."""
    assert CONFIG.steps % CONFIG.checkpoint_every
    saved = torch.load(uninterrupted / STATE_FILE, weights_only=True)
    assert saved["step"] == saved["optimiser"]["state"][0]["step"] == CONFIG.steps


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    train_small(tmp_path, steps=3)
    with pytest.raises(ValueError, match=r"learning_rate was 0\.002 and is 0\.001"):
        train_small(tmp_path, steps=3, learning_rate=1e-3)
    with pytest.raises(ValueError, match="models was"):
        train_small(tmp_path, steps=3, models=[random_model(), random_model(seed=1)])
    with pytest.raises(ValueError, match=r"another run \(models was .*U-Net"):  # of equal autoencoder and prediction
        train_small(tmp_path, steps=3, models=[random_model(), random_model("v_prediction", seed=2)])
    with pytest.raises(ValueError, match="initial was None"):
        train_small(tmp_path, steps=3, initial=Defender(SIZES[CONFIG.size]))


def test_as_many_other_photos_or_perturbations_are_another_run(tmp_path: Path) -> None:
    """They were taken for the same ones, and the run went on without an error."""
    photos, config, models = small_photo_set(), replace(CONFIG, steps=3), [random_model()]
    trainer.train_defender(config, photos, models, tmp_path)
    others = replace(photos, pixels=photos.pixels ^ 1)
    with pytest.raises(ValueError, match=r"another run \(photos was '6 with digest \w+' and is '6 with digest \w+'\):"):
        trainer.train_defender(config, others, models, tmp_path)
    for changed in (replace(photos, teacher=-photos.teacher), replace(photos, teacher_index=photos.teacher_index - 1)):
        with pytest.raises(ValueError, match=r"another run \(perturbations was '3 with digest"):
            trainer.train_defender(config, changed, models, tmp_path)


def test_random_numbers_go_on_after_a_resume(tmp_path: Path) -> None:
    state = fresh_state(CONFIG, None, torch.device("cpu"))
    torch.manual_seed(7)
    torch.rand(3)
    save_state(tmp_path, state, {})
    expected = torch.rand(4)
    torch.manual_seed(8)
    resume(tmp_path, fresh_state(CONFIG, None, torch.device("cpu")), {})
    assert torch.equal(torch.rand(4), expected)


def test_the_log_drops_a_torn_line_and_the_steps_that_are_done_again(tmp_path: Path) -> None:
    record: dict[str, float] = dict.fromkeys(SCALARS, 1.0)
    record |= {"seconds": 4}
    with RunLog(tmp_path, 0) as log:
        for step in range(4):
            log.write({"step": step, **record})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    with RunLog(tmp_path, 3) as log:
        assert log.earlier_seconds == 4
        log.write({"step": 3, **record, "loss": 2.0})
    assert [(entry["step"], entry["loss"]) for entry in read_log(tmp_path / "log.jsonl")] == [
        (0, 1.0),
        (1, 1.0),
        (2, 1.0),
        (3, 2.0),
    ]


def test_a_card_keeps_the_means_of_equal_stretches_of_the_losses() -> None:
    others = {"regression": 2.0, "displacement": 0.0, "spaces": 1.0}
    records = [{"step": step, "adv_sds": -float(step), **others} for step in range(1000)]
    curves = summarise_losses(records, points=4)
    assert curves["step"] == [249, 499, 749, 999]
    assert curves["adv_sds"] == [-124.5, -374.5, -624.5, -874.5] and curves["regression"] == [2.0] * 4
    assert summarise_losses(records[:3])["step"] == [0, 1, 2]


def test_tensorboard_reads_the_same_losses(uninterrupted: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(uninterrupted / "tensorboard")).Reload()
    expected = [(record["step"], record["loss"]) for record in read_log(uninterrupted / "log.jsonl")]
    read = [(scalar.step, scalar.value) for scalar in events.Scalars("loss")]
    assert [step for step, _ in read] == [step for step, _ in expected]
    assert [value for _, value in read] == pytest.approx([value for _, value in expected])


def test_the_golden_trace(tmp_path: Path) -> None:
    """`python tests/support/training_runs.py --golden` writes it again, where a change of the losses is intended."""
    golden = json.loads(GOLDEN.read_text())
    assert golden["config"] == asdict(CONFIG)
    for now, then in zip(golden_trace(tmp_path), golden["steps"], strict=True):
        assert now == pytest.approx(then, rel=1e-4)


def test_the_learning_rate_warms_up_and_really_decays(tmp_path: Path) -> None:
    rates: list[float] = []
    train_small(tmp_path, on_step=lambda record: rates.append(record["learning_rate"]))
    assert rates[:3] == pytest.approx([CONFIG.learning_rate * part for part in (1 / 3, 2 / 3, 1)])
    assert all(later < earlier for earlier, later in pairwise(rates[3:]))
    assert rates[-1] == pytest.approx(CONFIG.learning_rate / 7)
    long = recipe("rid_512")
    factors = [learning_rate_factor(long, step) for step in (499, 300_250, 599_999)]
    assert factors == pytest.approx([1.0, 0.5, 0.0], abs=1e-3)


def test_the_optimiser_steps_with_the_decayed_rate(tmp_path: Path) -> None:
    """With gradients of one sign AdamW moves a weight by about the rate, so the last steps move less."""
    train_small(tmp_path)
    saved = torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert saved["optimiser"]["param_groups"][0]["lr"] == pytest.approx(CONFIG.learning_rate / 7)
    assert saved["optimiser"]["param_groups"][0]["weight_decay"] == CONFIG.weight_decay
    assert saved["optimiser"]["state"][0]["step"] == CONFIG.steps


def test_the_average_follows_the_weights_exponentially() -> None:
    state = fresh_state(CONFIG, None, torch.device("cpu"))
    start = state.average.linear.bias.clone()
    with torch.no_grad():
        state.defender.linear.bias += 1
    state.step = 0
    state.update_average(0.9)
    assert torch.allclose(state.average.linear.bias, start + 0.9)  # decay 1/10 in the first step
    state.step = 1000
    state.update_average(0.9)
    assert torch.allclose(state.average.linear.bias, start + 0.9 + 0.1 * 0.1)
    assert not any(parameter.requires_grad for parameter in state.average.parameters())


@pytest.mark.parametrize(("micro_batch", "checkpointing"), [(1, False), (2, True)])
def test_micro_batches_and_checkpointing_change_nothing_but_float_error(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro_batch: int, checkpointing: bool
) -> None:
    monkeypatch.setattr(trainer, "LOG_EVERY", 1)
    train_small(tmp_path, micro_batch=micro_batch, vae_checkpointing=checkpointing)
    for part in ("defender", "average"):
        expected = torch.load(uninterrupted / STATE_FILE, weights_only=True)[part]
        for name, value in torch.load(tmp_path / STATE_FILE, weights_only=True)[part].items():
            torch.testing.assert_close(value, expected[name], atol=5e-5, rtol=1e-3)
    for now, then in zip(read_log(tmp_path / "log.jsonl"), read_log(uninterrupted / "log.jsonl"), strict=True):
        assert now["loss"] == pytest.approx(then["loss"], rel=1e-4)
        assert now["gradient_norm"] == pytest.approx(then["gradient_norm"], rel=1e-3)


def test_training_lowers_the_regression_and_moves_every_weight(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = []
    defender = train_small(tmp_path, on_step=records.append, adv_sds_weight=0.0, steps=60, models=[])
    assert records[-1]["regression"] < 0.9 * records[0]["regression"]
    assert all(record["adv_sds"] == 0 for record in records)
    fresh = fresh_state(CONFIG, None, torch.device("cpu")).defender
    for (name, trained), initial in zip(defender.named_parameters(), fresh.parameters(), strict=True):
        assert not torch.equal(trained, initial), name


def test_a_loss_that_is_no_number_stops_with_a_sentence_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    model = random_model()
    records: list[dict[str, Any]] = []

    def spoil(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        if len(records) == 5:
            output.sample.fill_(math.nan)
        return output

    model.unet.register_forward_hook(spoil)
    with pytest.raises(
        TrainingDiverged, match=r"no finite number|finite number at step 5; the checkpoint after step 3"
    ):
        train_small(tmp_path, models=[model], on_step=records.append)
    saved = torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert saved["step"] == 3
    assert all(bool(torch.isfinite(value).all()) for value in saved["defender"].values())


def test_an_exploding_loss_stops_with_a_sentence(tmp_path: Path) -> None:
    model = random_model()
    records: list[dict[str, Any]] = []

    def spoil(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        if len(records) >= 22:
            output.sample.mul_(1e4)
        return output

    model.unet.register_forward_hook(spoil)
    with pytest.raises(TrainingDiverged, match=r"exploded to .* at step 22; the checkpoint after step 21 is good"):
        train_small(tmp_path, models=[model], on_step=records.append, steps=30)


def test_a_run_starts_from_shipped_weights(tmp_path: Path) -> None:
    shipped, _ = load_defender(SHIPPED)
    config = replace(recipe("faces_64"), steps=1)
    state = fresh_state(config, shipped, torch.device("cpu"))
    for start in (state.defender, state.average):
        assert all(torch.equal(a, b) for a, b in zip(start.parameters(), shipped.parameters(), strict=True))
    with pytest.raises(ValueError, match="the defender to start from is DefenderSize"):
        train_small_from(shipped, tmp_path)
    begun = train_small_from(Defender(SIZES["tiny-32"]), tmp_path)
    assert begun.size == SIZES["tiny-32"]


def train_small_from(initial: Defender, folder: Path) -> Defender:
    return trainer.train_defender(
        replace(CONFIG, steps=1), small_photo_set(), [random_model()], folder, initial=initial
    )


def test_a_run_that_cannot_be_is_refused_before_it_starts(tmp_path: Path) -> None:
    photos = small_photo_set(pairs=0)
    with pytest.raises(ValueError, match="needs at least one frozen diffusion model"):
        trainer.train_defender(CONFIG, photos, [], tmp_path)
    with pytest.raises(ValueError, match="a regression needs teacher perturbations"):
        trainer.train_defender(replace(CONFIG, adv_sds_weight=0.0), photos, [], tmp_path)
    with pytest.raises(ValueError, match="photos are 16 px where tiny-32 needs at least 32"):
        trainer.train_defender(CONFIG, small_photo_set(side=16), [random_model()], tmp_path)
    fixed = replace(CONFIG, budget_min=3, budget_max=3, budget_default=3, recipe="fixed")
    with pytest.raises(ValueError, match="with a budget of 8 levels, but the recipe fixed trains with 3 to 3"):
        trainer.train_defender(fixed, replace(small_photo_set(), teacher_budget=8), [random_model()], tmp_path)


def test_the_large_recipes_have_the_lambda_of_the_sweep() -> None:
    assert [recipe(name).regression_weight for name in ("faces_64", "rid_512", "small_512")] == [3.0, 3.0, 3.0]


def test_every_recipe_is_complete_and_named_after_its_function() -> None:
    for name, function in RECIPES.items():
        assert function().recipe == name == function.__name__
        assert function.__doc__
    assert recipe("regression_only").adv_sds_weight == 0 < recipe("regression_only").regression_weight
    assert recipe("adv_sds_only").regression_weight == 0 < recipe("adv_sds_only").adv_sds_weight
    assert min(recipe("combined").regression_weight, recipe("combined").adv_sds_weight) > 0
    coded = [name for name, function in RECIPES.items() if function().transformed_share]
    assert coded == ["faces_64_transformed", "any_size"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": 0}, "must be at least 1"),
        ({"micro_batch": 0}, "must be at least 1"),
        ({"size": "huge"}, "size 'huge' is unknown: choose one of"),
        ({"precision": "float8"}, "precision 'float8' is unknown: choose one of auto, float32, bfloat16"),
        ({"posterior": "mode"}, "posterior 'mode' is unknown"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"adv_sds_weight": 0.0, "regression_weight": 0.0}, "nothing to train on"),
        ({"jpeg_quality_min": 96}, "JPEG qualities"),
        ({"colour": 1}, "has no field colour"),
    ],
)
def test_a_wrong_recipe_gives_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        recipe("faces_64", **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"batch": 5, "pair_batch": 3, "micro_batch": 1}])
def test_two_processes_train_what_one_trains(tmp_path: Path, changes: dict[str, int]) -> None:
    """Two real processes over gloo: batches and noise are the same, gradients equal up to float error."""
    script = Path(__file__).parents[1] / "support" / "training_runs.py"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    for command, folder, processes in ((launch, "two", 2), ([sys.executable], "one", 1)):
        done = subprocess.run(
            [*command, str(script), str(tmp_path / folder), json.dumps(changes)],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count(f"processes: {processes}") == processes
    two, one = (read_log(tmp_path / folder / "log.jsonl") for folder in ("two", "one"))
    assert [record["step"] for record in two] == list(range(CONFIG.steps))  # written once, not by each process
    for now, then in zip(two, one, strict=True):
        for name in ("adv_sds", "regression", "gradient_norm", "learning_rate"):
            assert now[name] == pytest.approx(then[name], rel=2e-3), name
    saved = [torch.load(tmp_path / folder / STATE_FILE, weights_only=True) for folder in ("two", "one")]
    for name, value in saved[0]["defender"].items():
        torch.testing.assert_close(value, saved[1]["defender"][name], atol=2e-4, rtol=1e-2)
