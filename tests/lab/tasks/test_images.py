"""A data set on its device: what a batch holds, and in what order batches come."""

import pytest
import torch

from normcore.lab.errors import UsageError
from normcore.lab.runs import training
from normcore.lab.tasks import datasets, images
from normcore.lab.tasks.images import SCALINGS, ImageClassification, Images, augmented, by_class, foreign_images
from normcore.lab.tasks.outliers import Outliers

from ..helpers import config, network

pytestmark = pytest.mark.usefixtures("store")
CPU = torch.device("cpu")


def test_a_batch_is_standardized() -> None:
    dataset = datasets.load("digits", 14)
    split = Images(dataset.train, dataset, CPU)
    x, y = split.batch(torch.arange(len(split)))
    assert x.shape == (1437, 1, 14, 14)
    assert x.mean().item() == pytest.approx(0, abs=1e-5)
    assert x.std().item() == pytest.approx(1, abs=1e-3)
    expected = (torch.tensor(dataset.train.images[7, :, :, 0] / 255.0) - dataset.mean[0]) / dataset.std[0]
    torch.testing.assert_close(x[7, 0], expected.float(), rtol=1e-5, atol=1e-5)
    assert y[7] == dataset.train.labels[7]


def test_images_that_a_device_has_no_room_for_are_gathered_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, there = datasets.load("digits", 14), torch.device("meta")
    assert Images(dataset.train, dataset, there).pixels.device == there
    monkeypatch.setattr(images, "fits", lambda *_: False)
    mapped = Images(dataset.train, dataset, there)
    assert mapped.pixels.device == CPU
    x, y = mapped.batch(torch.arange(5))
    assert (x.device, x.shape, y.device) == (there, (5, 1, 14, 14), there)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_pixels_become_numbers_as_the_option_says(scaling: str) -> None:
    task = ImageClassification(config(dataset="shapes", task_options={"scaling": scaling}), CPU)
    unit = torch.tensor(task.dataset.train.images[:9] / 255.0)
    mean, std = torch.tensor(task.dataset.mean).double(), torch.tensor(task.dataset.std).double()
    low, high = (end.view(9, 1, 1, 1) for end in (unit.flatten(1).amin(1), unit.flatten(1).amax(1)))
    expected = {
        "raw": 255 * unit, "unit": unit, "centred": unit - mean, "standardized": (unit - mean) / std,
        "stretched": (unit - low) / (high - low),
    }[scaling]  # fmt: skip
    x, _ = task.batch(torch.arange(9))
    torch.testing.assert_close(x.permute(0, 2, 3, 1), expected.float(), rtol=1e-5, atol=1e-5)
    held, _ = task.batch(torch.arange(9), held=True)
    assert (held.min() < -0.1) == (scaling in ("centred", "standardized"))
    plain = ImageClassification(config(dataset="shapes"), CPU).batch(torch.arange(9))[0]
    assert torch.equal(x, plain) == (scaling == "standardized")


def test_an_unknown_scaling_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown scaling 'centered': did you mean centred"):
        training.check(config(task_options={"scaling": "centered"}))


def test_foreign_images_have_the_channels_of_the_set_and_their_own_mean_and_deviation() -> None:
    grey, coloured = datasets.load("digits", 14), datasets.load("shapes", 14)
    found = foreign_images(config(foreign="shapes"), grey, CPU)
    assert found.shape == (512, 1, 14, 14)
    pixels = torch.tensor(coloured.train.images[:512] / 255.0)
    standardized = (pixels - torch.tensor(coloured.mean)) / torch.tensor(coloured.std)
    torch.testing.assert_close(found[:, 0], standardized.mean(-1).float(), rtol=1e-4, atol=1e-4)
    into_colour = foreign_images(config(dataset="shapes", foreign="digits"), coloured, CPU)
    assert into_colour.shape == (512, 3, 14, 14)
    expected = foreign_images(config(foreign="digits"), grey, CPU)
    assert torch.equal(into_colour, expected.expand(-1, 3, -1, -1))
    torch.testing.assert_close(expected, Images(grey.train, grey, CPU).batch(torch.arange(512))[0])
    assert into_colour.is_contiguous(memory_format=torch.channels_last)


def test_without_another_set_there_are_no_foreign_images() -> None:
    assert foreign_images(config(), datasets.load("digits", 14), CPU).numel() == 0


def test_images_of_another_set_take_the_places_of_the_chosen_ones() -> None:
    """Those that have their numbers, in turn."""
    dataset = datasets.load("digits", 14)
    foreign = foreign_images(config(foreign="digits"), dataset, CPU).flip(0)
    images = Images(dataset.train, dataset, CPU)
    index = torch.arange(400, 700)
    clean, labels = images.batch(index)
    images.outliers = Outliers.draw(len(images), 0.5, "foreign", foreign)
    found, same_labels = images.batch(index)
    chosen = images.outliers.chosen[index]
    assert torch.equal(same_labels, labels)
    assert torch.equal(found[~chosen], clean[~chosen])
    assert torch.equal(found[chosen], foreign[index % 512][chosen])
    assert 0 < chosen.sum() < 300


@pytest.mark.parametrize("share", [0.25, 0.9, 1.0])
def test_a_share_of_each_batch_is_of_one_class(share: float) -> None:
    task = ImageClassification(config(task_options={"one_class": share}), CPU)
    order = by_class(task.items, task.images.labels, 32, share, torch.Generator().manual_seed(0))
    assert len(set(order.tolist())) == len(order) == 1437 // 32 * 32
    commonest = [int(task.images.labels[batch].bincount().max()) for batch in order.split(32)]
    pure = [number >= round(share * 32) for number in commonest]
    assert sum(pure) >= len(pure) - 10  # all but those at a border between two classes
    firsts = task.images.labels[order[::32]].tolist()
    assert firsts != sorted(firsts)


def test_sorted_batches_train_otherwise_and_are_evaluated_alike() -> None:
    """In an order that can be found again."""
    runs = [
        training.train(config(task_options={"one_class": share} if share else {}, steps=8), CPU)
        for share in (None, 1.0, 1.0)
    ]
    plain, one, again = (run.curves for run in runs)
    assert one == again
    assert one["train"]["loss"] != plain["train"]["loss"]
    assert training.train(config(task_options={"one_class": 0.0}, steps=8), CPU).curves == plain


# --- augmentation ----------------------------------------------------------------------------------------


def test_an_augmented_image_is_shifted_flipped_or_both_and_nothing_else() -> None:
    """Every outcome is one of the 2 x 5 x 5 there are, all of them come up, and the mean colour moves in."""
    torch.manual_seed(0)
    image = torch.randn(1, 3, 6, 7)
    outcomes = {}
    for flip in (False, True):
        around = torch.nn.functional.pad(image.flip(3) if flip else image, [2] * 4)
        outcomes |= {(flip, i, j): around[0, :, i : i + 6, j : j + 7] for i in range(5) for j in range(5)}
    y = augmented(image.expand(1000, -1, -1, -1), 2)
    assert y.is_contiguous(memory_format=torch.channels_last)
    found = [next((key for key, o in outcomes.items() if torch.equal(one, o)), None) for one in y]
    assert set(found) == set(outcomes)


def test_only_what_is_trained_on_is_augmented() -> None:
    """The same network on the same batch, in training and not."""
    plain, shifted = (ImageClassification(config(task_options=o), CPU) for o in ({}, {"augment": 3}))
    model, batch = network(config()), plain.batch(plain.items[:32])
    assert torch.equal(plain.batch(plain.items[:32])[0], shifted.batch(shifted.items[:32])[0])
    assert plain.evaluate(model.eval(), held=False) == shifted.evaluate(model, held=False)
    assert plain.measure(model, batch)[0] != shifted.measure(model, batch)[0]


@pytest.mark.parametrize("pixels", [-1, 14, 2.0, True])
def test_a_shift_is_a_number_of_pixels_within_the_image(pixels: object) -> None:
    with pytest.raises(UsageError, match="augment must be a number of pixels"):
        training.check(config(task_options={"augment": pixels}))
