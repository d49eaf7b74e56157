from pipeline.data.dataset import MNIST
from pipeline.form import Form

DIGITS = Form(MNIST.classes, MNIST.shape, MNIST.preparation)


def test_difference_of_classes_names_them() -> None:
    assert Form(("0", "1"), (28, 28), {}).difference(Form(("1", "2"), (28, 28), {})) == (
        "its classes differ (new: 0; gone: 2)"
    )
    reversed_digits = DIGITS._replace(classes=MNIST.classes[::-1])
    assert reversed_digits.difference(DIGITS) == "its classes differ (in another order: 9, 8, 7, 6, 5 and 5 more)"


def test_difference_of_pictures_names_both() -> None:
    other = DIGITS._replace(shape=(20, 32, 3))
    assert (
        other.difference(DIGITS) == "its pictures have 32x20 pixels in colour, and the champion's 28x28 pixels in grey"
    )


def test_difference_of_preparation_names_both() -> None:
    fitted = DIGITS._replace(preparation={"name": "fit", "background": "edge"})
    assert fitted.difference(DIGITS) == ("the preparation of its pictures is fit edge, and the champion's is stroke")
