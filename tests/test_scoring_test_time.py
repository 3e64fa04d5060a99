"Test-time augmentation: which images are looked at again, and what is refused"

import pytest
import torch

import simpsons_cnn as sc
from simpsons_cnn.scoring.test_time import UNSURE, shifted, tta_logits


class Brightness:
    "Two logits, from the brightness of the left and of the upper half"

    def __init__(self):
        self.looks = []

    def __call__(self, x):
        self.looks.append(len(x))
        return 20 * torch.stack([x[..., :4].mean((1, 2, 3)), x[..., :4, :].mean((1, 2, 3))], 1)


def images(*differences):
    "Images whose left half is brighter than the upper half by so much"
    x = torch.zeros(len(differences), 3, 8, 8)
    x[..., :4] = torch.tensor(differences)[:, None, None, None]
    return x


def test_only_unsure_images_are_looked_at_again():
    network, x = Brightness(), images(0.5, 0.01, -0.5, 0.0)
    plain = network(x)
    assert ((plain.softmax(1).amax(1) < UNSURE) == torch.tensor([False, True, False, True])).all()
    network.looks = []
    found = tta_logits(network, x, "unsure")
    assert network.looks == [4, 2, 2, 2, 2, 2]
    assert torch.equal(found[[0, 2]], plain[[0, 2]])
    assert not torch.equal(found[1], plain[1])
    network.looks = []
    assert torch.equal(tta_logits(network, x[[0, 2]], "unsure"), plain[[0, 2]])
    assert network.looks == [2]


def test_the_answer_does_not_depend_on_the_batch():
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) / 50
    together = tta_logits(Brightness(), x, "unsure")
    alone = torch.cat([tta_logits(Brightness(), image[None], "unsure") for image in x])
    assert torch.allclose(together, alone, atol=1e-6)


def test_true_is_flip():
    x = images(0.5, 0.01)
    assert torch.equal(tta_logits(Brightness(), x, True), tta_logits(Brightness(), x, "flip"))


def test_shifts_come_back():
    x = torch.rand(1, 3, 9, 9)
    assert torch.equal(shifted(shifted(x, 2), -2)[..., :-2, :-2], x[..., :-2, :-2])


@pytest.mark.parametrize("tta", ["mirror", 2, None, [], "True"])
def test_other_kinds_are_refused(tta, tmp_path):
    with pytest.raises(ValueError, match="tta must be False, True or 'flip', or 'unsure', got"):
        tta_logits(Brightness(), images(0.5), tta)


def test_predict_and_evaluate_look_alike(tmp_path):
    folder = sc.demo_characters(tmp_path / "demo", train=1, test=2)
    store = sc.PixelStore.build(sc.ImageFiles.scan(folder / "test"), size=64)
    model = sc.create_model("reference", 10, seed=0)
    with torch.no_grad():
        model.linear_stack[4].weight *= 30
    clf = sc.Classifier(model, store.classes, store.preprocess)
    report = sc.evaluate(model, sc.Batches(store, device="cpu"), tta="unsure")
    answers = clf.predict(folder / "test", tta="unsure")
    expected = torch.tensor([p.probability for p in answers])
    found = torch.tensor(report.per_image.probability.to_numpy())
    assert torch.allclose(found, expected.to(found.dtype), atol=1e-4)
    plain = torch.tensor([p.probability for p in clf.predict(folder / "test")])
    assert not torch.allclose(plain, expected, atol=1e-4)
    with pytest.raises(ValueError, match="tta must be"):
        clf.predict(folder / "test", tta="always")
