// One evaluation: kinds, partition into blocks and threads, the passes with their exchanges, and the sum of results.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "../include/hydrapot.h"
#include "kinds.hpp"
#include "model.hpp"
#include "team.hpp"

namespace hydrapot {

template <class T>
class Workspace {
  public:
    Workspace(const Model<T>& model, int threads);

    void evaluate(const hydrapot_input& in, const hydrapot_output& out);
    size_t bytes() const;
    const Model<T>& model() const { return model_; }

  private:
    // Scratch of one thread.
    struct Room {
        Array<T> x, y, z, hidden, pre, narrow, gates, wide, sums, weights, slopes, partial;
        Array<int> slot_of_kind, kinds, cells;
        Array<double> forces, virials, virial;
        size_t bytes() const;
    };
    struct Block {
        Index first;
        int count;
    };
    using Blocks = std::vector<std::vector<Block>>;  // by thread

    void assign_kinds(const hydrapot_input& in);
    void check_heads(const hydrapot_input& in);
    void measure_isolated(const std::vector<KindTable<T>*>& fresh);
    Blocks partition(Index first, Index last, const int64_t* offsets) const;
    void reserve_nodes(Pass<T>& pass, bool gradients, bool external);
    void reserve_rooms(const Pass<T>& pass, const Blocks& blocks, Index n_structures, bool virials);
    template <class Work>
    void sweep(const Blocks& blocks, const Work& work);
    void exchange(const Pass<T>& pass, const hydrapot_input& in, int stage, int layer);
    void run(Pass<T>& pass, const hydrapot_input& in, const Blocks& blocks);
    void collect(const Pass<T>& pass, const hydrapot_input& in, const hydrapot_output& out);

    const Model<T>& model_;
    Team team_;
    std::vector<std::unique_ptr<Room>> rooms_;
    std::vector<Scratch<T>> scratch_;

    std::map<KindKey, std::unique_ptr<KindTable<T>>> tables_;
    std::vector<const Kind<T>*> kinds_;
    std::vector<int> active_;
    Array<int32_t> kind_, structure_, sender_, degree_;
    Array<int64_t> own_offsets_;
    Array<Edge<T>> edges_;
    Array<T> scalars_, last_gradient_, exchange_;
    std::vector<Array<T>> node_, phi_, mixed_, vectors_, pre_, gates_;
    std::vector<Nodes<T>> nodes_;
    std::vector<Saved<T>> saved_;
    Array<double> energies_;
};

}  // namespace hydrapot
