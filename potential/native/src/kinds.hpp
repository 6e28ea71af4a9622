// Tables of atom kinds, made when a kind is first met and kept.
#pragma once

#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "model.hpp"

namespace hydrapot {

using KindKey = std::tuple<int, int, int>;  // atomic number, charge, spin (0: not stated)

template <class T>
struct KindTable {
    Kind<T> kind;
    Store<T> store;
    std::vector<double> isolated;  // by head; filled by the engine
};

template <class T>
std::unique_ptr<KindTable<T>> make_kind(const Model<T>& model, const KindKey& key);

}  // namespace hydrapot
