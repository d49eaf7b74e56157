"""The servers that ours is compared with: one small file each, all around the same ONNX file."""
