from dataclasses import replace

import numpy as np
import pytest
import torch
from training_runs import CONFIG, SIDE, make_batch, small_photo_set

from rid.training.batches import Batch, draw_batch, part_of
from rid.training.noise import StepNoise
from rid.training.photo_set import PhotoSet, seeded_share


def numbered_photos(count: int = 5, side: int = SIDE + 6) -> PhotoSet:
    """Photos whose pixels say which photo and which place they are, and perturbations that say the same."""
    rows, columns = np.mgrid[:side, :side]
    pixels = np.stack([np.stack([np.full((side, side), i), rows, columns], -1) for i in range(count)]).astype(np.uint8)
    teacher = (pixels.astype(np.int16) // 8).astype(np.int8)
    return PhotoSet(pixels, np.arange(count), teacher, 8)


def levels(image: torch.Tensor) -> torch.Tensor:
    return (image * 127.5 + 127.5).round()


def test_a_step_depends_on_seed_and_step_alone() -> None:
    photos = small_photo_set()
    batch, again = make_batch(photos, CONFIG, 7), make_batch(photos, CONFIG, 7)
    assert torch.equal(batch.image, again.image)
    assert torch.equal(batch.pair_perturbation, again.pair_perturbation)
    assert not torch.equal(batch.image, make_batch(photos, CONFIG, 8).image)
    assert not torch.equal(batch.image, make_batch(photos, replace(CONFIG, seed=1), 7).image)


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_share_one_batch(processes: int) -> None:
    photos, config = small_photo_set(), replace(CONFIG, batch=7, pair_batch=5)
    whole = make_batch(photos, config, 3)
    parts = [make_batch(photos, config, 3, process=i, processes=processes) for i in range(processes)]
    assert [place for part in parts for place in part.positions] == list(whole.positions) == list(range(7))
    for name in ("image", "budget_levels", "pair_image", "pair_budget_levels", "pair_perturbation"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name


@pytest.mark.parametrize("largest", [1, 2, 3, 7, 100])
def test_micro_batches_are_the_batch_cut_up(largest: int) -> None:
    whole = make_batch(small_photo_set(), replace(CONFIG, batch=7, pair_batch=3), 3)
    parts = whole.split(largest)
    assert max(max(len(part.image), len(part.pair_image)) for part in parts) <= largest
    assert [place for part in parts for place in part.positions] == list(whole.positions)
    for name in ("image", "budget_levels", "pair_image", "pair_perturbation"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name


def test_parts_cover_everything_evenly() -> None:
    for count in range(12):
        for parts in range(1, 6):
            ranges = [part_of(count, part, parts) for part in range(parts)]
            assert [i for one in ranges for i in one] == list(range(count))
            assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_a_crop_and_a_flip_act_on_photo_and_perturbation_together() -> None:
    """Every pixel says where it was cut out, so a perturbation from another place or photo would show."""
    config = replace(CONFIG, batch=1, pair_batch=16)
    corners, mirrored = set(), set()
    for step in range(8):
        batch = make_batch(numbered_photos(), config, step)
        photo, teacher = levels(batch.pair_image), (batch.pair_perturbation * 127.5).round()
        assert torch.equal((photo // 8).long(), teacher.long())
        for cut in photo:
            columns = cut[2, 0]
            mirrored.add(bool(columns[0] > columns[-1]))
            corners.add((int(cut[1, 0, 0]), int(columns.min())))
            assert torch.equal(cut[1, :, 0], torch.arange(SIDE) + cut[1, 0, 0])  # upright, whole rows
    assert mirrored == {True, False}
    assert len(corners) > 20
    assert all(0 <= corner <= 6 for pair in corners for corner in pair)


def test_photos_without_a_margin_are_not_cropped() -> None:
    photos = numbered_photos(side=SIDE)
    batch = make_batch(photos, CONFIG, 0)
    assert torch.equal(levels(batch.image)[:, 1, :, 0], torch.arange(SIDE).float().expand(CONFIG.batch, -1))


def test_every_photo_is_drawn_and_a_set_may_be_smaller_than_a_batch() -> None:
    one = make_batch(small_photo_set(count=1, pairs=1), replace(CONFIG, batch=8, pair_batch=8), 0)
    assert one.image.shape == (8, 3, SIDE, SIDE)
    assert one.pair_image.shape == (8, 3, SIDE, SIDE)
    seen = torch.cat([levels(make_batch(numbered_photos(5), CONFIG, step).image)[:, 0, 0, 0] for step in range(20)])
    assert set(seen.tolist()) == {0, 1, 2, 3, 4}  # the last ones too


def test_budgets_are_drawn_from_the_whole_range() -> None:
    photos, config = small_photo_set(), replace(CONFIG, budget_min=3, budget_max=5, budget_default=4)
    drawn = torch.cat([make_batch(photos, config, step).budget_levels for step in range(20)])
    assert set(drawn.tolist()) == {3.0, 4.0, 5.0}
    assert make_batch(photos, config, 0).pair_budget_levels.tolist() == [8.0, 8.0]


def test_a_term_that_is_left_out_loads_nothing() -> None:
    photos = small_photo_set()
    assert len(make_batch(photos, replace(CONFIG, regression_weight=0.0), 0).pair_image) == 0
    assert len(make_batch(photos, replace(CONFIG, adv_sds_weight=0.0), 0).image) == 0
    kept = make_batch(photos, replace(CONFIG, adv_sds_weight=0.0), 0).pair_perturbation
    assert torch.equal(kept, make_batch(photos, CONFIG, 0).pair_perturbation)  # ablations see the same pairs


def test_noise_depends_on_a_photos_place_alone() -> None:
    whole = StepNoise(1, 2, range(6))
    parts = [StepNoise(1, 2, range(2)), StepNoise(1, 2, range(2, 6))]
    for draw in (lambda n: n.normal((2, 3)), lambda n: n.integers(0, 1000), lambda n: n.uniform()):
        assert torch.equal(torch.cat([draw(part) for part in parts]), draw(whole))
    assert not torch.equal(StepNoise(1, 3, range(2)).normal((4,)), StepNoise(1, 2, range(2)).normal((4,)))
    many = StepNoise(0, 0, range(500)).normal((40,))
    assert abs(many.mean()) < 0.02 and abs(many.std() - 1) < 0.02
    assert len({tuple(row.tolist()) for row in many}) == 500


def test_a_batch_travels_as_whole_levels_and_is_converted_on_the_device() -> None:
    drawn = draw_batch(small_photo_set(), CONFIG, 0)
    assert (drawn.image.dtype, drawn.pair_image.dtype) == (torch.uint8, torch.uint8)
    assert drawn.pair_perturbation.dtype == torch.int8
    moved = drawn.to(torch.device("meta"))
    assert isinstance(moved, Batch)
    for name in ("image", "pair_image", "pair_perturbation"):
        assert (getattr(moved, name).device.type, getattr(moved, name).dtype) == ("meta", torch.float32)
    here = drawn.to(torch.device("cpu"))
    assert torch.equal(levels(here.image), drawn.image.float())
    assert torch.equal((here.pair_perturbation * 127.5).round(), drawn.pair_perturbation.float())


def test_the_seeded_share_is_a_tenth_and_grows_stably() -> None:
    random = np.random.default_rng(0)
    photos = list(random.integers(0, 256, (2000, 4, 4, 3), dtype=np.uint8))
    chosen = seeded_share(photos, 0.1, seed=0)
    assert 150 < len(chosen) < 250
    assert list(seeded_share(photos[:700], 0.1, seed=0)) == [i for i in chosen if i < 700]
    assert set(chosen) <= set(seeded_share(photos, 0.2, seed=0))
    assert chosen != seeded_share(photos, 0.1, seed=1)
    assert seeded_share(photos, 1.0, seed=0) == list(range(2000))
    assert seeded_share(photos, 0.0, seed=0) == []


def test_a_photo_set_that_does_not_fit_together_is_refused() -> None:
    photos = small_photo_set()
    with pytest.raises(ValueError, match="there is no photo to train on"):
        PhotoSet(photos.pixels[:0], photos.teacher_index[:0], photos.teacher[:0], 0)
    with pytest.raises(ValueError, match="do not belong to 3 photos"):
        PhotoSet(photos.pixels, photos.teacher_index, photos.teacher[:, :SIDE, :SIDE], 8)
    with pytest.raises(ValueError, match="exceeds the budget it claims"):
        PhotoSet(photos.pixels, photos.teacher_index, photos.teacher, 4)
