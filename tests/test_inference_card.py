"Model cards: files that know little, licences with any name, hostile texts"

import numpy as np
import pytest
import torch
import yaml

from simpsons_cnn.data.preprocess import Preprocess
from simpsons_cnn.inference.card import model_card
from simpsons_cnn.inference.classifier import Classifier
from simpsons_cnn.networks.reference import SimpsonsCNN
from simpsons_cnn.scoring.report import Report


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


REPORT = Report(np.array([[9, 1, 0], [0, 9, 1], [0, 0, 10]]), ["ann", "bob", "cyd"]).to_dict()


def test_a_card_names_the_scores_that_the_report_does():
    "Who has no pictures is not common, and does not make a macro F1 of its own"
    report = Report(np.array([[9, 1, 0], [1, 9, 0], [0, 0, 0]]), ["ann", "bob", "cyd"])
    assert "or more" not in report._repr_markdown_() + card(validation=report.to_dict())


@pytest.mark.parametrize("name", ["validation", "test"])
def test_scores_before_a_refit_are_not_those_of_the_network(name):
    reports = {"validation": REPORT, name: REPORT}
    found = card(**reports, refit=dict(epochs=3, pictures=30))
    assert "model-index" not in found
    assert "Nobody has judged the result" in found
    for own in (dict(), dict(refit=dict(folds=5))):
        front = yaml.safe_load(card(**reports, **own).split("---")[1])
        assert front["model-index"][0]["results"][0]["dataset"]["split"] == name


@pytest.mark.parametrize("tau, said", [(0.0, False), (0.5, True)])
def test_logits_that_are_adjusted(tau, said):
    text = card(validation=REPORT, logit_adjustment=dict(tau=tau))
    assert ("adjusted for rare characters" in text) == said


@pytest.mark.parametrize(
    "monitor, chosen", [("accuracy", "the best epoch, the temp"), ("last", "the temp")]
)
def test_what_the_validation_pictures_chose(monitor, chosen):
    config = dict(training_parameters=dict(monitor=monitor))
    assert f"The validation pictures chose {chosen}" in card(validation=REPORT, config=config)


@pytest.mark.parametrize(
    "scores", [dict(accuracy=0.5), dict(accuracy="good"), dict(pictures=3, classes=[], table=3)]
)
def test_scores_in_a_form_of_their_own(scores):
    found = card(test=scores, data=dict(digest=5))
    assert "scores on the test pictures are in a form of their own" in found
    assert yaml.safe_load(found.split("---")[1])["model-index"]
