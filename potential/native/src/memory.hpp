// Arrays aligned to cache lines that keep their memory while they are large enough.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

namespace hydrapot {

template <class T>
class Array {
    static_assert(std::is_trivially_copyable<T>::value, "memory is handled as bytes");

  public:
    Array() = default;
    explicit Array(size_t n) { reserve(n); }
    Array(const Array&) = delete;
    Array& operator=(const Array&) = delete;
    Array(Array&& other) noexcept { swap(other); }
    Array& operator=(Array&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Array() { std::free(data_); }

    // Room for n elements, zero when the memory is new. What was in it is lost if it has to grow.
    T* reserve(size_t n) {
        if (n > size_) {
            std::free(data_);
            data_ = nullptr;
            size_ = 0;
            const size_t bytes = (n * sizeof(T) + 63) / 64 * 64;
            data_ = static_cast<T*>(std::aligned_alloc(64, bytes));
            if (!data_) {
                throw std::bad_alloc();
            }
            std::memset(static_cast<void*>(data_), 0, bytes);
            size_ = n;
        }
        return data_;
    }
    void release() {
        std::free(data_);
        data_ = nullptr;
        size_ = 0;
    }
    T* data() { return data_; }
    const T* data() const { return data_; }
    T& operator[](size_t k) { return data_[k]; }
    const T& operator[](size_t k) const { return data_[k]; }
    size_t bytes() const { return size_ * sizeof(T); }

  private:
    void swap(Array& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
    }
    T* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace hydrapot
