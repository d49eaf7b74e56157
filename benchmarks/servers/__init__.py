"""What ours is compared with: each file is one server around the same ONNX file, small enough to judge it."""
