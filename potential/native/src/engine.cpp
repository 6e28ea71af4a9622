#include "engine.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "error.hpp"

namespace hydrapot {

namespace {

// Atoms in a block, a multiple of gemm_rows: large enough to read the weights seldom, small enough for its
// matrices to stay in the second-level cache.
constexpr int block_atoms = 48;
// What an atom costs beside its edges, in edges.
constexpr int64_t atom_cost = 40;
// Up to this size (bytes) everything that the derivative needs is kept; beyond, what is quick to compute again is not.
constexpr size_t keep_limit = size_t(24) << 20;
// Kinds whose tables are kept.
constexpr size_t kept_kinds = 512;

std::string sender_text(int status) {
    if (status & status_sender) {
        return "the neighbor list names a sender that is not an atom";
    }
    if (status & status_not_finite) {
        return "a position or edge vector is not finite (NaN or infinity): repair the structure";
    }
    return "two atoms are at one place (closer than 1e-3 Å, periodic images included): remove one of them or check the cell";
}

uint64_t scramble(uint64_t x) {  // splitmix64
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

template <class T>
void check_full(const Pass<T>& p) {
    uint64_t balance = 0;
    for (Index i = 0; i < p.n_local; ++i) {
        for (int e = 0; e < p.degree[i]; ++e) {
            const Index j = p.sender[p.offsets[i] + e];
            if (j < p.n_local && j != i) {
                const uint64_t low = std::min(i, j), high = std::max(i, j);
                const uint64_t pair = scramble(scramble(low) + high);
                balance += i < j ? pair : -pair;
            }
        }
    }
    if (balance != 0) {
        throw Error(HYDRAPOT_ERROR_STRUCTURE, "the neighbor list is not full: every pair of atoms has to be in it both ways");
    }
}

}  // namespace

template <class T>
size_t Workspace<T>::Room::bytes() const {
    size_t total = slot_of_kind.bytes() + kinds.bytes() + cells.bytes() + forces.bytes() + virials.bytes() + virial.bytes();
    for (const Array<T>* a : {&x, &y, &z, &hidden, &pre, &narrow, &gates, &wide, &sums, &weights, &slopes, &partial}) {
        total += a->bytes();
    }
    return total;
}

template <class T>
Workspace<T>::Workspace(const Model<T>& model, int threads) : model_(model), team_(threads) {
    const size_t layers = model.shape().layers;
    for (int t = 0; t < threads; ++t) {
        rooms_.push_back(std::make_unique<Room>());
    }
    scratch_.resize(threads);
    for (auto* arrays : {&node_, &phi_, &mixed_, &vectors_, &pre_, &gates_}) {
        arrays->resize(layers);
    }
    nodes_.resize(layers);
    saved_.resize(layers);
}

template <class T>
size_t Workspace<T>::bytes() const {
    size_t total = kind_.bytes() + structure_.bytes() + sender_.bytes() + degree_.bytes() + edges_.bytes() +
                   scalars_.bytes() + last_gradient_.bytes() + exchange_.bytes() + energies_.bytes() + own_offsets_.bytes();
    for (const auto* arrays : {&node_, &phi_, &mixed_, &vectors_, &pre_, &gates_}) {
        for (const Array<T>& a : *arrays) {
            total += a.bytes();
        }
    }
    for (const auto& room : rooms_) {
        total += room->bytes();
    }
    for (const auto& item : tables_) {
        total += item.second->store.bytes();
    }
    return total;
}

template <class T>
void Workspace<T>::check_heads(const hydrapot_input& in) {
    const Source& source = model_.source();
    const Index n_heads = source.heads.size();
    active_.clear();
    std::vector<bool> used(n_heads, false);
    const Index rows = in.head_weights_stride == 0 ? 1 : in.n_structures;
    for (Index g = 0; g < rows; ++g) {
        bool any = false;
        for (Index h = 0; h < n_heads; ++h) {
            const double weight = in.head_weights[g * in.head_weights_stride + h];
            if (!std::isfinite(weight)) {
                throw Error(HYDRAPOT_ERROR_HEAD, "the weight of head '" + source.heads[h].name + "' is not finite");
            }
            used[h] = used[h] || weight != 0;
            any = any || weight != 0;
        }
        if (!any) {
            throw Error(HYDRAPOT_ERROR_HEAD, "no head has a weight: name the head, each is its own level of theory");
        }
    }
    for (Index h = 0; h < n_heads; ++h) {
        if (used[h]) {
            active_.push_back(static_cast<int>(h));
        }
    }
}

// Kind of every atom, tables of kinds that are new, and what the heads know of them.
template <class T>
void Workspace<T>::assign_kinds(const hydrapot_input& in) {
    const Source& source = model_.source();
    int32_t* kind = kind_.reserve(in.n_total + 1);
    int32_t* structure = structure_.reserve(in.n_local + 1);
    if (tables_.size() > kept_kinds) {
        tables_.clear();
    }
    kinds_.clear();
    std::map<KindKey, int> index;
    std::vector<KindTable<T>*> fresh;
    const auto find = [&](const KindKey& key) {
        const auto [position, added] = index.emplace(key, static_cast<int>(kinds_.size()));
        if (added) {
            auto& table = tables_[key];
            if (!table) {
                table = make_kind(model_, key);
                fresh.push_back(table.get());
            }
            kinds_.push_back(&table->kind);
        }
        return position->second;
    };
    const auto check_kind = [&](Index g, int z, int charge, int spin) {
        for (int h : active_) {
            if (in.head_weights[g * in.head_weights_stride + h] == 0) {
                continue;
            }
            const HeadSource& head = source.heads[h];
            if (!head.known[z]) {
                std::string others;
                for (const HeadSource& other : source.heads) {
                    others += other.known[z] ? (others.empty() ? "" : ", ") + other.name : "";
                }
                throw Error(HYDRAPOT_ERROR_ELEMENT,
                            "head '" + head.name + "' was not trained on element " + chemical_symbol(z) + "; " +
                                (others.empty() ? "no head of this model knows it" : "heads that know it: " + others));
            }
            if ((charge != 0 || spin != 0) &&
                std::find(head.charge_spin.begin(), head.charge_spin.end(), std::make_pair(charge, spin)) ==
                    head.charge_spin.end()) {
                throw Error(HYDRAPOT_ERROR_CHARGE, "head '" + head.name + "' was not trained on charge " +
                                                       std::to_string(charge) + " with spin multiplicity " +
                                                       (spin ? std::to_string(spin) : std::string("not stated")));
            }
        }
    };
    for (Index g = 0; g < in.n_structures; ++g) {
        const Index first = in.structure_offsets ? in.structure_offsets[g] : 0;
        const Index last = in.structure_offsets ? in.structure_offsets[g + 1] : in.n_local;
        const int charge = in.charge ? in.charge[g] : 0, spin = in.spin ? in.spin[g] : 0;
        if (charge < -max_charge || charge > max_charge || spin < 0 || spin > max_spin) {
            throw Error(HYDRAPOT_ERROR_CHARGE, "charge " + std::to_string(charge) + " or spin multiplicity " +
                                                   std::to_string(spin) + " is outside −10 … +10 or 1 … 12");
        }
        int of_number[n_numbers];
        std::fill(of_number, of_number + n_numbers, -1);
        const auto assign = [&](Index i) {
            const int z = in.numbers[i];
            if (z < 1 || z >= n_numbers) {
                throw Error(HYDRAPOT_ERROR_ELEMENT, "atomic number " + std::to_string(z) + " is not an element from H to Z = 118");
            }
            if (of_number[z] < 0) {
                if (in.check & 1) {
                    check_kind(g, z, charge, spin);
                }
                of_number[z] = find(KindKey{z, charge, spin});
            }
            kind[i] = of_number[z];
        };
        for (Index i = first; i < last; ++i) {
            assign(i);
            structure[i] = static_cast<int32_t>(g);
        }
        if (g + 1 == in.n_structures) {  // ghosts: of the only structure
            for (Index i = in.n_local; i < in.n_total; ++i) {
                assign(i);
            }
        }
    }
    if (!fresh.empty()) {
        measure_isolated(fresh);
    }
}

// Threads get neighboring atoms with about the same number of edges; boundaries are multiples of gemm_rows from `first`.
template <class T>
typename Workspace<T>::Blocks Workspace<T>::partition(Index first, Index last, const int64_t* offsets) const {
    const int threads = team_.size();
    Blocks blocks(threads);
    const Index n = last - first, tiles = (n + gemm_rows - 1) / gemm_rows;
    const auto cost = [&](Index tile) {
        const Index atom = std::min(first + tile * gemm_rows, last);
        return (offsets ? offsets[atom] - offsets[first] : 0) + atom_cost * (atom - first);
    };
    Index begin = 0;
    for (int t = 0; t < threads; ++t) {
        Index end = tiles;
        if (t + 1 < threads) {
            const double target = static_cast<double>(cost(tiles)) * (t + 1) / threads;
            Index low = begin, high = tiles;
            while (low < high) {
                const Index middle = (low + high) / 2;
                (static_cast<double>(cost(middle)) < target ? low : high) = static_cast<double>(cost(middle)) < target ? middle + 1 : middle;
            }
            end = low;
            if (end > begin && target - static_cast<double>(cost(end - 1)) < static_cast<double>(cost(end)) - target) {
                --end;
            }
        }
        const Index in_block = block_atoms / gemm_rows, count = end - begin;
        const Index n_blocks = (count + in_block - 1) / in_block;
        for (Index b = 0; b < n_blocks; ++b) {
            const Index from = first + (begin + count * b / n_blocks) * gemm_rows;
            const Index to = std::min(first + (begin + count * (b + 1) / n_blocks) * gemm_rows, last);
            blocks[t].push_back({from, static_cast<int>(to - from)});
        }
        begin = end;
    }
    return blocks;
}

template <class T>
void Workspace<T>::reserve_nodes(Pass<T>& p, bool gradients, bool external) {
    const Shape<T>& shape = model_.shape();
    const size_t F = shape.F, layers = shape.layers;
    const size_t local = p.n_local + gemm_rows, total = p.n_total + gemm_rows;
    const bool keep = local * F * sizeof(T) * (24 * layers) <= 2 * keep_limit;
    p.scalars = scalars_.reserve(local * F);
    for (size_t k = 0; k < layers; ++k) {
        nodes_[k] = Nodes<T>{};
        saved_[k] = Saved<T>{};
        if (k > 0) {
            nodes_[k].context = node_[k].reserve(total * 6 * F);
            nodes_[k].vectors = nodes_[k].context + 3 * F;
            nodes_[k].stride = 6 * F;
            if (gradients) {
                nodes_[k].phi = phi_[k].reserve(local * F);
            }
        }
        if (gradients && k + 1 < layers) {
            saved_[k].pre = pre_[k].reserve(local * F);
            if (keep) {
                saved_[k].mixed = mixed_[k].reserve(local * (k == 0 ? 9 : 6) * F);
                saved_[k].gates = gates_[k].reserve(local * 3 * F);
            } else {
                mixed_[k].release();
                gates_[k].release();
                if (k > 0) {
                    saved_[k].vectors = vectors_[k].reserve(local * 3 * F);
                }
            }
        }
    }
    if (gradients) {
        // The gradients of layer k take the place of the features of layer k + 1, which their own atom alone still
        // needed.
        for (size_t k = 1; k < layers; ++k) {
            const bool last = k + 1 == layers;
            nodes_[k].gradient = last ? last_gradient_.reserve(total * 4 * F) : nodes_[k + 1].context;
            nodes_[k].gradient_stride = last ? 4 * F : 6 * F;
        }
    }
    if (external) {
        exchange_.reserve(p.n_total * 4 * static_cast<size_t>(p.channels) + 1);
    }
    p.nodes = nodes_.data();
    p.saved = saved_.data();
}

template <class T>
void Workspace<T>::reserve_rooms(const Pass<T>& p, const Blocks& blocks, Index n_structures, bool virials) {
    const Shape<T>& shape = model_.shape();
    const size_t F = shape.F, rows = block_atoms;
    size_t widest = 3 * F;
    for (const Head<T>& head : model_.heads()) {
        widest = std::max(widest, static_cast<size_t>(head.hidden.n));
    }
    for (size_t t = 0; t < rooms_.size(); ++t) {
        Room& r = *rooms_[t];
        Scratch<T>& s = scratch_[t];
        size_t edges = 1;
        const int tile = model_.kernels().tile;
        for (const Block& block : blocks[t]) {
            for (int start = 0; start < block.count; start += tile) {
                const Index stop = block.first + std::min(start + tile, block.count);
                edges = std::max(edges, static_cast<size_t>(p.offsets[stop] - p.offsets[block.first + start]));
            }
        }
        s.rows = static_cast<int>(rows);
        s.x = r.x.reserve(rows * 2 * F);
        s.y = r.y.reserve(rows * 9 * F);
        s.z = r.z.reserve(rows * 3 * F);
        s.hidden = r.hidden.reserve(rows * F);
        s.pre = r.pre.reserve(rows * F);
        s.narrow = r.narrow.reserve(rows * F);
        s.gates = r.gates.reserve(rows * 3 * F);
        s.wide = r.wide.reserve(rows * widest);
        s.sums = r.sums.reserve(std::max<size_t>(kinds_.size(), 1) * rows * 4 * shape.Rp);
        s.kinds = r.kinds.reserve(kinds_.size() + 1);
        s.slot_of_kind = r.slot_of_kind.reserve(kinds_.size() + 1);
        std::fill(s.slot_of_kind, s.slot_of_kind + kinds_.size(), -1);
        s.weights = r.weights.reserve(edges * shape.rows);
        s.slopes = r.slopes.reserve(edges * shape.rows);
        s.cells = r.cells.reserve(edges);
        s.partial = r.partial.reserve(edges * 4);
        s.virial = r.virial.reserve(n_structures * 9 + 1);
        s.forces = r.forces.reserve(p.n_total * 3 + 1);
        s.virials = virials ? r.virials.reserve(p.n_total * 9 + 1) : nullptr;
        s.status = 0;
    }
    team_.run([&](int t) {
        Scratch<T>& s = scratch_[t];
        std::fill(s.virial, s.virial + n_structures * 9, 0.0);
        std::fill(s.forces, s.forces + p.n_total * 3, 0.0);
        if (s.virials) {
            std::fill(s.virials, s.virials + p.n_total * 9, 0.0);
        }
    });
}

template <class T>
template <class Work>
void Workspace<T>::sweep(const Blocks& blocks, const Work& work) {
    team_.run([&](int t) {
        for (const Block& block : blocks[t]) {
            work(scratch_[t], block.first, block.count);
        }
    });
}

// Rows of 4 × channels, plain, so that their layout does not depend on the processor; within a chunk of the engine's own
// layout numbers lie in the same order, so that they are copied by pieces.
template <class T>
void Workspace<T>::exchange(const Pass<T>& p, const hydrapot_input& in, int stage, int layer) {
    const int channels = p.channels, C = p.shape.chunk, F = p.shape.F;
    const Nodes<T>& nodes = p.nodes[layer];
    T* rows = exchange_.data();
    sweep(partition(0, p.n_local, nullptr), [&](Scratch<T>&, Index first, int count) {
        for (Index i = first; i < first + count; ++i) {
            T* row = rows + i * 4 * channels;
            for (int f = 0; f < channels; f += C) {
                const int n = std::min(C, channels - f);
                const T* gradient = stage == 1 ? nodes.gradient + i * nodes.gradient_stride + 4 * f : nullptr;
                const T* vectors = nodes.vectors + i * nodes.stride + 3 * f;
                for (int q = 0; q < 4; ++q) {
                    const T* from = gradient ? gradient + q * C : q == 0 ? p.scalars + i * F + f : vectors + (q - 1) * C;
                    std::copy(from, from + n, row + q * channels + f);
                }
            }
        }
    });
    const int status = in.exchange(in.exchange_context, stage, layer, rows, p.n_local, p.n_total, 4 * channels, sizeof(T));
    if (status != 0) {
        throw Error(HYDRAPOT_ERROR_EXCHANGE, "the exchange of ghost atoms failed (status " + std::to_string(status) + ")");
    }
    sweep(partition(p.n_local, p.n_total, nullptr), [&](Scratch<T>& s, Index first, int count) {
        if (stage == 0) {
            model_.kernels().receive(p, s, layer, rows + first * 4 * channels, first, count);
            return;
        }
        for (Index i = first; i < first + count; ++i) {
            const T* row = rows + i * 4 * channels;
            for (int f = 0; f < channels; f += C) {
                T* gradient = nodes.gradient + i * nodes.gradient_stride + 4 * f;
                for (int q = 0; q < 4; ++q) {
                    const T* from = row + q * channels + f;
                    std::fill(std::copy(from, from + std::min(C, channels - f), gradient + q * C), gradient + (q + 1) * C, T(0));
                }
            }
        }
    });
}

template <class T>
void Workspace<T>::run(Pass<T>& p, const hydrapot_input& in, const Blocks& blocks) {
    const Kernels<T>& kernels = model_.kernels();
    const int layers = p.shape.layers;
    for (int k = 0; k + 1 < layers; ++k) {
        sweep(blocks, [&](Scratch<T>& s, Index first, int count) {
            k == 0 ? kernels.first(p, s, first, count) : kernels.middle(p, s, k, first, count);
        });
        if (in.exchange) {
            exchange(p, in, 0, k + 1);
        }
    }
    sweep(blocks, [&](Scratch<T>& s, Index first, int count) { kernels.last(p, s, first, count); });
    if (!p.gradients) {
        return;
    }
    for (int k = layers - 1; k > 0; --k) {
        if (in.exchange) {
            exchange(p, in, 1, k);
        }
        sweep(blocks, [&](Scratch<T>& s, Index first, int count) { kernels.backward(p, s, k, first, count); });
    }
}

// Outputs of the heads for atoms without neighbors, by the very kernels that evaluate all others.
template <class T>
void Workspace<T>::measure_isolated(const std::vector<KindTable<T>*>& fresh) {
    const Index n = fresh.size();
    const Index n_heads = model_.heads().size();
    std::vector<const Kind<T>*> kinds;
    std::vector<int32_t> kind(n), numbers(n, 1);
    std::vector<int64_t> offsets(n + 1, 0);
    std::vector<int> heads(n_heads);
    std::vector<double> raw(n * n_heads), weights(n_heads, 1.0), energies(n);
    for (Index k = 0; k < n; ++k) {
        kinds.push_back(&fresh[k]->kind);
        kind[k] = static_cast<int32_t>(k);
    }
    for (Index h = 0; h < n_heads; ++h) {
        heads[h] = static_cast<int>(h);
    }
    Pass<T> p{};
    p.shape = model_.shape();
    p.layer = model_.layers().data();
    p.head = model_.heads().data();
    p.n_heads = static_cast<int>(n_heads);
    p.active = heads.data();
    p.n_active = p.n_heads;
    p.head_weights = weights.data();
    p.kinds = kinds.data();
    p.kind = kind.data();
    p.numbers = numbers.data();
    p.n_local = p.n_total = n;
    p.offsets = offsets.data();
    p.degree = degree_.reserve(n + 1);
    p.energies = energies.data();
    p.channels = model_.source().architecture.channels;
    p.raw = raw.data();
    const Blocks blocks = partition(0, n, offsets.data());
    reserve_nodes(p, false, false);
    reserve_rooms(p, blocks, 1, false);
    run(p, hydrapot_input{}, blocks);
    for (Index k = 0; k < n; ++k) {
        std::copy(raw.begin() + k * n_heads, raw.begin() + (k + 1) * n_heads, fresh[k]->isolated.begin());
    }
}

template <class T>
void Workspace<T>::collect(const Pass<T>& p, const hydrapot_input& in, const hydrapot_output& out) {
    bool finite = true;
    if (out.energy) {
        std::fill(out.energy, out.energy + in.n_structures, 0.0);
    }
    for (Index i = 0; i < p.n_local; ++i) {
        finite = finite && std::isfinite(p.energies[i]);
        if (out.energy) {
            out.energy[p.structure ? p.structure[i] : 0] += p.energies[i];
        }
        if (out.energies) {
            out.energies[i] = p.energies[i];
        }
    }
    if (p.gradients) {
        for (Index k = 0; k < 3 * p.n_total; ++k) {
            double sum = 0;
            for (const Scratch<T>& s : scratch_) {
                sum += s.forces[k];
            }
            finite = finite && std::isfinite(sum);
            if (out.forces) {
                out.forces[k] = sum;
            }
        }
        if (out.virials) {
            for (Index k = 0; k < 9 * p.n_total; ++k) {
                double sum = 0;
                for (const Scratch<T>& s : scratch_) {
                    sum += s.virials[k];
                }
                out.virials[k] = -sum;
            }
        }
        if (out.virial) {
            for (Index g = 0; g < in.n_structures; ++g) {
                double sum[9] = {};
                for (const Scratch<T>& s : scratch_) {
                    for (int k = 0; k < 9; ++k) {
                        sum[k] += s.virial[9 * g + k];
                    }
                }
                for (int a = 0; a < 3; ++a) {
                    for (int b = 0; b < 3; ++b) {
                        out.virial[9 * g + 3 * a + b] = -0.5 * (sum[3 * a + b] + sum[3 * b + a]);
                    }
                }
            }
        }
    }
    if (!finite) {
        throw Error(HYDRAPOT_ERROR_SIMULATION,
                    "the energy or a force is not finite (NaN or infinity): two atoms are very close, or the weights are damaged");
    }
}

template <class T>
void Workspace<T>::evaluate(const hydrapot_input& in, const hydrapot_output& out) {
    check_heads(in);
    assign_kinds(in);
    Pass<T> p{};
    p.shape = model_.shape();
    p.layer = model_.layers().data();
    p.head = model_.heads().data();
    p.n_heads = static_cast<int>(model_.heads().size());
    p.active = active_.data();
    p.n_active = static_cast<int>(active_.size());
    p.head_weights = in.head_weights;
    p.head_stride = in.head_weights_stride;
    p.kinds = kinds_.data();
    p.kind = kind_.data();
    p.numbers = in.numbers;
    p.structure = in.n_structures > 1 ? structure_.data() : nullptr;
    p.n_local = in.n_local;
    p.n_total = in.n_total;
    p.offsets = in.offsets;
    p.senders32 = in.senders;
    p.senders64 = in.senders64;
    p.vectors = in.vectors;
    p.positions = in.positions;
    p.shifts = in.shifts;
    p.cell = in.cells;
    p.channels = model_.source().architecture.channels;
    p.gradients = out.forces || out.virial || out.virials;
    p.features = out.features;
    const size_t n_edges = static_cast<size_t>(in.offsets[in.n_local]);
    p.sender = sender_.reserve(n_edges + 1);
    p.edges = edges_.reserve(n_edges + 1);
    p.degree = degree_.reserve(in.n_local + 1);
    p.energies = energies_.reserve(in.n_local + 1);
    const Blocks blocks = partition(0, in.n_local, in.offsets);
    reserve_nodes(p, p.gradients, in.exchange != nullptr);
    reserve_rooms(p, blocks, in.n_structures, out.virials != nullptr);
    run(p, in, blocks);
    int status = 0;
    for (const Scratch<T>& s : scratch_) {
        status |= s.status;
    }
    if (status) {
        throw Error(HYDRAPOT_ERROR_STRUCTURE, sender_text(status));
    }
    if (in.check & 2) {
        check_full(p);
    }
    collect(p, in, out);
}

template class Workspace<float>;
template class Workspace<double>;

}  // namespace hydrapot
