// The threads of a workspace.
//
// Threads of our own rather than OpenMP: torch brings its own copy of an OpenMP library, and a second one in the process
// keeps a second pool that spins against the first; nested in a host's threads each of them would get a pool; and the thread
// sanitizer does not understand libgomp's barriers. A workspace asks for its threads when it is made, they sleep while
// there is no work (after a few microseconds of waiting for more), and they end with it.
//
// Where work alternates with torch's within microseconds, as in training, threads of our own would compete with torch's, which
// spin for a while after each piece of work. A team can then borrow the caller's by a `Region`.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace hydrapot {

// Runs function(argument) on a number of threads and returns when all are done: GOMP_parallel of OpenMP libraries.
using Region = void (*)(void (*function)(void*), void* argument, unsigned threads, unsigned flags);

class Team {
  public:
    explicit Team(int threads, Region region = nullptr);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return size_; }

    // work(thread) for every thread; returns when all are done. `work` must not throw. With a region, which thread does
    // which share of the work is open, but not the shares.
    template <class Work>
    void run(const Work& work) {
        dispatch([](const void* argument, int thread) { (*static_cast<const Work*>(argument))(thread); }, &work);
    }

  private:
    using Function = void (*)(const void*, int);
    struct State {
        std::mutex mutex;
        std::condition_variable wake, done;
        std::atomic<uint64_t> turn{0};
        std::atomic<int> running{0};
        bool stop = false;
        Function function = nullptr;
        const void* argument = nullptr;
        std::vector<std::thread> threads;
    };
    void dispatch(Function function, const void* argument);
    void start();
    void stop();
    static void loop(State& state, int thread);

    const int size_;
    const Region region_;
    long process_ = 0;
    State* state_ = nullptr;
};

}  // namespace hydrapot
