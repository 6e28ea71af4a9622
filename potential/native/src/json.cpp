#include "json.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <set>

#include "error.hpp"

namespace hydrapot {

namespace {

constexpr int deepest = 64;

void append_utf8(std::string& out, uint32_t c) {
    if (c < 0x80) {
        out += static_cast<char>(c);
    } else if (c < 0x800) {
        out += static_cast<char>(0xC0 | (c >> 6));
        out += static_cast<char>(0x80 | (c & 0x3F));
    } else if (c < 0x10000) {
        out += static_cast<char>(0xE0 | (c >> 12));
        out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
        out += static_cast<char>(0x80 | (c & 0x3F));
    } else {
        out += static_cast<char>(0xF0 | (c >> 18));
        out += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
        out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
        out += static_cast<char>(0x80 | (c & 0x3F));
    }
}

class Parser {
  public:
    explicit Parser(const std::string& text) : text_(text) {}

    Json document() {
        Json value = read(0);
        blanks();
        if (at_ != text_.size()) {
            fail("something after the end");
        }
        return value;
    }

  private:
    [[noreturn]] void fail(const std::string& what) const {
        throw Error(HYDRAPOT_ERROR_CHECKPOINT, "invalid JSON at byte " + std::to_string(at_) + ": " + what);
    }
    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
    void blanks() {
        while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) {
            ++at_;
        }
    }
    void expect(const char* word) {
        for (const char* c = word; *c; ++c, ++at_) {
            if (peek() != *c) {
                fail(std::string("expected ") + word);
            }
        }
    }
    Json read(int depth) {
        if (depth > deepest) {
            fail("nested too deeply");
        }
        blanks();
        Json value;
        switch (peek()) {
            case '{':
                value.type = Json::Type::object;
                object(value, depth);
                break;
            case '[':
                value.type = Json::Type::array;
                array(value, depth);
                break;
            case '"':
                value.type = Json::Type::string;
                value.text = string();
                break;
            case 't':
                expect("true");
                value.type = Json::Type::boolean;
                value.boolean = true;
                break;
            case 'f':
                expect("false");
                value.type = Json::Type::boolean;
                break;
            case 'n':
                expect("null");
                break;
            default:
                value.type = Json::Type::number;
                value.text = number();
        }
        return value;
    }
    void object(Json& value, int depth) {
        ++at_;
        blanks();
        std::set<std::string> keys;
        if (peek() == '}') {
            ++at_;
            return;
        }
        while (true) {
            blanks();
            if (peek() != '"') {
                fail("expected a key");
            }
            std::string key = string();
            if (!keys.insert(key).second) {
                fail("the key \"" + key + "\" occurs twice");
            }
            blanks();
            expect(":");
            value.members.emplace_back(std::move(key), read(depth + 1));
            blanks();
            if (peek() == '}') {
                ++at_;
                return;
            }
            expect(",");
        }
    }
    void array(Json& value, int depth) {
        ++at_;
        blanks();
        if (peek() == ']') {
            ++at_;
            return;
        }
        while (true) {
            value.items.push_back(read(depth + 1));
            blanks();
            if (peek() == ']') {
                ++at_;
                return;
            }
            expect(",");
        }
    }
    static bool digit(char c) { return c >= '0' && c <= '9'; }
    std::string number() {
        const size_t start = at_;
        if (peek() == '-') {
            ++at_;
        }
        if (!digit(peek())) {
            at_ = start;
            fail("expected a value");
        }
        if (peek() == '0') {
            ++at_;
        } else {
            digits();
        }
        if (peek() == '.') {
            ++at_;
            digits();
        }
        if (peek() == 'e' || peek() == 'E') {
            ++at_;
            if (peek() == '+' || peek() == '-') {
                ++at_;
            }
            digits();
        }
        return text_.substr(start, at_ - start);
    }
    void digits() {
        if (!digit(peek())) {
            fail("expected a digit");
        }
        while (digit(peek())) {
            ++at_;
        }
    }
    uint32_t hexadecimal() {
        uint32_t value = 0;
        for (int k = 0; k < 4; ++k, ++at_) {
            const char c = peek();
            const int d = digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
            if (d < 0) {
                fail("expected four hexadecimal digits");
            }
            value = 16 * value + static_cast<uint32_t>(d);
        }
        return value;
    }
    std::string string() {
        std::string out;
        ++at_;
        while (true) {
            if (at_ >= text_.size()) {
                fail("a string does not end");
            }
            const char c = text_[at_++];
            if (c == '"') {
                return out;
            }
            if (static_cast<unsigned char>(c) < 0x20) {
                fail("a control character in a string");
            }
            if (c != '\\') {
                out += c;
                continue;
            }
            const char e = peek();
            ++at_;
            switch (e) {
                case '"':
                case '\\':
                case '/':
                    out += e;
                    break;
                case 'b':
                    out += '\b';
                    break;
                case 'f':
                    out += '\f';
                    break;
                case 'n':
                    out += '\n';
                    break;
                case 'r':
                    out += '\r';
                    break;
                case 't':
                    out += '\t';
                    break;
                case 'u': {
                    uint32_t code = hexadecimal();
                    if (code >= 0xD800 && code < 0xDC00) {
                        expect("\\u");
                        const uint32_t low = hexadecimal();
                        if (low < 0xDC00 || low > 0xDFFF) {
                            fail("half of a surrogate pair");
                        }
                        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                    } else if (code >= 0xDC00 && code < 0xE000) {
                        fail("half of a surrogate pair");
                    }
                    append_utf8(out, code);
                    break;
                }
                default:
                    fail("unknown escape");
            }
        }
    }

    const std::string& text_;
    size_t at_ = 0;
};

void write(const Json& value, const std::string& skip, std::string& out) {
    switch (value.type) {
        case Json::Type::null:
            out += "null";
            break;
        case Json::Type::boolean:
            out += value.boolean ? "true" : "false";
            break;
        case Json::Type::number:
            out += value.text;
            break;
        case Json::Type::string:
            out += json_string(value.text, false);
            break;
        case Json::Type::array:
            out += '[';
            for (size_t k = 0; k < value.items.size(); ++k) {
                out += k ? "," : "";
                write(value.items[k], "", out);
            }
            out += ']';
            break;
        case Json::Type::object: {
            std::vector<const std::pair<std::string, Json>*> sorted;
            for (const auto& member : value.members) {
                if (skip.empty() || member.first != skip) {
                    sorted.push_back(&member);
                }
            }
            // Bytes of UTF-8 sort like code points, which is how Python sorts.
            std::sort(sorted.begin(), sorted.end(), [](const auto* a, const auto* b) { return a->first < b->first; });
            out += '{';
            for (size_t k = 0; k < sorted.size(); ++k) {
                out += (k ? "," : "") + json_string(sorted[k]->first, false) + ":";
                write(sorted[k]->second, "", out);
            }
            out += '}';
        }
    }
}

}  // namespace

Json Json::parse(const std::string& text) { return Parser(text).document(); }

const Json* Json::find(const std::string& key) const {
    for (const auto& member : members) {
        if (member.first == key) {
            return &member.second;
        }
    }
    return nullptr;
}

const Json& Json::get(const std::string& key, Type wanted, const std::string& where) const {
    const Json* value = type == Type::object ? find(key) : nullptr;
    if (!value || value->type != wanted) {
        throw Error(HYDRAPOT_ERROR_CHECKPOINT, "invalid document: " + where + key + (value ? " is of the wrong type" : " is missing"));
    }
    return *value;
}

double Json::number() const { return std::strtod(text.c_str(), nullptr); }

bool Json::is_whole() const {
    return type == Type::number && text.size() <= 18 && text.find_first_of(".eE") == std::string::npos;
}

long long Json::whole(const std::string& where) const {
    if (!is_whole()) {
        throw Error(HYDRAPOT_ERROR_CHECKPOINT, "invalid document: " + where + " is not a whole number");
    }
    return std::strtoll(text.c_str(), nullptr, 10);
}

std::string Json::canonical(const std::string& skip) const {
    std::string out;
    write(*this, skip, out);
    return out;
}

std::string json_string(const std::string& text, bool ascii) {
    static const char* hex = "0123456789abcdef";
    std::string out = "\"";
    const auto unicode = [&](uint32_t code) {
        out += "\\u";
        for (int shift = 12; shift >= 0; shift -= 4) {
            out += hex[(code >> shift) & 15];
        }
    };
    for (size_t k = 0; k < text.size(); ++k) {
        const unsigned char c = static_cast<unsigned char>(text[k]);
        switch (c) {
            case '"':
                out += "\\\"";
                break;
            case '\\':
                out += "\\\\";
                break;
            case '\n':
                out += "\\n";
                break;
            case '\r':
                out += "\\r";
                break;
            case '\t':
                out += "\\t";
                break;
            case '\b':
                out += "\\b";
                break;
            case '\f':
                out += "\\f";
                break;
            default:
                if (c < 0x20) {
                    unicode(c);
                } else if (c < 0x80 || !ascii) {
                    out += static_cast<char>(c);
                } else {
                    const int more = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : 1;
                    uint32_t code = c & (0x3F >> more);
                    for (int q = 0; q < more && k + 1 < text.size(); ++q) {
                        code = (code << 6) | (static_cast<unsigned char>(text[++k]) & 0x3F);
                    }
                    if (code >= 0x10000) {
                        code -= 0x10000;
                        unicode(0xD800 + (code >> 10));
                        unicode(0xDC00 + (code & 0x3FF));
                    } else {
                        unicode(code);
                    }
                }
        }
    }
    return out + "\"";
}

}  // namespace hydrapot
