// Exceptions of the library as a status and a text.
#pragma once

#include <exception>
#include <new>
#include <string>

#include "error.hpp"

namespace hydrapot {

// Text of the last error of this thread.
std::string& last_error();

template <class Work>
int guarded(const Work& work) {
    last_error().clear();
    try {
        work();
        return HYDRAPOT_OK;
    } catch (const Error& error) {
        last_error() = error.what();
        return error.status();
    } catch (const std::bad_alloc&) {
        last_error() = "not enough memory";
        return HYDRAPOT_ERROR_MEMORY;
    } catch (const std::exception& error) {
        last_error() = std::string("internal error: ") + error.what();
        return HYDRAPOT_ERROR_INTERNAL;
    }
}

[[noreturn]] inline void refuse(const std::string& text) { throw Error(HYDRAPOT_ERROR_CONFIGURATION, text); }

constexpr int most_threads = 4096;

}  // namespace hydrapot
