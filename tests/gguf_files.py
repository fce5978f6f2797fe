"""Writes GGUF files for the tests."""

import gguf


def write_gguf(path, tensors, metadata, family='llama'):
  """Writes tensors and metadata by name, numbers as llama.cpp's types."""
  writer = gguf.GGUFWriter(path, family)
  for key, value in metadata.items():
    match value:
      case str():
        writer.add_string(key, value)
      case bool():
        writer.add_bool(key, value)
      case int():
        writer.add_uint32(key, value)
      case float():
        writer.add_float32(key, value)
      case list():
        writer.add_array(key, value)
  for name, tensor in tensors.items():
    writer.add_tensor(name, tensor)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path
