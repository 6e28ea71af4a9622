// The C interface of include/hydrapot.h: checks arguments, turns exceptions into a status and a text.
#include <memory>
#include <atomic>
#include <limits>
#include <new>
#include <string>
#include <variant>

#include "../include/hydrapot.h"
#include "checkpoint.hpp"
#include "cpu.hpp"
#include "engine.hpp"
#include "guarded.hpp"

using namespace hydrapot;

namespace hydrapot {

std::string& last_error() {
    thread_local std::string text;
    return text;
}

}  // namespace hydrapot

struct hydrapot_source {
    std::shared_ptr<Source> source;
};

struct hydrapot_model {
    std::shared_ptr<const Source> source;
    std::variant<std::unique_ptr<Model<float>>, std::unique_ptr<Model<double>>> model;
    std::string instruction_set;
};

struct hydrapot_workspace {
    const hydrapot_model* model;
    std::atomic<bool> busy{false};
    std::variant<std::unique_ptr<Workspace<float>>, std::unique_ptr<Workspace<double>>> workspace;
};

namespace {

void check_input(const hydrapot_input& in, int layers) {
    if (in.n_local < 0 || in.n_total < in.n_local || in.n_structures < 0 || in.n_total > INT32_MAX) {
        refuse("the number of atoms or of structures makes no sense");
    }
    if ((in.n_total > 0 && !in.numbers) || !in.offsets || (in.n_structures > 0 && !in.head_weights)) {
        refuse("numbers, offsets or head_weights are missing");
    }
    if (in.n_total > 0 && in.n_structures < 1) {
        refuse("atoms without a structure");
    }
    if (in.offsets[0] != 0) {
        refuse("offsets do not start at 0");
    }
    for (int64_t i = 0; i < in.n_local; ++i) {
        if (in.offsets[i + 1] < in.offsets[i]) {
            refuse("offsets decrease");
        }
    }
    const bool edges = in.offsets[in.n_local] > 0;
    if (edges && !in.senders == !in.senders64) {
        refuse("give either senders or senders64");
    }
    if (edges && !in.vectors == !in.positions) {
        refuse("give either vectors or positions");
    }
    if (edges && in.shifts && !in.vectors && !in.cells) {
        refuse("shifts without cells");
    }
    if (in.structure_offsets) {
        if (in.structure_offsets[0] != 0 || in.structure_offsets[in.n_structures] != in.n_local) {
            refuse("structure_offsets do not cover the atoms");
        }
        for (int64_t g = 0; g < in.n_structures; ++g) {
            if (in.structure_offsets[g + 1] < in.structure_offsets[g]) {
                refuse("structure_offsets decrease");
            }
        }
    } else if (in.n_structures > 1) {
        refuse("several structures without structure_offsets");
    }
    if (in.n_total > in.n_local && in.n_structures != 1) {
        refuse("ghost atoms belong to a single structure");
    }
    if (in.n_total > in.n_local && !in.exchange && layers > 1) {
        refuse("ghost atoms need an exchange of features");
    }
}

}  // namespace

extern "C" {

int hydrapot_abi(void) { return HYDRAPOT_ABI; }

const char* hydrapot_last_error(void) { return last_error().c_str(); }

const char* hydrapot_instruction_sets(void) {
    static const std::string all = [] {
        std::string text;
        for (const std::string& set : instruction_sets()) {
            text += (text.empty() ? "" : " ") + set;
        }
        return text;
    }();
    return all.c_str();
}

int hydrapot_read(const char* path, hydrapot_source** source) {
    return guarded([&] {
        if (!path || !source) {
            refuse("a null pointer");
        }
        *source = nullptr;
        *source = new hydrapot_source{std::shared_ptr<Source>(read_checkpoint(path))};
    });
}

int hydrapot_source_create(const hydrapot_architecture* a, hydrapot_source** source) {
    return guarded([&] {
        if (!a || !source || a->size != sizeof(hydrapot_architecture)) {
            refuse("a null pointer, or structures of another version of the library");
        }
        *source = nullptr;
        Architecture architecture;
        architecture.channels = a->channels;
        architecture.layers = a->layers;
        architecture.n_radial = a->n_radial;
        architecture.head_hidden = a->head_hidden;
        architecture.charge_spin = a->charge_spin != 0;
        architecture.repulsion = a->repulsion != 0;
        architecture.cutoff = a->cutoff;
        architecture.neighbor_scale = a->neighbor_scale;
        *source = new hydrapot_source{std::make_shared<Source>(architecture)};
    });
}

int hydrapot_source_tensor(hydrapot_source* source, const char* name, const int64_t* shape, int32_t ndim, const double* data) {
    return guarded([&] {
        if (!source || !name || ndim < 0 || (ndim > 0 && !shape) || source->source.use_count() > 1) {
            refuse("a null pointer, or a source that a model was made from");
        }
        Tensor tensor;
        size_t count = 1;
        for (int k = 0; k < ndim; ++k) {
            if (shape[k] < 0 || shape[k] > (int64_t(1) << 32)) {
                refuse("a shape that makes no sense");
            }
            tensor.shape.push_back(shape[k]);
            count *= static_cast<size_t>(shape[k]);
        }
        if (count > 0 && !data) {
            refuse("a null pointer");
        }
        tensor.data.assign(data, data + count);
        source->source->tensors[name] = std::move(tensor);
    });
}

int hydrapot_source_head(hydrapot_source* source, const char* name, double scale, const double* references,
                         const uint8_t* known, const int32_t* charge_spin, int32_t n_charge_spin) {
    return guarded([&] {
        if (!source || !name || !references || !known || n_charge_spin < 0 || (n_charge_spin > 0 && !charge_spin) ||
            source->source.use_count() > 1) {
            refuse("a null pointer, or a source that a model was made from");
        }
        HeadSource head;
        head.name = name;
        head.scale = scale;
        for (int z = 0; z < n_numbers; ++z) {
            head.references[z] = references[z];
            head.known[z] = known[z] != 0;
        }
        for (int k = 0; k < n_charge_spin; ++k) {
            head.charge_spin.emplace_back(charge_spin[2 * k], charge_spin[2 * k + 1]);
        }
        for (const HeadSource& other : source->source->heads) {
            if (other.name == head.name) {
                refuse("two heads named '" + head.name + "'");
            }
        }
        source->source->heads.push_back(std::move(head));
    });
}

void hydrapot_source_destroy(hydrapot_source* source) { delete source; }

int hydrapot_model_create(const hydrapot_source* source, const hydrapot_options* options, hydrapot_model** model) {
    return guarded([&] {
        if (!source || !options || !model || options->size != sizeof(hydrapot_options)) {
            refuse("a null pointer, or structures of another version of the library");
        }
        *model = nullptr;
        if (options->precision != 32 && options->precision != 64) {
            refuse("precision must be 32 or 64 bits");
        }
        if (options->knots != 0 && (options->knots < 16 || options->knots > 1 << 16)) {
            refuse("knots must be 0 (exact) or from 16 to 65536");
        }
        const std::string set = options->instruction_set ? options->instruction_set : "";
        auto made = std::make_unique<hydrapot_model>();
        made->source = source->source;
        made->instruction_set = set.empty() ? instruction_sets().front() : set;
        if (options->precision == 32) {
            made->model = std::make_unique<Model<float>>(source->source, options->knots, set);
        } else {
            made->model = std::make_unique<Model<double>>(source->source, options->knots, set);
        }
        *model = made.release();
    });
}

void hydrapot_model_destroy(hydrapot_model* model) { delete model; }

int hydrapot_model_architecture(const hydrapot_model* model, hydrapot_architecture* out) {
    return guarded([&] {
        if (!model || !out || out->size != sizeof(hydrapot_architecture)) {
            refuse("a null pointer, or structures of another version of the library");
        }
        const Architecture& a = model->source->architecture;
        *out = {sizeof(hydrapot_architecture), a.channels, a.layers, a.n_radial, a.head_hidden, a.charge_spin,
                a.repulsion, a.cutoff, a.neighbor_scale};
    });
}

int32_t hydrapot_model_heads(const hydrapot_model* model) { return static_cast<int32_t>(model->source->heads.size()); }

const char* hydrapot_model_head_name(const hydrapot_model* model, int32_t head) {
    const auto& heads = model->source->heads;
    return head >= 0 && head < static_cast<int32_t>(heads.size()) ? heads[head].name.c_str() : nullptr;
}

int32_t hydrapot_model_head_index(const hydrapot_model* model, const char* name) {
    std::string all;
    const auto& heads = model->source->heads;
    for (size_t h = 0; h < heads.size(); ++h) {
        if (name && heads[h].name == name) {
            return static_cast<int32_t>(h);
        }
        all += (h ? ", " : "") + heads[h].name;
    }
    last_error() = "unknown head '" + std::string(name ? name : "") + "': this model has " + all;
    return -1;
}

double hydrapot_model_reference(const hydrapot_model* model, int32_t head, int32_t number) {
    const auto& heads = model->source->heads;
    if (head < 0 || head >= static_cast<int32_t>(heads.size()) || number < 1 || number >= n_numbers) {
        return std::numeric_limits<double>::quiet_NaN();
    }
    return heads[head].references[number];
}

const char* hydrapot_model_instruction_set(const hydrapot_model* model) { return model->instruction_set.c_str(); }

int hydrapot_workspace_create(const hydrapot_model* model, int32_t threads, hydrapot_workspace** workspace) {
    return guarded([&] {
        if (!model || !workspace) {
            refuse("a null pointer");
        }
        *workspace = nullptr;
        if (threads < 1 || threads > most_threads) {
            refuse("threads must be at least 1 (and at most 4096), not " + std::to_string(threads));
        }
        auto made = std::make_unique<hydrapot_workspace>();
        made->model = model;
        if (model->model.index() == 0) {
            made->workspace = std::make_unique<Workspace<float>>(*std::get<0>(model->model), threads);
        } else {
            made->workspace = std::make_unique<Workspace<double>>(*std::get<1>(model->model), threads);
        }
        *workspace = made.release();
    });
}

void hydrapot_workspace_destroy(hydrapot_workspace* workspace) { delete workspace; }

size_t hydrapot_workspace_bytes(const hydrapot_workspace* workspace) {
    return std::visit([](const auto& w) { return w->bytes(); }, workspace->workspace);
}

int hydrapot_evaluate(const hydrapot_model* model, hydrapot_workspace* workspace, const hydrapot_input* input,
                      const hydrapot_output* output) {
    return guarded([&] {
        if (!model || !workspace || !input || !output || input->size != sizeof(hydrapot_input) ||
            output->size != sizeof(hydrapot_output)) {
            refuse("a null pointer, or structures of another version of the library");
        }
        if (workspace->model != model) {
            refuse("the workspace belongs to another model");
        }
        check_input(*input, model->source->architecture.layers);
        if (workspace->busy.exchange(true)) {
            refuse("the workspace is in use by another thread: each needs its own");
        }
        struct Release {
            std::atomic<bool>& flag;
            ~Release() { flag = false; }
        } release{workspace->busy};
        std::visit([&](const auto& w) { w->evaluate(*input, *output); }, workspace->workspace);
    });
}

}  // extern "C"
