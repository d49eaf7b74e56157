"""From images to answers: one queue, shared calls of ONNX Runtime, explanations."""
