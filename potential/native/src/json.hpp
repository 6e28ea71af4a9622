// A small strict JSON parser (RFC 8259). Numbers keep their text, so that a document can be written again as it was.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace hydrapot {

class Json {
  public:
    enum class Type { null, boolean, number, string, array, object };

    // Throws Error (HYDRAPOT_ERROR_CHECKPOINT) with the place of the first mistake; duplicate keys are one.
    static Json parse(const std::string& text);

    Type type = Type::null;
    bool boolean = false;
    std::string text;  // of a number as written, or the string
    std::vector<Json> items;
    std::vector<std::pair<std::string, Json>> members;

    const Json* find(const std::string& key) const;
    // The member of an object; throws, naming `where`, if it is not there or of another type.
    const Json& get(const std::string& key, Type type, const std::string& where) const;
    double number() const;
    bool is_whole() const;
    long long whole(const std::string& where) const;

    // As Python's json.dumps(…, sort_keys=True, separators=(",", ":"), ensure_ascii=False) writes it, without the member
    // `skip` of the outermost object.
    std::string canonical(const std::string& skip) const;
};

// As json.dumps writes a string; with ascii = true, other characters as \uXXXX.
std::string json_string(const std::string& text, bool ascii);

}  // namespace hydrapot
