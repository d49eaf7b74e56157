"""The bundled tenth of MNIST: 6,000 training and 1,000 test digits (see README.md in this folder)."""
