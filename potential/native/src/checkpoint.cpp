#include "checkpoint.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#include "error.hpp"
#include "json.hpp"
#include "sha256.hpp"

namespace hydrapot {

namespace {

constexpr long long schema_version = 1;
constexpr uint64_t longest_header = uint64_t(100) << 20;  // as in the safetensors library
using Type = Json::Type;

[[noreturn]] void fail(const std::string& text) { throw Error(HYDRAPOT_ERROR_CHECKPOINT, text); }

std::vector<uint8_t> read_file(const std::string& path) {
    std::FILE* file = std::fopen(path.c_str(), "rb");
    if (!file) {
        fail("no such file, or it cannot be read");
    }
    std::vector<uint8_t> data;
    std::vector<uint8_t> part(size_t(1) << 20);
    size_t n = 0;
    while ((n = std::fread(part.data(), 1, part.size(), file)) > 0) {
        data.insert(data.end(), part.begin(), part.begin() + static_cast<std::ptrdiff_t>(n));
    }
    const bool failed = std::ferror(file) != 0;
    std::fclose(file);
    if (failed) {
        fail("cannot be read");
    }
    return data;
}

struct Entry {
    std::string name, dtype;
    std::vector<int64_t> shape;
    uint64_t begin = 0, end = 0;
    uint64_t count = 1;
};

std::vector<Entry> entries(const Json& header, uint64_t size) {
    std::vector<Entry> found;
    for (const auto& member : header.members) {
        if (member.first == "__metadata__") {
            continue;
        }
        Entry entry;
        entry.name = member.first;
        const std::string where = "tensor '" + member.first + "' ";
        entry.dtype = member.second.get("dtype", Type::string, where).text;
        for (const Json& length : member.second.get("shape", Type::array, where).items) {
            const long long n = length.whole(where);
            if (n < 0 || n > (1LL << 40) || (n > 0 && entry.count > (uint64_t(1) << 40) / static_cast<uint64_t>(n))) {
                fail("tensor '" + entry.name + "' has an absurd shape");
            }
            entry.shape.push_back(n);
            entry.count *= static_cast<uint64_t>(n);
        }
        const std::vector<Json>& offsets = member.second.get("data_offsets", Type::array, where).items;
        if (offsets.size() != 2 || offsets[0].whole(where) < 0 || offsets[1].whole(where) < offsets[0].whole(where)) {
            fail("tensor '" + entry.name + "' has no valid place in the file");
        }
        entry.begin = static_cast<uint64_t>(offsets[0].whole(where));
        entry.end = static_cast<uint64_t>(offsets[1].whole(where));
        const uint64_t item = entry.dtype == "F32" ? 4 : entry.dtype == "F64" ? 8 : 0;
        if (item == 0) {
            fail("tensor '" + entry.name + "' is " + entry.dtype + ", not F32 or F64");
        }
        if (entry.end > size || entry.end - entry.begin != item * entry.count) {
            fail("tensor '" + entry.name + "' does not fit its shape, or the file is truncated");
        }
        found.push_back(entry);
    }
    // Every byte belongs to exactly one tensor, as in the safetensors library.
    std::vector<const Entry*> sorted;
    for (const Entry& entry : found) {
        sorted.push_back(&entry);
    }
    std::sort(sorted.begin(), sorted.end(), [](const Entry* a, const Entry* b) {
        return a->begin != b->begin ? a->begin < b->begin : a->end < b->end;
    });
    uint64_t at = 0;
    for (const Entry* entry : sorted) {
        if (entry->begin != at) {
            fail("tensors overlap or leave gaps");
        }
        at = entry->end;
    }
    if (at != size) {
        fail("the file is truncated or has something after its tensors");
    }
    return found;
}

// The hash of potential/container.py.
void check_hash(const Json& document, std::vector<Entry> tensors, const uint8_t* data) {
    Sha256 digest;
    const std::string text = document.canonical("content_hash");
    digest.update(text.data(), text.size());
    std::sort(tensors.begin(), tensors.end(), [](const Entry& a, const Entry& b) { return a.name < b.name; });
    for (const Entry& entry : tensors) {
        std::string line = "[" + json_string(entry.name, true) + ", \"torch." +
                           (entry.dtype == "F32" ? "float32" : "float64") + "\", [";
        for (size_t k = 0; k < entry.shape.size(); ++k) {
            line += (k ? ", " : "") + std::to_string(entry.shape[k]);
        }
        line += "]]";
        digest.update(line.data(), line.size());
        digest.update(data + entry.begin, entry.end - entry.begin);
    }
    if (digest.hexadecimal() != document.get("content_hash", Type::string, "").text) {
        fail("altered since it was written (its content hash does not match); get the file again");
    }
}

Architecture architecture(const Json& document) {
    const Json& model = document.get("architecture", Type::object, "");
    const std::string where = "architecture.";
    const Json& encoder = model.get("encoder", Type::object, where);
    const std::string name = encoder.get("name", Type::string, where + "encoder.").text;
    if (name != "painn") {
        fail("the encoder '" + name + "' is not known to the native engine");
    }
    const auto whole = [](const Json& object, const char* key, const std::string& place) {
        const long long value = object.get(key, Type::number, place).whole(place + key);
        if (value < 1 || value > std::numeric_limits<int>::max()) {
            fail("invalid document: " + place + key + " is out of range");
        }
        return static_cast<int>(value);
    };
    Architecture a;
    a.channels = whole(encoder, "channels", where + "encoder.");
    a.layers = whole(encoder, "layers", where + "encoder.");
    a.n_radial = whole(encoder, "n_radial", where + "encoder.");
    a.neighbor_scale = encoder.get("neighbor_scale", Type::number, where + "encoder.").number();
    a.cutoff = model.get("cutoff", Type::number, where).number();
    a.head_hidden = whole(model, "head_hidden", where);
    a.charge_spin = model.get("charge_spin", Type::boolean, where).boolean;
    const std::string repulsion = model.get("repulsion", Type::string, where).text;
    if (repulsion != "zbl" && repulsion != "none") {
        fail("the repulsion '" + repulsion + "' is not known to the native engine");
    }
    a.repulsion = repulsion == "zbl";
    if (encoder.members.size() != 5 || model.members.size() != 5) {
        fail("invalid document: architecture has entries that the native engine does not know");
    }
    return a;
}

HeadSource head(const std::string& name, const Json& info, const Json& document) {
    HeadSource out;
    out.name = name;
    const std::string where = "heads." + name + ".";
    const Json& scales = document.get("scales", Type::object, "");
    out.scale = scales.get(name, Type::number, "scales.").number();
    out.references.fill(std::numeric_limits<double>::quiet_NaN());
    const Json& references = document.get("reference_energies", Type::object, "");
    const auto number = [](const std::string& symbol, const std::string& place) {
        const int z = atomic_number(symbol);
        if (z == 0) {
            fail("invalid document: " + place + "'" + symbol + "' is not an element");
        }
        return z;
    };
    for (const auto& member : references.get(name, Type::object, "reference_energies.").members) {
        if (member.second.type != Type::number) {
            fail("invalid document: reference_energies." + name + "." + member.first + " is not a number");
        }
        out.references[number(member.first, "reference_energies.")] = member.second.number();
    }
    if (const Json* counts = info.find("structures_per_element")) {
        for (const auto& member : counts->members) {
            out.known[number(member.first, where)] = member.second.whole(where + "structures_per_element") > 0;
        }
    }
    if (const Json* pairs = info.find("charge_spin")) {
        for (const Json& pair : pairs->items) {
            if (pair.items.size() != 2) {
                fail("invalid document: " + where + "charge_spin holds something that is not a pair");
            }
            const long long charge = pair.items[0].whole(where + "charge_spin");
            const long long spin = pair.items[1].type == Type::null ? 0 : pair.items[1].whole(where + "charge_spin");
            out.charge_spin.emplace_back(static_cast<int>(charge), static_cast<int>(spin));
        }
    }
    return out;
}

std::unique_ptr<Source> parse(const std::vector<uint8_t>& file) {
    if (file.size() < 8) {
        fail("not a safetensors file, or a truncated one; get the file again");
    }
    uint64_t length = 0;
    for (int k = 7; k >= 0; --k) {
        length = length << 8 | file[k];
    }
    if (length > longest_header || length > file.size() - 8) {
        fail("not a safetensors file, or a truncated one; get the file again");
    }
    const Json header = Json::parse(std::string(reinterpret_cast<const char*>(file.data()) + 8, length));
    if (header.type != Type::object) {
        fail("not a safetensors file: its header is no object");
    }
    const Json* metadata = header.find("__metadata__");
    const Json* text = metadata ? metadata->find("hydrapot") : nullptr;
    if (!text || text->type != Type::string) {
        fail("a safetensors file, but not a hydrapot checkpoint: its header has no 'hydrapot' document");
    }
    const uint8_t* data = file.data() + 8 + length;
    const std::vector<Entry> found = entries(header, file.size() - 8 - length);
    const Json document = Json::parse(text->text);
    check_hash(document, found, data);
    const long long version = document.get("schema_version", Type::number, "").whole("schema_version");
    if (version != schema_version) {
        fail("schema version " + std::to_string(version) + " cannot be read by this native engine, which reads version " +
             std::to_string(schema_version) + "; load the file with hydrapot in Python and save it again, or upgrade");
    }
    auto source = std::make_unique<Source>(architecture(document));
    for (const auto& member : document.get("heads", Type::object, "").members) {
        if (member.first.empty() || member.second.type != Type::object) {
            fail("invalid document: heads");
        }
        source->heads.push_back(head(member.first, member.second, document));
    }
    const std::string prefix = "network.";
    std::string dtype;
    for (const Entry& entry : found) {
        if (entry.name.compare(0, prefix.size(), prefix) != 0) {
            if (entry.name.compare(0, 11, "references.") != 0) {
                fail("unexpected tensor '" + entry.name + "'");
            }
            continue;
        }
        if (!dtype.empty() && dtype != entry.dtype) {
            fail("weights are of mixed precision");
        }
        dtype = entry.dtype;
        Tensor tensor;
        tensor.shape = entry.shape;
        tensor.data.resize(entry.count);
        for (uint64_t k = 0; k < entry.count; ++k) {
            if (entry.dtype == "F32") {
                float value;
                std::memcpy(&value, data + entry.begin + 4 * k, 4);
                tensor.data[k] = value;
            } else {
                std::memcpy(&tensor.data[k], data + entry.begin + 8 * k, 8);
            }
        }
        source->tensors[entry.name.substr(prefix.size())] = std::move(tensor);
    }
    source->check();
    return source;
}

}  // namespace

std::unique_ptr<Source> read_checkpoint(const std::string& path) {
    try {
        return parse(read_file(path));
    } catch (const Error& error) {
        throw Error(error.status(), path + ": " + error.what());
    }
}

}  // namespace hydrapot
