#include "team.hpp"

#include <chrono>

#if !defined(_WIN32)
#include <unistd.h>
#endif

namespace hydrapot {

namespace {

constexpr std::chrono::microseconds patience{50};

long process_id() {
#if defined(_WIN32)
    return 0;
#else
    return static_cast<long>(getpid());
#endif
}

// Whether the condition came true within `patience`.
template <class Condition>
bool spin(const Condition& condition) {
    const auto end = std::chrono::steady_clock::now() + patience;
    do {
        for (int k = 0; k < 64; ++k) {
            if (condition()) {
                return true;
            }
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        }
    } while (std::chrono::steady_clock::now() < end);
    return false;
}

}  // namespace

Team::Team(int threads, Region region) : size_(threads), region_(region) {
    if (!region_) {
        start();
    }
}

Team::~Team() {
    if (!region_) {
        stop();
    }
}

void Team::start() {
    process_ = process_id();
    state_ = new State;
    for (int k = 1; k < size_; ++k) {
        state_->threads.emplace_back([state = state_, k] { loop(*state, k); });
    }
}

void Team::stop() {
    if (process_ != process_id()) {
        return;  // a fork: the threads are the parent's, and what they wait on cannot be destroyed here
    }
    {
        std::lock_guard<std::mutex> lock(state_->mutex);
        state_->stop = true;
        ++state_->turn;
    }
    state_->wake.notify_all();
    for (std::thread& thread : state_->threads) {
        thread.join();
    }
    delete state_;
}

void Team::dispatch(Function function, const void* argument) {
    if (size_ == 1) {
        function(argument, 0);
        return;
    }
    if (region_) {
        // Shares are handed out, since a region may have fewer threads than it was asked for.
        struct Job {
            Function function;
            const void* argument;
            int size;
            std::atomic<int> next{0};
        } job{function, argument, size_};
        region_(
            [](void* p) {
                Job& job = *static_cast<Job*>(p);
                for (int share = job.next++; share < job.size; share = job.next++) {
                    job.function(job.argument, share);
                }
            },
            &job, static_cast<unsigned>(size_), 0);
        return;
    }
    if (process_ != process_id()) {
        start();
    }
    State& state = *state_;
    {
        std::lock_guard<std::mutex> lock(state.mutex);
        state.function = function;
        state.argument = argument;
        state.running = size_ - 1;
        ++state.turn;
    }
    state.wake.notify_all();
    function(argument, 0);
    if (!spin([&state] { return state.running == 0; })) {
        std::unique_lock<std::mutex> lock(state.mutex);
        state.done.wait(lock, [&state] { return state.running == 0; });
    }
}

void Team::loop(State& state, int thread) {
    uint64_t seen = 0;
    while (true) {
        if (!spin([&state, seen] { return state.turn != seen; })) {
            std::unique_lock<std::mutex> lock(state.mutex);
            state.wake.wait(lock, [&state, seen] { return state.turn != seen; });
        }
        seen = state.turn;
        if (state.stop) {
            return;
        }
        state.function(state.argument, thread);
        if (--state.running == 0) {
            std::lock_guard<std::mutex> lock(state.mutex);
            state.done.notify_one();
        }
    }
}

}  // namespace hydrapot
