"""A tenth of MNIST, bundled: 6,000 training and 1,000 test digits (see README.md in this folder)."""
