// Reads checkpoints: the safetensors file that potential/checkpoint.py writes.
#pragma once

#include <memory>
#include <string>

#include "source.hpp"

namespace hydrapot {

// Throws Error (HYDRAPOT_ERROR_CHECKPOINT) unless the file is whole, unaltered, and of the schema version read here.
std::unique_ptr<Source> read_checkpoint(const std::string& path);

}  // namespace hydrapot
