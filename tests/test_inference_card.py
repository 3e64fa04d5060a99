"Model cards: files that know little, licences with any name, hostile texts"

import pytest
import torch
import yaml

from simpsons_cnn.data.preprocess import Preprocess
from simpsons_cnn.inference.card import model_card
from simpsons_cnn.inference.classifier import Classifier
from simpsons_cnn.networks.reference import SimpsonsCNN


def card(**metadata):
    torch.manual_seed(0)
    return model_card(Classifier(SimpsonsCNN(3), ["ann", "bob", "cyd"], Preprocess(96), metadata))


@pytest.mark.parametrize(
    "words",
    ["license: unknown", "states no licence", "holds no scores", "always names one of them"],
)
def test_a_file_that_knows_nothing(words):
    assert words in card()


@pytest.mark.parametrize(
    "licence, expected",
    [
        ("MIT", dict(license="mit")),
        ("CC-BY-NC-SA-4.0", dict(license="cc-by-nc-sa-4.0")),
        ("CC BY-NC-SA: 4.0", dict(license="other", license_name="CC BY-NC-SA: 4.0")),
        ("a\nlicense: b", dict(license="other", license_name="a license: b")),
        ('"quoted"', dict(license="other", license_name='"quoted"')),
    ],
)
def test_licences(licence, expected):
    front = yaml.safe_load(card(licence=licence).split("---")[1])
    assert expected.items() <= front.items()


def test_texts_of_a_file_are_not_html():
    "A model file comes from outside, and so does all that its header says"
    bad = "<img src=x onerror=alert(1)>"
    found = card(
        licence=bad, data=dict(pictures=bad, digest=bad), versions={bad: bad}, validation=None
    )
    assert bad not in found.split("---", 2)[2]
