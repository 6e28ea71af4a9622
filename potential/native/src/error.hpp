// Errors inside the library; api.cpp turns them into a status and a text.
#pragma once

#include <stdexcept>
#include <string>

#include "../include/hydrapot.h"

namespace hydrapot {

class Error : public std::runtime_error {
  public:
    Error(int status, const std::string& text) : std::runtime_error(text), status_(status) {}
    int status() const { return status_; }

  private:
    int status_;
};

}  // namespace hydrapot
