"""The chapter's Keras version on TensorFlow, on the CPU: `python benchmarks/training/keras_chapter.py --data FOLDER`.

It needs requirements/tensorflow.txt in a separate environment, which `benchmarks.training --keras` creates. Like
`benchmarks.training.chapter`, it trains one epoch for each line on its standard input and answers with a line of JSON.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no hints and warnings when TensorFlow starts
import keras  # type: ignore[import-untyped]
import numpy as np
import tensorflow  # type: ignore[import-untyped]
from numpy.typing import NDArray


def load(folder: Path, part: str, limit: int | None) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Images float32 [n, 28, 28, 1] between 0 and 1, and labels uint8 [n]."""
    raw = folder / "MNIST" / "raw"
    images = np.frombuffer((raw / f"{part}-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
    labels = np.frombuffer((raw / f"{part}-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    return images.reshape(-1, 28, 28, 1)[:limit].astype(np.float32) / np.float32(255), labels[:limit]


def build() -> keras.Model:
    """The chapter's network; 421,642 parameters."""
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(32, (3, 3), padding="same", activation="relu"),
            keras.layers.MaxPooling2D((2, 2)),
            keras.layers.Conv2D(64, (3, 3), padding="same", activation="relu"),
            keras.layers.MaxPooling2D((2, 2)),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main() -> None:
    """Train one epoch for each line on standard input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds MNIST/raw/")
    parser.add_argument("--limit", type=int, help="use only the first N digits")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(1)
    images, labels = load(arguments.data, "train", arguments.limit)
    test = load(arguments.data, "t10k", arguments.limit)
    model = build()
    about = f"TensorFlow {tensorflow.__version__} and Keras {keras.__version__} on the CPU, batches of 16"
    print(json.dumps({"about": about}), flush=True)
    for epoch, _ in enumerate(sys.stdin, start=1):
        started = time.perf_counter()
        history = model.fit(images, labels, batch_size=16, epochs=1, verbose=0)
        seconds = time.perf_counter() - started
        _, accuracy = model.evaluate(*test, verbose=0)
        done = {
            "epoch": epoch,
            "seconds": seconds,
            "images_per_second": len(labels) / seconds,
            "test_accuracy": round(accuracy * len(test[1])) / len(test[1]),  # Keras rounds it to float32
            "loss": history.history["loss"][-1],
        }
        print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
